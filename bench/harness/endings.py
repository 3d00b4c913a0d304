"""What the end of a stream tells its client, in each dialect.

An ending is `finished` (the backend's own end, status 0), `told` (the gateway
ends it, says so, and says when to come again), or anything else in words: a
promise that was not kept.
"""

import base64
import json
import re

from google.protobuf.any_pb2 import Any
from google.rpc import error_details_pb2, status_pb2

FINISHED, TOLD = "finished", "told"
UNAVAILABLE = "14"


class Ending:
    """How a stream ended, and after how many seconds its client may return."""

    def __init__(self, how, retry=None):
        self.how, self.retry = how, retry


def grpc(stream):
    return of_status(stream, stream.trailers or stream.fields)


def grpc_web(stream):
    body = stream.tail
    if "-text" in stream.fields.get("content-type", ""):
        body = unpadded(body)
    return of_status(stream, stream.fields if "grpc-status" in stream.fields else last_frame(body))


def of_status(stream, fields):
    status = fields.get("grpc-status")
    if status is None or stream.end != "end":
        return Ending(f"no status ({stream.end})")
    if status == "0":
        return Ending(FINISHED)
    retry = retry_info(fields.get("grpc-status-details-bin", ""))
    if status != UNAVAILABLE or retry is None:
        return Ending(f"status {status} {fields.get('grpc-message', '')}")
    return Ending(TOLD, retry)


def retry_info(text):
    """The seconds of `google.rpc.RetryInfo`, if there is one."""
    status = status_pb2.Status.FromString(base64.b64decode(text + "=" * (-len(text) % 4)))
    for detail in status.details:
        info = error_details_pb2.RetryInfo()
        if Any.Is(detail, info.DESCRIPTOR) and detail.Unpack(info):
            return info.retry_delay.ToTimedelta().total_seconds()
    return None


def last_frame(body):
    """The trailers of a gRPC-Web body; nothing if it does not end with them."""
    start = len(body)
    while (start := body.rfind(b"\x80", 0, start)) >= 0:
        length = int.from_bytes(body[start + 1:start + 5], "big")
        if start + 5 + length == len(body):
            lines = body[start + 5:].decode().split("\r\n")
            return dict(line.split(": ", 1) for line in lines if line)
    return {}


def unpadded(text):
    """Base64 whose pieces may each be padded, from the first whole group on."""
    text = text[len(text) % 4:]
    groups = (text[at:at + 4] for at in range(0, len(text), 4))
    return b"".join(map(base64.b64decode, groups))


def sse(stream):
    blocks = stream.tail.decode(errors="replace").split("\n\n")
    if stream.end != "end" or blocks[-1] or "\nevent: ir.error\n" not in "\n" + blocks[-2]:
        return Ending(f"no ir.error ({stream.end})")
    retry = re.search(r"^retry: (\d+)$", blocks[-2], re.M)
    return Ending(TOLD, int(retry.group(1)) / 1000) if retry else Ending("no retry:")


def ndjson(stream):
    lines = stream.tail.decode(errors="replace").split("\n")
    last = json.loads(lines[-2]) if len(lines) > 1 and not lines[-1] else {}
    if stream.end != "end" or last.get("event") != "ir.error":
        return Ending(f"no ir.error ({stream.end})")
    retry = last.get("retry")
    return Ending(TOLD, retry / 1000) if retry else Ending("no retry")
