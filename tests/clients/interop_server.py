"""The foreign service: grpcio, mTLS, on a free port.

It writes one JSON object per line to stdout, which is the journal that tests
wait on: {"event": "ready", "port": N} once, then for each call "begin" and
either "end" or "cancelled", with the method, the value of `x-call-id` and the
time in milliseconds since the epoch.

Limits: 1,000 calls at once, messages up to 16 MiB. Fails with a traceback and
exit status 1 when a file can't be read or the port can't be bound.
"""

import argparse
import asyncio
import functools
import inspect
import json
import signal
import sys
import time

import grpc

from stubs import load

pb, services = load("interop.proto")

GZIP = grpc.Compression.Gzip
MAX_MESSAGE = 16 * 1024 * 1024


def journal(event, **fields):
    print(json.dumps({"event": event, "at": int(time.time() * 1000), **fields}), flush=True)


def metadata_of(context):
    return [(key, value) for key, value in context.invocation_metadata()]


def value_of(context, name):
    return next((value for key, value in metadata_of(context) if key == name), None)


def journaled(method):
    """Writes how a call began and how it ended, whatever kind of call it is."""

    name = method.__name__

    async def begin(context):
        call = value_of(context, "x-call-id")
        journal("begin", method=name, call=call)
        return call

    def ended(call, stopped):
        journal("cancelled" if stopped else "end", method=name, call=call)

    async def tell_cancel_from_end(requests):
        # A cancelled stream of requests first looks like one that ended;
        # grpcio cancels the handler a moment later.
        if hasattr(requests, "__aiter__"):
            await asyncio.sleep(0.02)

    if inspect.isasyncgenfunction(method):

        @functools.wraps(method)
        async def stream(self, request, context):
            call = await begin(context)
            stopped = True
            try:
                async for message in method(self, request, context):
                    yield message
                await tell_cancel_from_end(request)
                stopped = False
            except Exception:
                stopped = False
                raise
            finally:
                ended(call, stopped)

        return stream

    @functools.wraps(method)
    async def single(self, request, context):
        call = await begin(context)
        stopped = True
        try:
            answer = await method(self, request, context)
            await tell_cancel_from_end(request)
            stopped = False
            return answer
        except Exception:
            stopped = False
            raise
        finally:
            ended(call, stopped)

    return single


async def echo_metadata(context):
    """Sends back what the custom metadata cases ask for."""

    initial = value_of(context, "x-echo-initial")
    if initial is not None:
        await context.send_initial_metadata([("x-echo-initial", initial)])
    trailing = [
        (key, value) for key, value in metadata_of(context) if key == "x-echo-trailing-bin"
    ]
    if trailing:
        context.set_trailing_metadata(trailing)


async def end_with(context, status):
    """Ends the call with the status that the request asks for, if it does."""

    if status.code:
        code = next(c for c in grpc.StatusCode if c.value[0] == status.code)
        await context.abort(code, status.message)


async def chunks(request):
    for index, size in enumerate(request.sizes):
        if index and request.interval_ms:
            await asyncio.sleep(request.interval_ms / 1000)
        yield pb.OutputChunk(payload=bytes(size), index=index)


class Interop(services.InteropServicer):
    @journaled
    async def EmptyCall(self, request, context):
        await echo_metadata(context)
        return pb.Empty()

    @journaled
    async def UnaryCall(self, request, context):
        await echo_metadata(context)
        await end_with(context, request.status)
        if request.compress:
            context.set_compression(GZIP)
        return pb.SimpleResponse(payload=bytes(request.response_size))

    @journaled
    async def StreamingInputCall(self, requests, context):
        total = messages = 0
        async for request in requests:
            total += len(request.payload)
            messages += 1
        return pb.InputSummary(bytes=total, messages=messages)

    @journaled
    async def StreamingOutputCall(self, request, context):
        await echo_metadata(context)
        async for chunk in chunks(request):
            yield chunk
        await end_with(context, request.status)

    @journaled
    async def FullDuplexCall(self, requests, context):
        await echo_metadata(context)
        async for request in requests:
            await end_with(context, request.status)
            async for chunk in chunks(request):
                yield chunk

    @journaled
    async def HeadersFirst(self, requests, context):
        await context.send_initial_metadata([("x-headers", "first")])
        async for request in requests:
            async for chunk in chunks(request):
                yield chunk

    @journaled
    async def Inspect(self, request, context):
        left = context.time_remaining()
        names = context.auth_context().get("x509_common_name", [b""])
        return pb.Seen(
            metadata=[
                pb.Header(name=key, value=value if isinstance(value, bytes) else value.encode())
                for key, value in metadata_of(context)
            ],
            remaining_ms=int(left * 1000) if left is not None else 0,
            peer_name=names[0].decode(),
        )

    @journaled
    async def Sleep(self, request, context):
        if request.ms:
            await asyncio.sleep(request.ms / 1000)
        else:
            await asyncio.Event().wait()
        return pb.Empty()

    @journaled
    async def Fail(self, request, context):
        self.set_trailers(context, request)
        await end_with(context, request)

    @journaled
    async def FailLate(self, request, context):
        self.set_trailers(context, request)
        for index in range(request.chunks):
            yield pb.OutputChunk(index=index)
        await end_with(context, request)

    @journaled
    async def Restricted(self, request, context):
        return pb.Empty()

    @staticmethod
    def set_trailers(context, request):
        context.set_trailing_metadata(
            [
                (t.name, t.value if t.name.endswith("-bin") else t.value.decode())
                for t in request.trailers
            ]
        )


async def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--cert", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--ca", required=True, help="CA of the clients that may connect")
    options = parser.parse_args()

    read = lambda path: open(path, "rb").read()
    credentials = grpc.ssl_server_credentials(
        [(read(options.key), read(options.cert))],
        root_certificates=read(options.ca),
        require_client_auth=True,
    )
    server = grpc.aio.server(
        maximum_concurrent_rpcs=1000,
        options=[
            ("grpc.max_receive_message_length", MAX_MESSAGE),
            ("grpc.max_send_message_length", MAX_MESSAGE),
            ("grpc.so_reuseport", 0),
        ],
    )
    services.add_InteropServicer_to_server(Interop(), server)
    port = server.add_secure_port(f"127.0.0.1:{options.port}", credentials)
    await server.start()
    journal("ready", port=port)

    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await server.stop(grace=0)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
