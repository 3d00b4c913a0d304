"""Clients of open streams that see every byte, and how each stream ends.

HTTP/2 is done on frames, because libraries hide or refuse what comes after a
GOAWAY. Owns connections, the pace at which a client reads, and the facts of an
end; what an end is worth is judged in `endings.py`. A slow client takes
[`SLOW_BYTES`] every [`SLOW_SECONDS`] and keeps its buffers small. What is kept
of a stream is its last 64 KiB.
"""

import asyncio
import socket
import ssl
import time

import hpack
import hyperframe.frame as frames

SLOW_BYTES, SLOW_SECONDS = 1024, 0.1
KEPT_BYTES = 65536
WINDOW, SLOW_WINDOW = 1 << 20, 2048
CANCEL = 8
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Stream:
    """One request and what came back."""

    def __init__(self, kind, path, headers, body=b""):
        self.kind, self.path, self.headers, self.body = kind, path, headers, body
        self.status, self.fields, self.trailers = None, {}, None
        self.tail = b""
        # `end`: the peer's own end; `reset N`; `closed` without either.
        self.end, self.ended_at = None, None
        self.opened, self.over = asyncio.Event(), asyncio.Event()
        self.unacknowledged = 0

    def has_head(self, status, fields):
        self.status, self.fields = status, fields

    def has_data(self, data):
        self.tail = (self.tail + data)[-KEPT_BYTES:]
        # A stream is open when it has said something.
        self.opened.set()

    def ends(self, how):
        if self.end is None:
            self.end, self.ended_at = how, time.monotonic()
            self.opened.set()
            self.over.set()


class Http2:
    """A connection that carries many streams."""

    def __init__(self, slow=False):
        self.slow = slow
        self.streams, self.goaways = {}, []
        self.closed = None
        self.buffer = b""
        self.headers = b""
        self.encoder, self.decoder = hpack.Encoder(), hpack.Decoder()
        # What a response may have; ours are far smaller.
        self.decoder.max_header_list_size = 1 << 20

    async def connect(self, port, context):
        self.authority = f"localhost:{port}"
        self.reader, self.writer = await connect(port, context, "h2", False)
        settings = {frames.SettingsFrame.ENABLE_PUSH: 0,
                    frames.SettingsFrame.INITIAL_WINDOW_SIZE: SLOW_WINDOW if self.slow else WINDOW}
        self.writer.write(PREFACE)
        self.send(frames.SettingsFrame(0, settings=settings))
        # Streams have windows of their own; the connection holds up none.
        self.send(frames.WindowUpdateFrame(0, window_increment=(1 << 31) - 1 - 65535))
        self.tasks = [asyncio.create_task(self.read())]
        if self.slow:
            self.tasks.append(asyncio.create_task(self.acknowledge()))

    def send(self, frame):
        if not self.writer.transport.is_closing():
            self.writer.write(frame.serialize())

    def begin(self, stream):
        number = len(self.streams) * 2 + 1
        self.streams[number] = stream
        method = "POST" if stream.body else "GET"
        head = [(":method", method), (":scheme", "https"), (":authority", self.authority),
                (":path", stream.path), *stream.headers]
        block = self.encoder.encode(head)
        flags = ["END_HEADERS"] + ([] if stream.body else ["END_STREAM"])
        self.send(frames.HeadersFrame(number, block, flags=flags))
        if stream.body:
            self.send(frames.DataFrame(number, stream.body, flags=["END_STREAM"]))

    def cancel(self, stream):
        number = next(number for number, one in self.streams.items() if one is stream)
        self.send(frames.RstStreamFrame(number, error_code=CANCEL))

    def close(self):
        """At once, with all that is under way."""
        self.writer.transport.abort()

    async def read(self):
        try:
            while data := await self.reader.read(65536):
                self.buffer += data
                for frame in self.arrived():
                    self.take(frame)
            self.closed = "closed"
        except OSError as error:
            self.closed = type(error).__name__
        for stream in self.streams.values():
            stream.ends(self.closed)
        self.writer.close()

    def arrived(self):
        while len(self.buffer) >= 9:
            frame, length = frames.Frame.parse_frame_header(memoryview(self.buffer[:9]))
            if len(self.buffer) < 9 + length:
                return
            frame.parse_body(memoryview(self.buffer[9:9 + length]))
            self.buffer = self.buffer[9 + length:]
            yield frame

    def take(self, frame):
        flags = frame.flags
        if isinstance(frame, frames.SettingsFrame) and "ACK" not in flags:
            self.send(frames.SettingsFrame(0, flags=["ACK"]))
        elif isinstance(frame, frames.PingFrame) and "ACK" not in flags:
            self.send(frames.PingFrame(0, frame.opaque_data, flags=["ACK"]))
        elif isinstance(frame, frames.GoAwayFrame):
            self.goaways.append((frame.last_stream_id, frame.error_code))
        stream = self.streams.get(frame.stream_id)
        if stream is None:
            return
        if isinstance(frame, (frames.HeadersFrame, frames.ContinuationFrame)):
            self.headers += frame.data
            if "END_HEADERS" in flags:
                self.take_head(stream, dict(self.decoder.decode(self.headers)))
                self.headers = b""
        elif isinstance(frame, frames.DataFrame):
            stream.has_data(frame.data)
            stream.unacknowledged += frame.flow_controlled_length
            if not self.slow and "END_STREAM" not in flags:
                self.give(frame.stream_id, stream, WINDOW)
        elif isinstance(frame, frames.RstStreamFrame):
            stream.ends(f"reset {frame.error_code}")
        if "END_STREAM" in flags:
            stream.ends("end")

    def take_head(self, stream, fields):
        if stream.status is None:
            stream.has_head(fields.pop(":status"), fields)
        else:
            stream.trailers = fields

    def give(self, number, stream, most):
        credit = min(stream.unacknowledged, most)
        if credit and stream.end is None:
            stream.unacknowledged -= credit
            self.send(frames.WindowUpdateFrame(number, window_increment=credit))

    async def acknowledge(self):
        while self.closed is None:
            for number, stream in self.streams.items():
                self.give(number, stream, SLOW_BYTES)
            await asyncio.sleep(SLOW_SECONDS)


