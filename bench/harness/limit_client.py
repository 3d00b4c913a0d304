"""Calls without a pause until told to stop, and tells what became of each call.

Usage: limit_client.py MATERIAL CALLERS PORT. Says `ready`, waits for a line,
calls, and at the next line writes a JSON list of [when it ended, how long it
took, gRPC code]; times are seconds of the system's monotonic clock.
"""

import json
import os
import sys
import threading
import time

import grpc

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from harness.material import PREFIX, Material, message, read  # noqa: E402


def main():
    material, callers, port = Material(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    credentials = grpc.ssl_channel_credentials(read(material.ca))
    metadata = [("authorization", read(material.authorization_file).decode())]
    stop, calls = threading.Event(), []
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials) as channel:
        grpc.channel_ready_future(channel).result(20)
        print("ready", flush=True)
        sys.stdin.readline()
        method = channel.unary_unary("/bench.Bench/Unary")
        threads = [threading.Thread(target=loop, args=(method, metadata, stop, calls))
                   for _ in range(callers)]
        for thread in threads:
            thread.start()
        sys.stdin.readline()
        stop.set()
        for thread in threads:
            thread.join()
    print(json.dumps(calls))


def loop(method, metadata, stop, calls):
    body = message(128)[PREFIX:]
    while not stop.is_set():
        begin, code = time.monotonic(), 0
        try:
            method(body, metadata=metadata, timeout=20)
        except grpc.RpcError as error:
            code = error.code().value[0]
        end = time.monotonic()
        calls.append((end, end - begin, code))


main()
