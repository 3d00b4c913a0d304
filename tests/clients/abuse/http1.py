"""One attack on HTTP/1.1, against a gateway.

    http1.py slow_body --port 8443 --ca certs/ca.crt --token T --path /a.B/C

Attacks on `--connections` at once until the gateway has closed them all or the
time is over. Writes one JSON object: "ended" counts how they ended ("closed",
or "open" when the time was over), "statuses" the answers.
"""

import argparse
import json
import select
import ssl
import sys
import time

import wire


class Attacker:
    """One connection that sends a little at a time, or reads nothing."""

    def __init__(self, options):
        self.tls = wire.connect(options.port, options.ca, "http/1.1", rcvbuf=4096)
        self.tls.setblocking(False)
        self.answer = b""
        self.closed = False

    def send(self, data):
        try:
            self.tls.send(data)
        except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
            pass
        except OSError:
            self.closed = True

    def read(self):
        try:
            while data := self.tls.recv(65536):
                self.answer += data
            self.closed = True
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        except OSError:
            self.closed = True


def head(options, *lines):
    fields = [f"POST {options.path} HTTP/1.1", "Host: localhost",
              "Content-Type: application/grpc-web+proto",
              f"Authorization: Bearer {options.token}", *lines]
    return "\r\n".join(fields).encode() + b"\r\n"


def slow_headers(options, attackers):
    """A header every now and then."""

    for one in attackers:
        one.send(head(options))
    drip(options, attackers, b"X-More: 1\r\n")


def no_headers(options, attackers):
    """Not even a request line."""

    drip(options, attackers, b"")


def slow_body(options, attackers):
    """A body that stops after its first byte."""

    for one in attackers:
        one.send(head(options, "Content-Length: 100000") + b"\r\n\0")
    drip(options, attackers, b"")


def trickled_body(options, attackers):
    """A body that comes byte by byte."""

    for one in attackers:
        one.send(head(options, "Content-Length: 100000") + b"\r\n\0\0\1\x86\x9b")
    drip(options, attackers, b"x")


def endless_chunks(options, attackers):
    """A body in chunks of one byte."""

    for one in attackers:
        one.send(head(options, "Transfer-Encoding: chunked") + b"\r\n5\r\n\0\0\1\x86\x9b\r\n")
    drip(options, attackers, b"1\r\nx\r\n")


def unread(options, attackers):
    """Answers that nobody reads."""

    for one in attackers:
        message = wire.message()
        one.send(head(options, f"Content-Length: {len(message)}") + b"\r\n" + message)
    time.sleep(options.seconds)
    for one in attackers:
        one.read()


def drip(options, attackers, piece):
    end = time.monotonic() + options.seconds
    while time.monotonic() < end and not all(one.closed for one in attackers):
        open_ones = [one for one in attackers if not one.closed]
        ready, _, _ = select.select([one.tls for one in open_ones], [], [], 0.1)
        for one in open_ones:
            if one.tls in ready or one.tls.pending():
                one.read()
            elif piece:
                one.send(piece)


ATTACKS = [slow_headers, no_headers, slow_body, trickled_body, endless_chunks, unread]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("attack", choices=[attack.__name__ for attack in ATTACKS])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--ca", required=True)
    parser.add_argument("--token", required=True)
    parser.add_argument("--path", default="/foreign.Service/Method")
    parser.add_argument("--connections", type=int, default=10, help="at once (10)")
    parser.add_argument("--seconds", type=float, default=10, help="at most (10)")
    options = parser.parse_args()
    started = time.monotonic()
    attackers = [Attacker(options) for _ in range(options.connections)]
    globals()[options.attack](options, attackers)
    statuses = {}
    for one in attackers:
        if one.answer.startswith(b"HTTP/1.1 "):
            status = one.answer[9:12].decode()
            statuses[status] = statuses.get(status, 0) + 1
    closed = sum(one.closed for one in attackers)
    ended = {"closed": closed, "open": len(attackers) - closed}
    print(json.dumps({
        "attack": options.attack, "ended": {how: count for how, count in ended.items() if count},
        "statuses": statuses, "seconds": round(time.monotonic() - started, 2),
    }), flush=True)


if __name__ == "__main__":
    sys.exit(main())
