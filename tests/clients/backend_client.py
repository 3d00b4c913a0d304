"""A backend without the gateway in front: who gets in, and what every backend serves.

    backend_client.py --target localhost:50051 --service PACKAGE.SERVICE --method METHOD
        --ca FILE --cert FILE --key FILE --token NAME=TOKEN ...

The method must be one that the roles `service` and `user` may call, and nobody
without a role. Requests are empty messages.
"""

import argparse
import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

import protocol
from protocol import check

DEADLINE = 15
Code = grpc.StatusCode
# v1 has the messages of v1alpha.
REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"


class Cases:
    def __init__(self, options):
        self.options = options
        self.tokens = dict(text.split("=", 1) for text in options.token)

    def channel(self, certified=True):
        read = lambda path: open(path, "rb").read()
        pair = (read(self.options.key), read(self.options.cert)) if certified else (None, None)
        credentials = grpc.ssl_channel_credentials(read(self.options.ca), *pair)
        return grpc.secure_channel(self.options.target, credentials)

    def how(self, who):
        metadata = [("authorization", f"Bearer {self.tokens[who]}")] if who else []
        return {"metadata": metadata, "timeout": DEADLINE}

    def call(self, who, certified=True):
        """The code of a call as somebody; None when it reached the service."""

        with self.channel(certified) as channel:
            method = channel.unary_unary(f"/{self.options.service}/{self.options.method}")
            try:
                method(b"", **self.how(who))
            except grpc.RpcError as error:
                # The service itself may not like an empty request.
                return error.code() if error.code() != Code.INVALID_ARGUMENT else None

    def without_a_certificate_tls_refuses(self):
        code = self.call("service", certified=False)
        check(code == Code.UNAVAILABLE, code)

    def without_a_token_nobody_is_let_in(self):
        code = self.call(None)
        check(code == Code.UNAUTHENTICATED, code)

    def a_token_of_the_services_is_let_in(self):
        code = self.call("service")
        check(code is None, code)

    def a_token_without_a_role_may_call_nothing(self):
        code = self.call("nobody")
        check(code == Code.PERMISSION_DENIED, code)

    def health_is_told_without_a_token(self):
        with self.channel() as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            for service in ("", self.options.service):
                request = health_pb2.HealthCheckRequest(service=service)
                answer = stub.Check(request, timeout=DEADLINE)
                check(answer.status == health_pb2.HealthCheckResponse.SERVING, service, answer)

    def reflection_lists_the_services(self):
        with self.channel() as channel:
            method = channel.stream_stream(
                REFLECTION,
                reflection_pb2.ServerReflectionRequest.SerializeToString,
                reflection_pb2.ServerReflectionResponse.FromString,
            )
            ask = lambda: iter([reflection_pb2.ServerReflectionRequest(list_services="")])
            answer = next(method(ask(), **self.how("service")))
            names = [service.name for service in answer.list_services_response.service]
            check(self.options.service in names, names)
            try:
                answer = next(method(ask(), **self.how(None)))
            except grpc.RpcError as error:
                check(error.code() == Code.UNAUTHENTICATED, error)
                return
            raise AssertionError(f"a stranger is told {answer}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("target", "service", "method", "ca", "cert", "key"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--token", action="append", required=True, metavar="NAME=TOKEN")
    cases = Cases(parser.parse_args())
    names = [name for name in vars(Cases) if name[0] != "_" and name.count("_") >= 3]
    return protocol.run((name, getattr(cases, name)) for name in names)


if __name__ == "__main__":
    sys.exit(main())
