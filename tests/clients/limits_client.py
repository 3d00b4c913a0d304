"""Runs into a limit with grpcio, reads what the refusal says, and tests it.

    limits_client.py --target localhost:8443 --ca certs/ca.crt --token T --limit NAME --subject KIND

The limit named must let fewer than 100 calls through at once, and refill one
within half a second to ten. Each wait is as long as the refusal says, give or
take the tenth of a second that is promised.
"""

import argparse
import sys
import time

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

import protocol
from protocol import check
from stubs import load

pb, services = load("interop.proto")

DEADLINE = 20
PROMISED = 0.1
MARGIN = 0.05


class Cases:
    def __init__(self, channel, options):
        self.stub = services.InteropStub(channel)
        self.metadata = [("authorization", f"Bearer {options.token}")]
        self.options = options

    def call(self):
        """The error of a call, or None."""

        try:
            self.stub.EmptyCall(pb.Empty(), metadata=self.metadata, timeout=DEADLINE)
            return None
        except grpc.RpcError as error:
            return error

    def refusal(self):
        """The first refusal, with its details by type."""

        for _ in range(100):
            error = self.call()
            if error is not None:
                break
        check(error is not None, "100 calls were let through")
        check(error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED, error.code(), error.details())
        details = {}
        for packed in rpc_status.from_call(error).details:
            for kind in ("RetryInfo", "QuotaFailure", "ErrorInfo"):
                message = getattr(error_details_pb2, kind)()
                if packed.Unpack(message):
                    details[kind] = message
        return details

    def a_refusal_tells_the_limit_and_the_kind_of_caller(self):
        details = self.refusal()
        [violation] = details["QuotaFailure"].violations
        check(violation.subject == self.options.subject, violation)
        check(f'"{self.options.limit}"' in violation.description, violation)
        check(details["ErrorInfo"].reason == "RATE_LIMITED", details["ErrorInfo"])

    def a_call_passes_after_the_wait_and_not_before(self):
        for part in ("before", "after"):
            delay = self.refusal()["RetryInfo"].retry_delay
            wait = delay.seconds + delay.nanos / 1e9
            check(wait > 0, "a wait of", wait)
            if part == "before":
                time.sleep(max(0, wait - PROMISED - MARGIN))
                if wait > PROMISED + MARGIN:
                    check(self.call() is not None, "passed before", wait)
            else:
                time.sleep(wait + PROMISED)
                error = self.call()
                check(error is None, "refused after", wait, error)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("target", "ca", "token", "limit", "subject"):
        parser.add_argument(f"--{name}", required=True)
    options = parser.parse_args()
    credentials = grpc.ssl_channel_credentials(open(options.ca, "rb").read())
    with grpc.secure_channel(options.target, credentials) as channel:
        cases = Cases(channel, options)
        names = [name for name in dir(cases) if name.startswith("a_")]
        return protocol.run([(name, getattr(cases, name)) for name in names])


if __name__ == "__main__":
    sys.exit(main())
