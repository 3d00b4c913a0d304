"""EventService from Python: follows channels or publishes one event.

    events_client.py --target localhost:8443 --ca certs/ca.crt --token T subscribe CHANNEL ...
        [--type TYPE ...] [--where FIELD:VALUE ...]
    events_client.py --target localhost:8443 --ca certs/ca.crt --token T publish CHANNEL PAYLOAD
    events_client.py --target localhost:8443 --ca certs/ca.crt --token T renew STREAM

`subscribe` writes each message of the stream as one JSON object, with the name
of the oneof member as "kind"; `publish` and `renew` write the answer. A call that fails
is written as {"kind": "status", "code", "message"} and ends the script with
exit status 1.
"""

import argparse
import json
import sys

import grpc
from google.protobuf.json_format import MessageToDict

from stubs import load

pb, services = load("intellirouter/events/v1/events.proto")


def emit(kind, message):
    fields = MessageToDict(message, preserving_proto_field_name=True)
    # Bytes come out as base64; a payload is JSON text.
    if "payload" in fields:
        fields["payload"] = message.payload.decode()
    print(json.dumps({"kind": kind, **fields}), flush=True)


def subscribe(stub, metadata, options):
    pairs = [text.split(":", 1) for text in options.where]
    conditions = [pb.Condition(field=field, value=value) for field, value in pairs]
    request = pb.SubscribeRequest(channels=options.channels, types=options.type, conditions=conditions)
    for response in stub.Subscribe(request, metadata=metadata):
        kind = response.WhichOneof("message")
        emit(kind, getattr(response, kind))


def publish(stub, metadata, channel, payload):
    request = pb.PublishRequest(channel=channel, payload=payload.encode())
    emit("published", stub.Publish(request, metadata=metadata, timeout=20))


def renew(stub, metadata, stream):
    emit("renewed", stub.Renew(pb.RenewRequest(stream_id=stream), metadata=metadata, timeout=20))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", required=True)
    parser.add_argument("--ca", required=True)
    parser.add_argument("--token", required=True)
    verbs = parser.add_subparsers(required=True, dest="verb")
    verb = verbs.add_parser("subscribe")
    verb.add_argument("channels", nargs="+")
    verb.add_argument("--type", action="append", default=[])
    verb.add_argument("--where", action="append", default=[])
    verbs.add_parser("renew").add_argument("stream")
    verb = verbs.add_parser("publish")
    verb.add_argument("channel")
    verb.add_argument("payload")
    options = parser.parse_args()

    credentials = grpc.ssl_channel_credentials(open(options.ca, "rb").read())
    metadata = [("authorization", f"Bearer {options.token}")]
    with grpc.secure_channel(options.target, credentials) as channel:
        stub = services.EventServiceStub(channel)
        try:
            if options.verb == "subscribe":
                subscribe(stub, metadata, options)
            elif options.verb == "renew":
                renew(stub, metadata, options.stream)
            else:
                publish(stub, metadata, options.channel, options.payload)
        except grpc.RpcError as error:
            status = {"kind": "status", "code": error.code().name, "message": error.details()}
            print(json.dumps(status), flush=True)
            return 1


if __name__ == "__main__":
    sys.exit(main())
