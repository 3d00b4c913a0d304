"""The load: h2load for A to D, `hold.py` for E, `bench-connect` for F.

Owns how a load is made and judged. A run counts only if every call was
answered 2xx, and with exactly the bytes that it should have; anything else
raises. The number of calls is fixed before a run, from a warm-up.
"""

import json
import os
import re
import subprocess
import sys

from .material import read
from .process import pinned, tail

UNARY, STREAM = "/bench.Bench/Unary", "/bench.Bench/Stream"
RUN_SECONDS = 180


class H2load:
    """A closed loop of `connections` x `streams` calls."""

    def __init__(self, title, path, body, reply_bytes, connections, streams):
        self.title, self.path, self.body = title, path, body
        self.reply_bytes = reply_bytes
        self.connections, self.streams = connections, streams

    def measure(self, bench, peer, process, port):
        step = self.connections * self.streams
        warm = self.run(bench, port, 20 * step)
        again = self.run(bench, port, max(step, int(warm["rps"] * bench.seconds / 4)))
        calls = bench.requests or int(again["rps"] * bench.seconds)
        calls = max(step, calls // step * step)
        before = process.cpu_seconds()
        result = self.run(bench, port, calls)
        cpu = process.cpu_seconds() - before
        return {**result, "cpu_us": cpu / calls * 1e6, "rss_kib": process.rss_kib()}

    def run(self, bench, port, calls):
        log = os.path.join(bench.out, "h2load.tsv")
        if os.path.exists(log):
            os.remove(log)  # h2load appends.
        argv = ["h2load", "-n", calls, "-c", min(self.connections, calls), "-m", self.streams,
                "-d", getattr(bench.material, self.body), "--log-file", log,
                "-H", "content-type: application/grpc", "-H", "te: trailers",
                "-H", "authorization: " + read(bench.material.authorization_file).decode(),
                f"--connect-to=127.0.0.1:{port}", f"https://localhost:{port}{self.path}"]
        done = subprocess.run(pinned(map(str, argv), bench.load_core, bench.nice),
                              capture_output=True, text=True, timeout=RUN_SECONDS)
        if done.returncode != 0:
            raise RuntimeError(f"h2load: {(done.stderr + done.stdout)[-600:]}")
        self.judge(done.stdout, calls)
        latencies = sorted(int(line.split("\t")[2]) for line in open(log))
        if len(latencies) != calls:
            raise RuntimeError(f"h2load logged {len(latencies)} calls of {calls}")
        rps = number(r"finished in [^,]+, ([\d.]+) req/s", done.stdout, float)
        return {"calls": calls, "rps": rps, "p50_ms": quantile(latencies, 0.50) / 1e3,
                "p99_ms": quantile(latencies, 0.99) / 1e3}

    def judge(self, text, calls):
        good = number(r"(\d+) succeeded", text)
        status = number(r"status codes: (\d+) 2xx", text)
        data = number(r"space savings [^)]*\), [^ ]+ \((\d+)\) data", text)
        if good != calls or status != calls:
            raise RuntimeError(f"{good} of {calls} calls succeeded, {status} were 2xx")
        if data != calls * self.reply_bytes:
            raise RuntimeError(
                f"replies had {data / calls:.1f} bytes on average, not {self.reply_bytes}")


class Idle:
    """Memory per TLS connection that has said hello and then is silent."""

    title = "E: memory per idle TLS connection, 2,000 of them"
    connections = 2000

    def measure(self, bench, peer, process, port):
        # What is made once, on the first calls, is no price of a connection.
        WORKLOADS["B"].run(bench, port, 400)
        before = process.rss_kib()
        argv = [sys.executable, os.path.join(bench.here, "harness", "hold.py"),
                str(port), bench.material.ca, str(self.connections)]
        holder = subprocess.Popen(pinned(argv, bench.load_core, bench.nice),
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            line = holder.stdout.readline().strip()
            if line != f"open {self.connections}":
                raise RuntimeError(f"the connections did not open: {line or 'no word'}")
            after = process.rss_kib()
        finally:
            holder.stdin.close()
            holder.wait(60)
        return {"kib_per_connection": (after - before) / self.connections, "rss_kib": after}


class Connect:
    """A full handshake for every call."""

    title = "F: unary 128 B, a new connection per call, 8 callers"

    def measure(self, bench, peer, process, port):
        warm = self.run(bench, port, 400)
        calls = bench.requests or max(400, int(warm["rps"] * bench.seconds))
        before = process.cpu_seconds()
        result = self.run(bench, port, calls)
        cpu = process.cpu_seconds() - before
        return {**result, "cpu_us": cpu / calls * 1e6, "rss_kib": process.rss_kib()}

    def run(self, bench, port, calls):
        argv = [bench.binary("bench-connect"), "--to", f"127.0.0.1:{port}",
                "--ca", bench.material.ca, "--calls", str(calls),
                "--authorization-file", bench.material.authorization_file]
        done = subprocess.run(pinned(argv, bench.load_core, bench.nice),
                              capture_output=True, text=True, timeout=RUN_SECONDS)
        if done.returncode != 0:
            raise RuntimeError(f"bench-connect: {done.stderr[-600:]}")
        report = json.loads(done.stdout)
        if report["failed"]:
            raise RuntimeError(f"{report['failed']} of {calls} calls failed: {done.stderr[-300:]}")
        return {"calls": calls, "rps": calls / report["seconds"],
                "p50_ms": report["p50_us"] / 1e3, "p99_ms": report["p99_us"] / 1e3}


WORKLOADS = {
    "A": H2load("A: unary 128 B, 16 connections of 32 streams", UNARY, "small", 133, 16, 32),
    "B": H2load("B: unary 128 B, 4 connections of 1 stream", UNARY, "small", 133, 4, 1),
    "C": H2load("C: unary 64 KiB both ways, 4 connections of 4 streams",
                UNARY, "large", 65541, 4, 4),
    "D": H2load("D: server stream of 1,000 messages of 100 B, 4 connections of 4 streams",
                STREAM, "small", 105000, 4, 4),
    "E": Idle(),
    "F": Connect(),
}


def number(pattern, text, kind=int):
    found = re.search(pattern, text)
    if not found:
        raise RuntimeError(f"h2load's report has no '{pattern}': {text[-600:]}")
    return kind(found.group(1))


def quantile(ordered, q):
    return ordered[min(int(len(ordered) * q), len(ordered) - 1)]


def verify(bench, peer, port, log):
    """Real gRPC calls through the peer; raises with what was wrong."""
    python = os.path.join(bench.here, ".venv", "bin", "python")
    argv = [python, os.path.join(bench.here, "harness", "verify.py"), str(port),
            bench.material.directory, "token" if peer.checks_token else "open",
            "role" if peer.checks_role else "open"]
    with open(log, "ab") as file:
        done = subprocess.run(argv, stdout=file, stderr=file, timeout=RUN_SECONDS)
    if done.returncode != 0:
        raise RuntimeError(f"gRPC client: {tail(log)}")
