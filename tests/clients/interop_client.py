"""The gRPC interop cases, with grpcio as the client.

    interop_client.py --target localhost:8443 --ca certs/ca.crt --token T [--case NAME ...]

Every call has a deadline of 20 s, so a call that hangs is a failed case.
"""

import argparse
import itertools
import queue
import sys

import grpc

import protocol
from protocol import await_begin, cancelled, check
from stubs import load

pb, services = load("interop.proto")

DEADLINE = 20
CHUNK_SIZES = [31415, 9, 2653, 58979]
REQUEST_SIZES = [27182, 8, 1828, 45904]
SPECIAL_MESSAGE = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n % and %41"
BINARY = bytes(range(256))


class Cases:
    def __init__(self, channel, token):
        self.channel = channel
        self.stub = services.InteropStub(channel)
        self.authorization = [("authorization", f"Bearer {token}")] if token else []
        self.calls = itertools.count(1)

    def new_call(self):
        return f"py-{next(self.calls)}"

    def with_(self, *pairs):
        return {"metadata": [*self.authorization, *pairs], "timeout": DEADLINE}

    def fails(self, code, method, request, **arguments):
        """The error of a call that must end with this code."""

        try:
            method(request, **arguments)
        except grpc.RpcError as error:
            check(error.code() == code, "expected", code, "got", error.code(), error.details())
            return error
        raise AssertionError(f"expected {code}, got an answer")

    def empty_unary(self):
        check(self.stub.EmptyCall(pb.Empty(), **self.with_()) == pb.Empty())

    def large_unary(self):
        request = pb.SimpleRequest(payload=bytes(271828), response_size=314159)
        answer = self.stub.UnaryCall(request, **self.with_())
        check(answer.payload == bytes(314159), len(answer.payload))

    def compressed_unary(self):
        request = pb.SimpleRequest(payload=bytes(271828), response_size=314159, compress=True)
        answer = self.stub.UnaryCall(
            request, compression=grpc.Compression.Gzip, **self.with_()
        )
        check(answer.payload == bytes(314159), len(answer.payload))

    def client_streaming(self):
        chunks = (pb.InputChunk(payload=bytes(size)) for size in REQUEST_SIZES)
        answer = self.stub.StreamingInputCall(chunks, **self.with_())
        check(answer.bytes == sum(REQUEST_SIZES), answer)
        check(answer.messages == len(REQUEST_SIZES), answer)

    def server_streaming(self):
        request = pb.OutputRequest(sizes=CHUNK_SIZES)
        answers = list(self.stub.StreamingOutputCall(request, **self.with_()))
        check([len(a.payload) for a in answers] == CHUNK_SIZES, len(answers))

    def ping_pong(self):
        requests = queue.Queue()
        call = self.stub.FullDuplexCall(iter(requests.get, None), **self.with_())
        for size, answer_size in zip(REQUEST_SIZES, CHUNK_SIZES):
            requests.put(pb.OutputRequest(sizes=[answer_size], payload=bytes(size)))
            check(len(next(call).payload) == answer_size)
        requests.put(None)
        check(next(call, None) is None, "a message after the last")

    def empty_stream(self):
        answers = list(self.stub.FullDuplexCall(iter(()), **self.with_()))
        check(answers == [], answers)

    def cancel_after_begin(self):
        requests = queue.Queue()
        call_id = self.new_call()
        call = self.stub.StreamingInputCall.future(
            iter(requests.get, None), **self.with_(("x-call-id", call_id))
        )
        await_begin(call_id)
        call.cancel()
        stopped = cancelled(call_id)
        requests.put(None)
        check(call.cancelled() and call.code() == grpc.StatusCode.CANCELLED, call.code())
        return stopped

    def cancel_after_first_response(self):
        requests = queue.Queue()
        call_id = self.new_call()
        call = self.stub.FullDuplexCall(
            iter(requests.get, None), **self.with_(("x-call-id", call_id))
        )
        requests.put(pb.OutputRequest(sizes=[31415], payload=bytes(27182)))
        check(len(next(call).payload) == 31415)
        call.cancel()
        stopped = cancelled(call_id)
        requests.put(None)
        check(call.code() == grpc.StatusCode.CANCELLED, call.code())
        return stopped

    def timeout_on_sleeping_server(self):
        arguments = {**self.with_(), "timeout": 0.3}
        self.fails(grpc.StatusCode.DEADLINE_EXCEEDED, self.stub.Sleep, pb.SleepRequest(), **arguments)

    def deadline_is_passed_on(self):
        arguments = {**self.with_(), "timeout": 7}
        left = self.stub.Inspect(pb.Empty(), **arguments).remaining_ms
        # gRPC rounds a deadline up on its way, hence the small allowance above.
        check(5000 < left <= 7500, "the service saw", left, "ms")

    def status_code_and_message(self):
        status = pb.EchoStatus(code=2, message="test status message")
        for method, request in (
            (self.stub.UnaryCall, pb.SimpleRequest(status=status)),
            (lambda r, **a: list(self.stub.FullDuplexCall(iter([r]), **a)), pb.OutputRequest(status=status)),
        ):
            error = self.fails(grpc.StatusCode.UNKNOWN, method, request, **self.with_())
            check(error.details() == "test status message", repr(error.details()))

    def special_status_message(self):
        request = pb.SimpleRequest(status=pb.EchoStatus(code=2, message=SPECIAL_MESSAGE))
        error = self.fails(grpc.StatusCode.UNKNOWN, self.stub.UnaryCall, request, **self.with_())
        check(error.details() == SPECIAL_MESSAGE, repr(error.details()))

    def long_status_message(self):
        message = "long ☺ " * 300
        request = pb.FailRequest(code=9, message=message)
        error = self.fails(grpc.StatusCode.FAILED_PRECONDITION, self.stub.Fail, request, **self.with_())
        check(error.details() == message, len(error.details()))

    def trailers_only_error_with_trailers(self):
        request = pb.FailRequest(
            code=5,
            message="not here",
            trailers=[
                pb.Header(name="x-reason", value=b"gone"),
                pb.Header(name="x-reason-bin", value=BINARY),
            ],
        )
        error = self.fails(grpc.StatusCode.NOT_FOUND, self.stub.Fail, request, **self.with_())
        trailers = dict(error.trailing_metadata())
        check(trailers.get("x-reason") == "gone", trailers)
        check(trailers.get("x-reason-bin") == BINARY, trailers)

    def error_after_messages(self):
        request = pb.FailRequest(code=15, message="half way", chunks=3)
        call = self.stub.FailLate(request, **self.with_())
        got = []
        error = self.fails(grpc.StatusCode.DATA_LOSS, got.extend, call)
        check(error.details() == "half way" and len(got) == 3, error.details(), len(got))

    def unimplemented_method(self):
        self.fails(grpc.StatusCode.UNIMPLEMENTED, self.stub.Unimplemented, pb.Empty(), **self.with_())

    def unimplemented_service(self):
        stub = services.MissingStub(self.channel)
        self.fails(grpc.StatusCode.UNIMPLEMENTED, stub.Call, pb.Empty(), **self.with_())

    def custom_metadata(self):
        pairs = [("x-echo-initial", "test_initial_metadata_value"), ("x-echo-trailing-bin", b"\xab\xab\xab")]
        self.echoed(pairs, self.stub.UnaryCall.with_call(pb.SimpleRequest(), **self.with_(*pairs))[1])
        requests = iter([pb.OutputRequest(sizes=[1])])
        call = self.stub.FullDuplexCall(requests, **self.with_(*pairs))
        check(len(list(call)) == 1)
        self.echoed(pairs, call)

    def custom_metadata_binary(self):
        pairs = [("x-echo-trailing-bin", BINARY), ("x-echo-trailing-bin", b"")]
        call = self.stub.UnaryCall.with_call(pb.SimpleRequest(), **self.with_(*pairs))[1]
        got = [v for k, v in call.trailing_metadata() if k == "x-echo-trailing-bin"]
        check(got == [BINARY, b""], got)

    def echoed(self, pairs, call):
        initial, trailing = dict(call.initial_metadata()), dict(call.trailing_metadata())
        check(initial.get(pairs[0][0]) == pairs[0][1], initial)
        check(trailing.get(pairs[1][0]) == pairs[1][1], trailing)

    def bidi_waits_for_headers(self):
        requests = queue.Queue()
        call = self.stub.HeadersFirst(iter(requests.get, None), **self.with_())
        # Nothing has been sent: this returns only if nobody holds the headers back.
        check(dict(call.initial_metadata()).get("x-headers") == "first")
        requests.put(pb.OutputRequest(sizes=[1]))
        check(len(next(call).payload) == 1)
        requests.put(None)
        check(next(call, None) is None)


def channel_to(options):
    read = lambda path: open(path, "rb").read() if path else None
    credentials = grpc.ssl_channel_credentials(read(options.ca), read(options.key), read(options.cert))
    return grpc.secure_channel(options.target, credentials)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", required=True)
    parser.add_argument("--ca", required=True)
    parser.add_argument("--cert", help="client certificate, for a service that wants one")
    parser.add_argument("--key")
    parser.add_argument("--token")
    parser.add_argument("--case", action="append", help="may be repeated; all cases by default")
    options = parser.parse_args()

    plumbing = {"new_call", "with_", "fails", "echoed"}
    known = [n for n in vars(Cases) if not n.startswith("__") and n not in plumbing]
    wanted = options.case or known
    if unknown := set(wanted) - set(known):
        parser.error(f"unknown case: {', '.join(sorted(unknown))}")
    with channel_to(options) as channel:
        cases = Cases(channel, options.token)
        return protocol.run((name, getattr(cases, name)) for name in wanted)


if __name__ == "__main__":
    sys.exit(main())