class Http1:
    """A connection for one stream."""

    def __init__(self, stream, slow=False):
        self.stream, self.slow = stream, slow
        self.goaways = []

    async def connect(self, port, context):
        self.reader, self.writer = await connect(port, context, "http/1.1", self.slow)
        stream = self.stream
        method = "POST" if stream.body else "GET"
        head = [f"{method} {stream.path} HTTP/1.1", f"host: localhost:{port}",
                *(f"{name}: {value}" for name, value in stream.headers)]
        if stream.body:
            head.append(f"content-length: {len(stream.body)}")
        self.writer.write("\r\n".join([*head, "", ""]).encode() + stream.body)
        self.tasks = [asyncio.create_task(self.read())]

    async def read(self):
        stream = self.stream
        try:
            lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            fields = (line.split(": ", 1) for line in lines[1:] if line)
            fields = {name.lower(): value for name, value in fields}
            stream.has_head(lines[0].split(" ")[1], fields)
            await self.read_body(stream.fields)
            stream.ends("end")
        except asyncio.IncompleteReadError:
            stream.ends("closed")
        except OSError as error:
            stream.ends(type(error).__name__)
        self.writer.close()

    def close(self):
        self.writer.transport.abort()

    async def read_body(self, fields):
        if fields.get("transfer-encoding") != "chunked":
            await self.read_bytes(int(fields.get("content-length", 0)))
            return
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            await self.read_bytes(size)
            await self.reader.readexactly(2)
        await self.reader.readexactly(2)

    async def read_bytes(self, size):
        while size:
            data = await self.reader.read(min(size, SLOW_BYTES if self.slow else size))
            if not data:
                raise asyncio.IncompleteReadError(b"", size)
            size -= len(data)
            self.stream.has_data(data)
            if self.slow:
                await asyncio.sleep(SLOW_SECONDS * len(data) / SLOW_BYTES)


async def connect(port, context, protocol, slow):
    plain = socket.socket()
    if slow:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    plain.setblocking(False)
    await asyncio.get_running_loop().sock_connect(plain, ("127.0.0.1", port))
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    reader, writer = await asyncio.open_connection(
        sock=plain, ssl=context[protocol], server_hostname="localhost",
        limit=4096 if slow else 65536)
    if slow:
        writer.transport.set_read_buffer_limits(high=4096)
    return reader, writer


def contexts(ca):
    """A TLS context per protocol: each client offers one, and must get it."""
    made = {}
    for protocol in ("h2", "http/1.1"):
        context = ssl.create_default_context(cafile=ca)
        context.set_alpn_protocols([protocol])
        made[protocol] = context
    return made
