"""Backends that fail as they are told, behind one gateway, and load on them.

Owns their processes and journals, the gateway's settings for them, and what its
page `/upstreams` says meanwhile. A scenario judges.
"""

import collections
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

from .descriptors import descriptor_set
from .journal import Journal, called, served
from .load import quantile
from .process import lasting_ports
from .scenario import OTHER_CORE, Scenario

MS = 10**6
BACKENDS = 3
POLL_SECONDS = 0.025

HEALTH_INTERVAL_MS = 500
TRY_TIMEOUT_MS = 250
BUDGET_RATIO, BUDGET_PER_SECOND = 0.5, 10
PROBES = 1
# How long each call takes, and how long the gateway remembers that one took longer.
WORK_MS, MEMORY_MS = 50, 2000

HEALTH = f"""\
[upstreams.health]
interval = "{HEALTH_INTERVAL_MS}ms"
timeout = "250ms"
"""
BREAKER = f"""\
[upstreams.breaker]
window = "2s"
open_min = "500ms"
open_max = "2s"
probes = {PROBES}
[upstreams.ejection]
duration = "1s"
"""


def retries(ratio=BUDGET_RATIO, per_second=BUDGET_PER_SECOND):
    return f"""\
[upstreams.retries]
budget_ratio = {ratio}
budget_per_second = {per_second}
try_timeout = "{TRY_TIMEOUT_MS}ms"
"""


class Faulty(Scenario):
    """One gateway before several backends; for a `with`."""

    def __init__(self, name, options, settings):
        super().__init__(name, options)
        self.settings = settings
        # In memory where that can be: nobody must wait for a busy disk.
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.journals = tempfile.mkdtemp(prefix="bench-", dir=memory)
        self.backends = [Backend(self, number, port)
                         for number, port in enumerate(lasting_ports(BACKENDS))]
        self.descriptors = os.path.join(self.out, "bench.binpb")
        with open(self.descriptors, "wb") as file:
            file.write(descriptor_set())

    def __exit__(self, *args):
        super().__exit__(*args)
        for name in os.listdir(self.journals):
            shutil.copy(os.path.join(self.journals, name), self.out)
        shutil.rmtree(self.journals)

    def journal(self, name):
        return Journal(os.path.join(self.journals, name + ".journal"))

    def start_all(self):
        for backend in self.backends:
            backend.start()
        self.start_gateway(self.config_text())

    def restart_gateway(self, settings):
        self.gateway.stop()
        self.settings = settings
        self.start_gateway(self.config_text())

    def config_text(self):
        text = super().config_text()
        urls = ", ".join(f'"{backend.url}"' for backend in self.backends)
        for old, new in (
                (f'"https://127.0.0.1:{self.ports.backend}"', urls),
                # What is decided for the process must hold over several.
                ("count = 1", "count = 2"),
                ("[[routes]]", self.settings + "[[routes]]")):
            if text.count(old) != 1:
                raise RuntimeError(f"the config has {text.count(old)} times {old!r}")
            text = text.replace(old, new)
        return text + f'[descriptors]\nfiles = ["{self.descriptors}"]\n'

    def load(self, rates, **options):
        return Load(self, rates, **options)

    def served(self):
        """What each backend saw."""
        return [served(backend.journal) for backend in self.backends]


class Backend:
    """One backend over all its processes."""

    def __init__(self, run, number, port):
        self.run, self.port = run, port
        self.name = f"backend-{number}"
        self.url = f"https://127.0.0.1:{port}"
        self.journal = run.journal(self.name)
        self.kind, self.process = "bench-faulty", None

    def start(self):
        material = self.run.material
        program = {
            "bench-faulty": [self.run.binary("bench-faulty")],
            "grpcio": [sys.executable, os.path.join(os.path.dirname(__file__), "grpcio_backend.py")],
        }[self.kind]
        argv = [*program, "--listen", f"127.0.0.1:{self.port}",
                "--cert", material.cert("backend"), "--key", material.key("backend"),
                "--client-ca", material.ca, "--journal", self.journal.path]
        self.process = self.run.start(argv, OTHER_CORE, self.name, self.port, subprocess.PIPE)
        return time.monotonic_ns()

    def tell(self, fault):
        """Gives when the backend took it up."""
        before = time.monotonic_ns()
        self.process.tell(fault)
        return self.run.wait(f"fault {fault}", lambda: next(
            (at for at, *words in reversed(self.journal.read())
             if words == ["fault", fault] and at >= before), None))

    def send(self, number):
        at = time.monotonic_ns()
        self.process.popen.send_signal(number)
        return at

    def kill(self):
        at = self.send(signal.SIGKILL)
        self.process.popen.wait()
        return at


