"""A real gRPC client (grpcio) calls through a peer and checks what it gets.

Usage: verify.py PORT MATERIAL token|open role|open. Exits 1 and names each
call that went wrong. `token` and `role` say that the peer must refuse calls
without them; `open` that it must not, so that the table stays honest.
"""

import os
import sys

import grpc

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from harness.material import PREFIX, ROLE, Material, message, read  # noqa: E402

OK = grpc.StatusCode.OK
UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED
DENIED = grpc.StatusCode.PERMISSION_DENIED


def main():
    port, directory = sys.argv[1:3]
    token, role = sys.argv[3] == "token", sys.argv[4] == "role"
    material = Material(directory)
    credentials = grpc.ssl_channel_credentials(read(material.ca))
    faults = []
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials) as channel:
        for name, call, bearer, expected in cases(material, token, role):
            found = call(channel, bearer)
            if found != expected:
                faults.append(f"{name}: {found}, not {expected}")
    print("\n".join(faults) or "all calls as expected")
    sys.exit(1 if faults else 0)


def cases(material, token, role):
    good = material.sign([ROLE])
    refused = (UNAUTHENTICATED, []) if token else (OK, [128])
    denied = (DENIED, []) if role else (OK, [128])
    forged = material.sign([ROLE], secret=b"0" * 64)
    expired = material.sign([ROLE], lifetime=-3600)
    return [
        ("unary 128 B", unary(128), good, (OK, [128])),
        ("unary 64 KiB", unary(65536), good, (OK, [65536])),
        ("server stream", stream, good, (OK, [100] * 1000)),
        ("without a token", unary(128), None, refused),
        ("wrongly signed token", unary(128), forged, refused),
        ("expired token", unary(128), expired, refused),
        ("without the role", unary(128), material.sign(["guest"]), denied),
    ]


def unary(size):
    def call(channel, bearer):
        method = channel.unary_unary("/bench.Bench/Unary")
        return outcome(lambda: [len(method(message(size)[PREFIX:], **options(bearer)))])
    return call


def stream(channel, bearer):
    method = channel.unary_stream("/bench.Bench/Stream")
    return outcome(lambda: [len(m) for m in method(message(128)[PREFIX:], **options(bearer))])


def options(bearer):
    metadata = [("authorization", "Bearer " + bearer)] if bearer else []
    return {"metadata": metadata, "timeout": 20}


def outcome(call):
    try:
        return OK, call()
    except grpc.RpcError as error:
        return error.code(), []


main()
