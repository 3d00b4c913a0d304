"""What the clients of the services share: calls as somebody, errors with their
details, and the events that the services send meanwhile.

Every call has a deadline of 15 s and every wait ends after as long, so that
what hangs is a failed case; the tests wait 20 s for each case.
"""

import datetime
import http.client
import json
import secrets
import ssl
import threading

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from protocol import check
from stubs import load

models, registry_services = load("intellirouter/model_registry/v1/model_registry.proto")
chains, chain_services = load("intellirouter/chain_engine/v1/chain_engine.proto")
common = grpc.protos("intellirouter/common/v1/common.proto")

DEADLINE = 15
Code = grpc.StatusCode

# The payload of each event of the contract, beside timestamp and metadata.
ERROR = {"code": str, "message": str, "details": dict}
EVENTS = {
    "chain_execution_completed": {"execution_id": str, "output": str, "total_tokens": int, "execution_time_ms": int},
    "chain_execution_failed": {"execution_id": str, "error": dict, "execution_time_ms": int},
    "chain_step_completed": {"execution_id": str, "step_id": str, "step_index": int, "output": str, "tokens": int},
    "model_health_check": {"model_id": str, "healthy": bool, "latency_ms": float},
    "model_routing_decision": {
        "request_id": str, "selected_model_id": str, "strategy_name": str, "routing_time_ms": int
    },
    "model_usage": {"model_id": str, "request_id": str, "input_tokens": int, "output_tokens": int, "latency_ms": float},
}


class Events:
    """Follows all events of the gateway at `target`, from the moment on when it returns."""

    def __init__(self, target, ca, token):
        host, port = target.rsplit(":", 1)
        tls = ssl.create_default_context(cafile=ca)
        self.connection = http.client.HTTPSConnection(host, int(port), context=tls)
        headers = {"authorization": f"Bearer {token}"}
        self.connection.request("GET", "/events?channel=intellirouter:*", headers=headers)
        self.changed = threading.Condition()
        self.seen = []
        answer = self.connection.getresponse()
        check(answer.status == 200, "/events answers", answer.status, answer.getheaders())
        threading.Thread(target=self.read, args=(answer,), daemon=True).start()
        self.find("ir.open", lambda payload: True)

    def read(self, answer):
        frame = {}
        for line in answer:
            line = line.decode().rstrip("\r\n")
            if line.startswith(":"):
                continue
            if line:
                name, _, value = line.partition(": ")
                frame[name] = value
            elif frame:
                with self.changed:
                    self.seen.append((frame.get("event"), json.loads(frame.get("data") or "null")))
                    self.changed.notify_all()
                frame = {}

    def find(self, kind, matches):
        """The payload of the first such event, old or new."""

        def first():
            return next((p for k, p in self.seen if k == kind and matches(p)), None)

        with self.changed:
            self.changed.wait_for(lambda: first() is not None, DEADLINE)
            found = first()
            check(found is not None, "no", kind, "came, but", self.seen[-20:])
            return found

    def wait(self, kind, **fields):
        """As `find`, with these values in it; its payload must be what the contract says."""

        payload = self.find(kind, lambda p: all(p.get(k) == v for k, v in fields.items()))
        well_formed(payload, EVENTS[kind])
        return payload

    def kinds(self, **fields):
        """The types of the events with these values so far, in the order in which they came."""

        with self.changed:
            return [k for k, p in self.seen if p and all(p.get(n) == v for n, v in fields.items())]


def well_formed(payload, fields):
    check(set(payload) == {*fields, "timestamp", "metadata"}, "fields:", sorted(payload))
    for name, kind in fields.items():
        value = payload[name]
        # JSON has one kind of number, and Python takes True for one.
        right = type(value) in (int, float) if kind is float else type(value) is kind
        check(right and (kind not in (int, float) or value >= 0), name, "is", repr(value))
    if "error" in fields:
        error = payload["error"]
        check({k: type(v) for k, v in error.items()} == ERROR, error)
    at = datetime.datetime.fromisoformat(payload["timestamp"])
    check(at.utcoffset() == datetime.timedelta(0), payload["timestamp"])
    check(all(type(v) is str for v in payload["metadata"].values()), payload["metadata"])


class Kit:
    """One channel to a gateway, the stubs of all services on it, and tokens by name.

    Names: `admin`, `operator`, `alice` and `bob` (role user), `nobody` (no role).
    """

    def __init__(self, channel, tokens, events):
        self.channel, self.tokens, self.events = channel, tokens, events
        self.registry = registry_services.ModelRegistryServiceStub(channel)
        self.router = registry_services.RouterServiceStub(channel)
        self.engine = chain_services.ChainEngineServiceStub(channel)
        self.store = chain_services.ChainStoreServiceStub(channel)
        # Cases share the services, and a run by hand shares them with the run before.
        self.run, self.count = secrets.token_hex(3), 0

    def new(self, kind):
        """A name that nothing else has."""

        self.count += 1
        return f"{kind}-{self.run}-{self.count}"

    def how(self, who="admin", timeout=DEADLINE):
        """The arguments of a call as somebody; as a stranger for None."""

        metadata = [("authorization", f"Bearer {self.tokens[who]}")] if who else []
        return {"metadata": metadata, "timeout": timeout}

    def call(self, method, request, **how):
        return method(request, **self.how(**how))

    def fails(self, code, method, request, **how):
        """The error of a call that must end with this code; streams are read to the end."""

        try:
            answer = self.call(method, request, **how)
            if hasattr(answer, "cancel"):
                answer = list(answer)
        except grpc.RpcError as error:
            check(error.code() == code, "expected", code, "got", error.code(), error.details())
            return error
        raise AssertionError(f"expected {code}, got {answer}")

    def details(self, error):
        """The google.rpc details of an error, by the names of their types."""

        # This also checks that code and message are those of the trailers.
        status = rpc_status.from_call(error)
        check(status is not None, "no details in", error)
        found = {}
        for detail in status.details:
            name = detail.TypeName().removeprefix("google.rpc.")
            found[name] = getattr(error_details_pb2, name)()
            check(detail.Unpack(found[name]), detail)
        return found

    def refused(self, code, detail, method, request, **how):
        """The detail of this type of an error that must have this code."""

        error = self.fails(code, method, request, **how)
        details = self.details(error)
        check(detail in details, "no", detail, "in", details, error.details())
        return details[detail]

    def malformed(self, fields, method, request, **how):
        """The call must be refused for exactly these fields, with a word on each."""

        bad = self.refused(Code.INVALID_ARGUMENT, "BadRequest", method, request, **how)
        named = [violation.field for violation in bad.field_violations]
        check(sorted(named) == sorted(fields), "expected", fields, "got", named)
        check(all(violation.description for violation in bad.field_violations), bad)
        return bad

    def register(self, model, **how):
        """Registers a model; gives its id."""

        request = models.RegisterModelRequest(metadata=model)
        answer = self.call(self.registry.RegisterModel, request, **how)
        check(answer.status == common.STATUS_SUCCESS, answer)
        return model.id

    def local(self, tags=(), **parameters):
        """Registers a model of the built-in connector with a name of its own."""

        config = models.ConnectorConfig(type="local", parameters=parameters)
        model = models.ModelMetadata(
            id=self.new("local"), name="Built in", provider="local", tags=tags, connector_config=config
        )
        return self.register(model)


def chat(text, **fields):
    """A chat of one message."""

    return models.ChatCompletionRequest(messages=[common.Message(role="user", content=text)], **fields)
