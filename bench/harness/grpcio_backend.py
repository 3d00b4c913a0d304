"""`bench-faulty` as far as it fails by itself, on grpcio: its GOAWAY is not h2's.

Answers `Read`, `Write` and `Watch` with the same metadata, writes the same
journal, and ends at SIGTERM as a grpcio server has to: its health says NOT_SERVING
for `LEAD_SECONDS`, so that no more calls come; then no new calls, an end of what
is under way for up to 10 s, exit code 0. Without the lead gRPC's C core answers
CANCELLED to calls that it has taken in but not yet handed to a thread, and no
client can tell these from calls that were begun.
"""

import argparse
import signal
import threading
import time
from concurrent import futures

import grpc

GRACE_SECONDS = 10
# Two health checks of the scenarios, and as much again.
LEAD_SECONDS = 2
SERVING, NOT_SERVING = b"\x08\x01", b"\x08\x02"
THREADS = 128


class Bench(grpc.GenericRpcHandler):
    """The methods, on bytes."""

    def __init__(self, journal):
        self.journal, self.lock = journal, threading.Lock()
        self.health = SERVING

    def service(self, details):
        if details.method == "/grpc.health.v1.Health/Check":
            return grpc.unary_unary_rpc_method_handler(lambda *_: self.health)
        method = details.method.removeprefix("/bench.Bench/")
        if method in ("Read", "Write"):
            return grpc.unary_unary_rpc_method_handler(
                lambda message, context: self.unary(method, message, context))
        if method == "Watch":
            return grpc.unary_stream_rpc_method_handler(self.watch)
        return None

    def unary(self, method, message, context):
        fields = self.begin(method, context)
        time.sleep(int(fields.get("work-ms", 0)) / 1000)
        return message

    def watch(self, message, context):
        fields = self.begin("Watch", context)
        time.sleep(int(fields.get("first-ms", 0)) / 1000)
        pause = int(fields.get("pause-ms", 100)) / 1000
        end = time.monotonic() + int(fields["hold-ms"]) / 1000
        while time.monotonic() < end and context.is_active():
            yield message
            time.sleep(pause)

    def begin(self, method, context):
        fields = dict(context.invocation_metadata())
        id = fields.get("x-id", "none")
        self.write("begin", method, id)
        over = lambda: self.write(  # noqa: E731
            "end" if context.code() in (None, grpc.StatusCode.OK) else "cancelled", method, id)
        context.add_callback(over)
        return fields

    def write(self, *words):
        with self.lock:
            self.journal.write(("\t".join([str(time.monotonic_ns()), *words]) + "\n").encode())


def main():
    parser = argparse.ArgumentParser()
    for name in ("listen", "cert", "key", "client-ca", "journal"):
        parser.add_argument("--" + name, required=True)
    options = parser.parse_args()
    key, cert, ca = (open(path, "rb").read()
                     for path in (options.key, options.cert, options.client_ca))
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    with open(options.journal, "ab", buffering=0) as journal:
        server = grpc.server(futures.ThreadPoolExecutor(THREADS))
        bench = Bench(journal)
        server.add_generic_rpc_handlers([bench])
        server.add_secure_port(options.listen, grpc.ssl_server_credentials(
            [(key, cert)], root_certificates=ca, require_client_auth=True))
        server.start()
        stopping.wait()
        bench.health = NOT_SERVING
        time.sleep(LEAD_SECONDS)
        server.stop(GRACE_SECONDS).wait()


main()
