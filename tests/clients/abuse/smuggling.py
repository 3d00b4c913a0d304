"""Requests over HTTP/1.1 that two readers could read in two ways.

    smuggling.py --port 8443 --ca certs/ca.crt --token T

Each hides a call to /foreign.Service/Smuggled behind or inside it. A case
fails when what is ambiguous gets more than one answer or a good one, or when
its connection goes on; whether the hidden call came through, the backend
knows. The output is that of clients/protocol.py.
"""

import argparse
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import wire  # noqa: E402
from protocol import check, run  # noqa: E402

CALL = wire.message()


class Case:
    """One connection: what is sent, and what comes back."""

    def __init__(self, options):
        self.options = options

    def head(self, path="/foreign.Service/Method", version="1.1", host="Host: localhost\r\n",
             method="POST"):
        return (f"{method} {path} HTTP/{version}\r\n{host}"
                "Content-Type: application/grpc-web+proto\r\n"
                f"Authorization: Bearer {self.options.token}\r\n").encode()

    def call(self, path):
        return self.head(path) + f"Content-Length: {len(CALL)}\r\n\r\n".encode() + CALL

    def hidden(self):
        return self.call("/foreign.Service/Smuggled")

    def talk(self, data):
        """The status of each answer, whether the connection was closed, and all that was said."""

        tls = wire.connect(self.options.port, self.options.ca, "http/1.1")
        tls.settimeout(self.options.seconds)
        answer = b""
        closed = True
        try:
            tls.sendall(data)
            while chunk := tls.recv(65536):
                answer += chunk
        except TimeoutError:
            closed = False
        except OSError:
            pass
        finally:
            tls.close()
        lines = answer.split(b"HTTP/1.1 ")[1:]
        return [int(line[:3]) for line in lines], closed, answer

    def once(self, data):
        """What is said by at most one answer, after which the connection is closed."""

        statuses, closed, answer = self.talk(data)
        check(closed and len(statuses) <= 1, "goes on:", statuses, closed)
        return statuses, answer

    def refused(self, data):
        statuses, _ = self.once(data)
        check(all(400 <= status < 600 for status in statuses), "is answered:", statuses)

    def alone(self, data):
        """May be answered, but nothing after it is."""

        self.once(data)

    def broken(self, data):
        """Is refused while its body comes: in gRPC-Web, with a status in the answer's body."""

        _, answer = self.once(data)
        check(b"grpc-status: 0" not in answer and b"grpc-status:0" not in answer, "is served")

    def fine(self, data, number):
        statuses, _, _ = self.talk(data)
        check(statuses == [200] * number, "is not answered:", statuses)


