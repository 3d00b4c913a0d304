"""Opens TLS connections, says HTTP/2's hello on each, and holds them.

Usage: hold.py PORT CA COUNT. Prints `open COUNT` when the server's SETTINGS
have come on every one, then waits for the end of its input.
"""

import socket
import ssl
import sys

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\0\0\0\4\0\0\0\0\0"
SETTINGS_ACK = b"\0\0\0\4\1\0\0\0\0"


def main():
    port, ca, count = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    context = ssl.create_default_context(cafile=ca)
    context.set_alpn_protocols(["h2"])
    held = [hello(context, port) for _ in range(count)]
    print("open", len(held), flush=True)
    sys.stdin.read()


def hello(context, port):
    plain = socket.create_connection(("127.0.0.1", port), timeout=20)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    stream = context.wrap_socket(plain, server_hostname="localhost")
    if stream.selected_alpn_protocol() != "h2":
        raise ConnectionError("the server does not speak h2")
    stream.sendall(PREFACE + SETTINGS)
    frame_type, flags = None, 0
    while frame_type != 4 or flags & 1:
        head = exactly(stream, 9)
        frame_type, flags = head[3], head[4]
        exactly(stream, int.from_bytes(head[:3], "big"))
    stream.sendall(SETTINGS_ACK)
    return stream


def exactly(stream, size):
    data = b""
    while len(data) < size:
        part = stream.recv(size - len(data))
        if not part:
            raise ConnectionError("the server closed the connection")
        data += part
    return data


main()
