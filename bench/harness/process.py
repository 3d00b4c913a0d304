"""Processes pinned to a core, and what they cost.

Owns starting, waiting for the port, CPU and memory figures, and the end of
every process that was started. CPU is the kernel's own clock of the process: user and system
time of all its threads, dead ones too, in nanoseconds.
"""

import os
import random
import re
import socket
import subprocess
import time

START_SECONDS = 20
STOP_SECONDS = 5


class Process:
    """One started program with its children."""

    def __init__(self, argv, core, nice, log, stdin=subprocess.DEVNULL):
        self.log = log
        with open(log, "ab") as file:
            self.popen = subprocess.Popen(
                pinned(argv, core, nice), stdin=stdin, stdout=file, stderr=file)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def wait_for_port(self, port):
        end = time.monotonic() + START_SECONDS
        while True:
            if not self.alive():
                raise RuntimeError(f"ended with {self.popen.returncode}: {tail(self.log)}")
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return
            except OSError:
                if time.monotonic() > end:
                    raise RuntimeError(
                        f"no answer on port {port} after {START_SECONDS} s: {tail(self.log)}")
                time.sleep(0.05)

    def tell(self, line):
        """A line on its stdin, which must be a pipe."""
        self.popen.stdin.write(line.encode() + b"\n")
        self.popen.stdin.flush()

    def alive(self):
        return self.popen.poll() is None

    def pids(self):
        found, todo = [], [self.popen.pid]
        while todo:
            pid = todo.pop()
            found.append(pid)
            todo += children(pid)
        return found

    def cpu_seconds(self):
        # CPUCLOCK_SCHED of another process, as clock_getcpuclockid(3) makes it.
        return sum(time.clock_gettime_ns((~pid << 3) | 2) for pid in self.pids()) / 1e9

    def rss_kib(self):
        total = 0
        for pid in self.pids():
            with open(f"/proc/{pid}/status") as status:
                total += int(re.search(r"VmRSS:\s+(\d+) kB", status.read()).group(1))
        return total

    def stop(self):
        if not self.alive():
            return
        self.popen.terminate()
        try:
            self.popen.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            for pid in reversed(self.pids()):
                os.kill(pid, 9)
            self.popen.wait()


def children(pid):
    found = []
    for thread in os.listdir(f"/proc/{pid}/task"):
        try:
            with open(f"/proc/{pid}/task/{thread}/children") as file:
                found += map(int, file.read().split())
        except FileNotFoundError:
            pass  # The thread ended meanwhile.
    return found


def pinned(argv, core, nice):
    prefix = ["taskset", "-c", str(core)]
    if nice:
        prefix += ["nice", "-n", str(nice)]
    return prefix + list(argv)


def free_ports(count):
    """Ports that are free now; held together so that none comes twice."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def lasting_ports(count):
    """Ports that nobody is given by chance while their owner is away: Linux
    gives out those from 32768 on."""
    chosen, sockets = [], []
    try:
        for port in random.sample(range(20000, 30000), 1000):
            one = socket.socket()
            sockets.append(one)
            try:
                one.bind(("127.0.0.1", port))
            except OSError:
                continue
            chosen.append(port)
            if len(chosen) == count:
                return chosen
    finally:
        for one in sockets:
            one.close()
    raise RuntimeError(f"no {count} free ports between 20000 and 30000")


def tail(path, size=600):
    with open(path, errors="replace") as file:
        return file.read()[-size:].strip()
