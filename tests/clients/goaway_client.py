"""Opens one call and prints every GOAWAY: `goaway LAST_STREAM_ID ERROR_CODE`.

Usage: goaway_client.py --port P --ca FILE --token T --path /package.Service/Method
"""

import argparse
import socket
import ssl

import h2.config
import h2.connection
import h2.events
import hyperframe.frame


def frames(data, buffer):
    """The whole frames that have arrived."""
    buffer += data
    while len(buffer) >= 9:
        frame, length = hyperframe.frame.Frame.parse_frame_header(memoryview(bytes(buffer[:9])))
        if len(buffer) < 9 + length:
            return
        frame.parse_body(memoryview(bytes(buffer[9 : 9 + length])))
        del buffer[: 9 + length]
        yield frame


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--ca", required=True)
    parser.add_argument("--token", required=True)
    parser.add_argument("--path", required=True)
    args = parser.parse_args()

    context = ssl.create_default_context(cafile=args.ca)
    context.set_alpn_protocols(["h2"])
    raw = socket.create_connection(("127.0.0.1", args.port), timeout=20)
    sock = context.wrap_socket(raw, server_hostname="localhost")
    conn = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    conn.initiate_connection()
    conn.send_headers(
        1,
        [
            (":method", "POST"),
            (":scheme", "https"),
            (":authority", f"localhost:{args.port}"),
            (":path", args.path),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("authorization", f"Bearer {args.token}"),
        ],
    )
    conn.send_data(1, b"\0\0\0\0\0", end_stream=True)
    sock.sendall(conn.data_to_send())
    buffer = bytearray()
    while data := sock.recv(65536):
        for frame in frames(data, buffer):
            if isinstance(frame, hyperframe.frame.GoAwayFrame):
                print("goaway", frame.last_stream_id, frame.error_code, flush=True)
            elif isinstance(frame, hyperframe.frame.PingFrame) and "ACK" not in frame.flags:
                answer = hyperframe.frame.PingFrame(0, frame.opaque_data, flags=["ACK"])
                sock.sendall(answer.serialize())
            elif isinstance(frame, hyperframe.frame.HeadersFrame) and frame.stream_id == 1:
                if "END_STREAM" not in frame.flags:
                    print("open", flush=True)
            elif isinstance(frame, hyperframe.frame.SettingsFrame) and "ACK" not in frame.flags:
                sock.sendall(hyperframe.frame.SettingsFrame(0, flags=["ACK"]).serialize())


main()
