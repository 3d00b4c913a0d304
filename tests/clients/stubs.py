"""Loads a .proto file at run time, so that no generated code has to be kept.

`load("interop.proto")` gives (messages, services). Search path: the folder of
this suite's own files and the folder of the product's published files.
"""

import pathlib
import sys

import grpc

_TESTS = pathlib.Path(__file__).resolve().parent.parent
for folder in (_TESTS / "proto", _TESTS.parent / "proto"):
    # grpcio resolves .proto files on sys.path, as Python resolves modules.
    sys.path.insert(0, str(folder))


def load(name):
    return grpc.protos_and_services(name)