def cases(options):
    one = Case(options)
    hidden = one.hidden()
    ended = b"0\r\n\r\n" + hidden
    both = f"Content-Length: {len(ended)}\r\n".encode()

    def refused(name, data):
        return f"refused: {name}", lambda: one.refused(data)

    def field(line, body=ended):
        return one.head() + line + b"\r\n\r\n" + body

    def broken(name, body):
        return f"refused: {name}", lambda: one.broken(field(b"Transfer-Encoding: chunked", body))

    yield "two calls one after another", lambda: one.fine(
        one.call("/foreign.Service/Method") + one.call("/foreign.Service/Pipelined"), 2)
    yield "chunks with an extension", lambda: one.fine(
        field(b"Transfer-Encoding: chunked", b"5;a=b\r\n" + CALL + b"\r\n0\r\n\r\n"), 1)
    yield "a whole URL and another Host", lambda: one.fine(
        one.head("https://elsewhere/foreign.Service/Method") + b"Content-Length: 5\r\n\r\n" + CALL, 1)
    yield "an upgrade to HTTP/2 is not made", lambda: one.fine(
        one.head() + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\nContent-Length: 5\r\n\r\n" + CALL, 1)

    yield "both lengths", lambda: one.alone(one.head() + both + b"Transfer-Encoding: chunked\r\n\r\n" + ended)
    yield "both lengths, the other first", lambda: one.alone(
        one.head() + b"Transfer-Encoding: chunked\r\n" + both + b"\r\n" + ended)
    inside = f"{len(hidden):x}\r\n".encode() + hidden + b"\r\n0\r\n\r\n"
    yield "both lengths, hidden in a chunk", lambda: one.alone(
        one.head() + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n" + inside)

    for text in (b"xchunked", b"chunked, identity", b"identity, chunked", b"chunked, chunked",
                 b"identity", b"", b"\x0bchunked", b"chunked\x0b", b"\"chunked\"", b"chunked\x00",
                 b"chunked;q=1", b"chunked\r\nTransfer-Encoding: identity",
                 b"identity\r\nTransfer-Encoding: chunked", b"\r\n chunked", b"x\r\n\tchunked"):
        yield refused(f"Transfer-Encoding: {text!r}", field(both + b"Transfer-Encoding: " + text))
    for line in (b"Transfer-Encoding : chunked", b"Transfer-Encoding\t: chunked",
                 b" Transfer-Encoding: chunked", b"X: x\r\n Transfer-Encoding: chunked",
                 b"Transfer-Encoding\r\n: chunked", b"X: x\rTransfer-Encoding: chunked",
                 b"Transfer\x00-Encoding: chunked", b": chunked", b"chunked", b"X: \x00",
                 b"X\xff: y", b"X: a\r b", b"X: a\r\n b", b"(X): y"):
        yield refused(f"field {line!r}", field(both + line))
    for text in (b"5\r\nContent-Length: 0", b"+5", b"-1", b"0x5", b"5 5", b"5,5", b"5, 0", b"",
                 b"5a", b"\xef\xbc\x95", b"18446744073709551621", b"5\x0b"):
        yield refused(f"Content-Length: {text!r}", field(b"Content-Length: " + text, CALL + hidden))

    for line in ("POST  /foreign.Service/Method HTTP/1.1", "POST /foreign.Service/Method  HTTP/1.1",
                 "POST /foreign.Service/Method HTTP/1.1 x", "POST /foreign.Service/Method HTTP/1.2",
                 "POST /foreign.Service/Method HTTP/2.0", "POST /foreign.Service/Method http/1.1",
                 "POST /foreign.Service/Method", "POST /foreign.Service/Method\tHTTP/1.1",
                 "PO(ST /foreign.Service/Method HTTP/1.1", " POST /foreign.Service/Method HTTP/1.1",
                 "POST /foreign.Service/Method\0 HTTP/1.1"):
        rest = one.head().split(b"\r\n", 1)[1]
        yield refused(f"line {line!r}", line.encode() + b"\r\n" + rest + b"Content-Length: 5\r\n\r\n"
                      + CALL + hidden)
    yield refused("the preface of HTTP/2", wire.PREFACE + hidden)

    for size in (b"0x5\r\n", b"+5\r\n", b"-5\r\n", b" 5\r\n", b"g\r\n", b"\r\n", b"5\n", b"5\r",
                 b"10000000000000005\r\n", b"5;a\nb\r\n", b"5;a\rb\r\n"):
        yield broken(f"chunk size {size!r}", size + CALL + b"\r\n" + ended)
    yield broken("a chunk longer than it says", b"4\r\n" + CALL + b"\r\n" + ended)
    yield broken("chunks end without CR", b"5\r\n" + CALL + b"\n0\n\n" + hidden)

    yield refused("chunks over HTTP/1.0", one.head(version="1.0") + both
                  + b"Transfer-Encoding: chunked\r\n\r\n" + ended)
    for name, host in (("no Host", ""), ("two Hosts", "Host: localhost\r\nHost: elsewhere\r\n"),
                       ("the same Host twice", "Host: localhost\r\nHost: localhost\r\n")):
        yield refused(name, one.head(host=host) + b"Content-Length: 5\r\n\r\n" + CALL + hidden)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--ca", required=True)
    parser.add_argument("--token", required=True)
    parser.add_argument("--seconds", type=float, default=1, help="how long more is waited for (1)")
    return run(cases(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
