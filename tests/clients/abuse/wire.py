"""TLS, HTTP/2 frames and HPACK by hand: a client that breaks rules must not be
kept from it by a library that knows them.
"""

import select
import socket
import ssl
import struct
import time

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = 0, 1, 2, 3, 4
PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 6, 7, 8, 9
END_STREAM = ACK = 0x1
END_HEADERS = 0x4

INITIAL_WINDOW_SIZE = 4

ERRORS = {
    0: "NO_ERROR", 1: "PROTOCOL_ERROR", 2: "INTERNAL_ERROR", 3: "FLOW_CONTROL_ERROR",
    5: "STREAM_CLOSED", 6: "FRAME_SIZE_ERROR", 7: "REFUSED_STREAM", 8: "CANCEL",
    9: "COMPRESSION_ERROR", 11: "ENHANCE_YOUR_CALM",
}


def frame(kind, flags=0, stream=0, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def integer(value, prefix, first=0):
    most = (1 << prefix) - 1
    if value < most:
        return bytes([first | value])
    out = bytearray([first | most])
    value -= most
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def text(value):
    value = value.encode("latin-1") if isinstance(value, str) else value
    return integer(len(value), 7) + value


def literal(name, value):
    """A field that no table keeps."""

    return b"\0" + text(name) + text(value)


def kept(name, value):
    """A field that the table keeps."""

    return b"\x40" + text(name) + text(value)


def block(fields):
    return b"".join(literal(name, value) for name, value in fields)


def call(path, token=None, more=()):
    """The header block of a gRPC call."""

    fields = [(":method", "POST"), (":scheme", "https"), (":path", path),
              (":authority", "localhost"), ("content-type", "application/grpc"),
              ("te", "trailers")]
    if token:
        fields.append(("authorization", f"Bearer {token}"))
    return block([*fields, *more])


def message(data=b""):
    return b"\0" + struct.pack(">I", len(data)) + data


def dial(port, source=None, rcvbuf=None):
    """A TCP connection; `rcvbuf` is how much the kernel keeps unread."""

    tcp = socket.socket()
    if rcvbuf:
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
    if source:
        tcp.bind((source, 0))
    tcp.settimeout(10)
    tcp.connect(("127.0.0.1", port))
    tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return tcp


def connect(port, ca, alpn, source=None, rcvbuf=None):
    """A TLS connection."""

    tcp = dial(port, source, rcvbuf)
    context = ssl.create_default_context(cafile=ca)
    context.set_alpn_protocols([alpn])
    tls = context.wrap_socket(tcp, server_hostname="localhost")
    if tls.selected_alpn_protocol() != alpn:
        raise RuntimeError(f"the server does not speak {alpn}")
    return tls


class Closed(Exception):
    """The gateway has ended the connection; says how, as far as it told."""


class Connection:
    """An HTTP/2 connection that sends what it is told to.

    Reads while it writes unless `deaf`, so that no more than the attack itself
    holds up the gateway; keeps what it heard of streams that ended.
    """

    def __init__(self, port, ca, settings=(), deaf=False, source=None, rcvbuf=None):
        self.tls = connect(port, ca, "h2", source, rcvbuf)
        self.tls.setblocking(False)
        self.deaf = deaf
        self.buffer = b""
        self.goaway = None
        self.answered = 0
        self.resets = 0
        self.reset_codes = {}
        self.data_bytes = 0
        self.next_stream = 1
        payload = b"".join(struct.pack(">HI", key, value) for key, value in settings)
        self.send(PREFACE + frame(SETTINGS, payload=payload) + frame(SETTINGS, ACK))

    def stream(self):
        self.next_stream += 2
        return self.next_stream - 2

    def send(self, data, seconds=20):
        """Sends all of it; raises `Closed` when the gateway has closed."""

        end = time.monotonic() + seconds
        view = memoryview(data)
        while view:
            try:
                view = view[self.tls.send(view):]
            except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
                if time.monotonic() > end:
                    raise TimeoutError("the gateway took nothing") from None
                reading = [] if self.deaf else [self.tls]
                select.select(reading, [self.tls], [], 0.05)
            except OSError as error:
                self.read()
                raise Closed(self.goaway or type(error).__name__) from None
            if not self.deaf:
                self.read()

    def read(self):
        """Takes what is there."""

        while True:
            try:
                data = self.tls.recv(65536)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            except OSError as error:
                raise Closed(self.goaway or type(error).__name__) from None
            if not data:
                raise Closed(self.goaway or "closed")
            self.buffer += data
            self.parse()

    def parse(self):
        while len(self.buffer) >= 9:
            length = int.from_bytes(self.buffer[:3], "big")
            if len(self.buffer) < 9 + length:
                return
            kind, flags = self.buffer[3], self.buffer[4]
            payload = self.buffer[9:9 + length]
            self.buffer = self.buffer[9 + length:]
            if kind == GOAWAY:
                self.goaway = ERRORS.get(int.from_bytes(payload[4:8], "big"), "?")
            elif kind == RST_STREAM:
                self.resets += 1
                code = ERRORS.get(int.from_bytes(payload, "big"), "?")
                self.reset_codes[code] = self.reset_codes.get(code, 0) + 1
            elif kind in (DATA, HEADERS):
                self.data_bytes += length if kind == DATA else 0
                self.answered += flags & END_STREAM

    def wait(self, seconds, until=lambda: False):
        """Listens for so long, or until something is so."""

        end = time.monotonic() + seconds
        while not until():
            left = end - time.monotonic()
            if left <= 0:
                return
            # What TLS holds already does not wake select.
            if not self.tls.pending():
                select.select([self.tls], [], [], min(left, 0.05))
            self.read()

    def close(self):
        self.tls.close()
