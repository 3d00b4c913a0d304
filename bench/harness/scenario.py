"""What scenarios share: options, the build, the parts that they start.

Owns the processes: each gets free ports, a log in `bench/out/NAME`, and ends
with the scenario, however that ends. The gateway has core 0; everything else
shares core 1.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request

from .material import Material
from .peers import Ports, intellirouter
from .process import Process, free_ports, tail

BENCH = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ROOT = os.path.dirname(BENCH)
GATEWAY_CORE, OTHER_CORE = 0, 1
WAIT_SECONDS = 20


class Scenario:
    """One gateway before the benchmark's backend; for a `with`."""

    def __init__(self, name, options):
        self.profile = options.profile
        self.out = os.path.join(BENCH, "out", name)
        os.makedirs(self.out, exist_ok=True)
        # Its own and new: scenarios change and break what others only read.
        material = os.path.join(self.out, "material")
        shutil.rmtree(material, ignore_errors=True)
        self.material = Material.make(material)
        self.ports = Ports(*free_ports(3))
        self.config = os.path.join(self.out, "gateway.toml")
        self.running = []
        self.gateway = None
        if options.build:
            self._build()

    def __enter__(self):
        # SystemExit runs the `with` blocks, which end what was started.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
        return self

    def __exit__(self, *_):
        for started in reversed(self.running):
            started.stop()

    def binary(self, name):
        target = os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target"))
        folder = {"dev": "debug"}.get(self.profile, self.profile)
        return os.path.join(os.path.normpath(target), folder, name)

    def log(self, name):
        return os.path.join(self.out, name + ".log")

    def start(self, argv, core, name, port=None, stdin=subprocess.DEVNULL):
        open(self.log(name), "w").close()
        started = Process(argv, core, 0, self.log(name), stdin)
        self.running.append(started)
        if port:
            started.wait_for_port(port)
        return started

    def start_backend(self):
        material, port = self.material, self.ports.backend
        argv = [self.binary("bench-backend"), "--listen", f"127.0.0.1:{port}",
                "--cert", material.cert("backend"), "--key", material.key("backend"),
                "--client-ca", material.ca]
        self.start(argv, OTHER_CORE, "backend", port)

    def config_text(self, limits=""):
        """As the benchmark's, with the log's own account of what happens."""
        text = intellirouter.config_text(self.material, self.ports, limits)
        return text.replace('level = "warn"', 'level = "info"')

    def start_gateway(self, text):
        self.write_config(text)
        argv = [self.binary("intellirouter"), "gateway", "--config", self.config]
        self.gateway = self.start(argv, GATEWAY_CORE, "gateway", self.ports.gateway)

    def write_config(self, text):
        with open(self.config, "w") as file:
            file.write(text)

    def admin(self, path):
        """What an operator's page says."""
        url = f"http://127.0.0.1:{self.ports.admin}{path}"
        with urllib.request.urlopen(url, timeout=WAIT_SECONDS) as answer:
            return answer.read().decode()

    def metric(self, name):
        found = re.search(rf"^intellirouter_{re.escape(name)} (\S+)$", self.admin("/metrics"), re.M)
        return float(found.group(1)) if found else 0.0

    def wait(self, what, done):
        """Waits until `done` gives something; raises with `what` if it does not."""
        end = time.monotonic() + WAIT_SECONDS
        while not (found := done()):
            if not self.gateway.alive():
                raise RuntimeError(f"the gateway ended: {tail(self.log('gateway'))}")
            if time.monotonic() > end:
                raise RuntimeError(f"no {what} within {WAIT_SECONDS} s")
            time.sleep(0.01)
        return found

    def _build(self):
        cargo = ["cargo", "build", "--locked", "--profile", self.profile]
        for package, what in (("intellirouter-bench", ["--bins"]),
                              ("intellirouter-gateway", ["--bin", "intellirouter"])):
            subprocess.run([*cargo, "-p", package, *what], cwd=ROOT, check=True)


def arguments(description):
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--profile", default="release", help="of the binaries (release)")
    parser.add_argument("--no-build", dest="build", action="store_false",
                        help="take the binaries as they are")
    return parser


def in_tests_environment():
    """Goes on with the Python that `tests/setup` has made: it knows HTTP/2."""
    python = os.path.join(ROOT, "tests", ".venv", "bin", "python")
    if not os.path.exists(python):
        sys.exit("no HTTP/2 for Python here: run tests/setup")
    if os.path.realpath(sys.prefix) != os.path.realpath(os.path.dirname(os.path.dirname(python))):
        os.execv(python, [python, *sys.argv])


def conclude(faults):
    """Prints what was promised and not kept; ends with 1 if there is any."""
    for fault in faults:
        print("FAILED", fault)
    sys.exit(1 if faults else 0)