class Load:
    """`bench-load`: an open loop of calls, `rates` per second by method."""

    def __init__(self, run, rates, name="load", timeout_ms=3000, headers=()):
        self.run, self.name = run, name
        self.journal = run.journal(name)
        self.argv = [run.binary("bench-load"), "--to", f"127.0.0.1:{run.ports.gateway}",
                     "--ca", run.material.ca,
                     "--authorization-file", run.material.authorization_file,
                     "--journal", self.journal.path, "--timeout-ms", str(timeout_ms)]
        for method, rate in rates.items():
            self.argv += ["--load", f"{method}={rate}"]
        for header in headers:
            self.argv += ["--header", header]
        self.longest = timeout_ms / 1000 + 5

    def __enter__(self):
        self.process = self.run.start(self.argv, OTHER_CORE, self.name, stdin=subprocess.PIPE)
        self.run.wait("load", lambda: "ready" in self.told() or not self.process.alive())
        if not self.process.alive():
            raise RuntimeError(f"the load ended: {self.told()}")
        return self

    def __exit__(self, *_):
        self.stop()

    def told(self):
        with open(self.run.log(self.name)) as file:
            return file.read()

    def stop(self):
        """No more calls; ready when all that are under way have ended."""
        if self.process.alive():
            self.process.popen.stdin.close()
            self.process.popen.wait(self.longest)
        if self.process.popen.returncode != 0:
            raise RuntimeError(f"the load failed: {self.told()}")

    def calls(self):
        return called(self.journal)


def print_lateness(calls):
    """How far the load was behind itself: what of all times is the machine's."""
    late = sorted((call.made - call.due) / MS for call in calls)
    print(f"\nthe load was late by {quantile(late, 0.5):.1f} ms (p50), "
          f"{quantile(late, 0.99):.1f} ms (p99), {late[-1]:.0f} ms (most)")


# What `/upstreams` said of one endpoint, between two moments: the breaker's
# state, whether its checks let it have calls, and how long nobody will try it at
# most. With a probe under way (`half_open`) nobody knows.
Look = collections.namedtuple("Look", "asked answered breaker up wait_ms")


class Watch:
    """Reads `/upstreams` all the time; for a `with`."""

    def __init__(self, run):
        self.scenario = run
        self.looks = {backend.url: [] for backend in run.backends}
        self.over, self.error = threading.Event(), None
        self.thread = threading.Thread(target=self.follow, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()

    def follow(self):
        try:
            while not self.over.wait(POLL_SECONDS):
                asked = time.monotonic_ns()
                page = json.loads(self.scenario.admin("/upstreams"))
                answered = time.monotonic_ns()
                for endpoint in page[0]["endpoints"]:
                    look = look_at(endpoint, asked, answered)
                    self.looks[endpoint["endpoint"]].append(look)
        except (OSError, ValueError, KeyError) as error:
            self.error = error

    def of(self, backend, since=0):
        if self.error:
            raise RuntimeError(f"/upstreams: {self.error!r}")
        return [look for look in self.looks[backend.url] if look.asked >= since]


def look_at(endpoint, asked, answered):
    """Raises where the page lacks something: then nobody has stated a bound."""
    breaker, latency_ms = endpoint["breaker"], endpoint["expected_latency_ms"]
    waits = [breaker["next_probe_in_ms"], endpoint["ejected_for_ms"]]
    connect_ms = endpoint["next_connect_in_ms"]
    if breaker["state"] == "closed":
        # A probe waits for neither.
        waits += [connect_ms, fading_ms(latency_ms or 0)]
    up = {"unknown": True, "healthy": True, "unhealthy": False}[endpoint["health"]["state"]]
    return Look(asked, answered, breaker["state"], up,
                max((wait for wait in waits if wait), default=0))


def fading_ms(latency_ms):
    """Until it is preferred again: what is known of a slow one shrinks to a
    third in 2 s. Sooner, if the others have more calls in flight."""
    return MEMORY_MS * math.log(max(1, latency_ms / WORK_MS))
