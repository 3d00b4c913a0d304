"""Writes to the services without a pause, or reads what became of it.

    durability_client.py --target T --ca FILE --token TOKEN write
    durability_client.py --target T --ca FILE --token TOKEN verify JOURNAL

`write` writes until the services are gone. It tells each write twice, as a line
of JSON: {"kind", "name", "value"} before it is sent, and the same with "acked"
once it is answered. The values of a name are sent in order, so that the last
acknowledged one, or one that was sent after it, is what must be there later.
`verify` reads such lines, of one or more runs, and checks that.
"""

import argparse
import collections
import concurrent.futures
import json
import sys
import threading

import grpc

import protocol
from protocol import check
from services_kit import Code, Kit, chains, common, models

# What is read where nothing is, or was removed.
ABSENT = None
FINISHED, INTERRUPTED = "finished", "interrupted"
WRITERS_PER_KIND, STUCK = 2, 3
CUSTOM = models.ROUTING_STRATEGY_CUSTOM
MAINTENANCE, AVAILABLE = models.MODEL_STATUS_MAINTENANCE, models.MODEL_STATUS_AVAILABLE


class Writer:
    def __init__(self, kit):
        self.kit, self.lock = kit, threading.Lock()

    def tell(self, kind, name, value, **more):
        line = json.dumps({"kind": kind, "name": name, "value": value, **more})
        with self.lock:
            print(line, flush=True)

    def new(self, kind):
        with self.lock:
            return self.kit.new(kind)

    def write(self, kind, name, value, method, request):
        self.tell(kind, name, value)
        self.kit.call(method, request)
        self.tell(kind, name, value, acked=True)

    def models(self):
        registry = self.kit.registry
        while True:
            name = self.new("model")
            model = models.ModelMetadata(id=name, name="Kept", provider="tests")
            self.write("model", name, 0, registry.RegisterModel, models.RegisterModelRequest(metadata=model))
            for value in range(1, 5):
                status = MAINTENANCE if value % 2 else AVAILABLE
                change = models.UpdateModelStatusRequest(model_id=name, status=status, reason=str(value))
                self.write("model", name, value, registry.UpdateModelStatus, change)
            if self.even(name):
                self.write("model", name, ABSENT, registry.RemoveModel, models.RemoveModelRequest(model_id=name))

    def chains(self):
        store = self.kit.store
        while True:
            name = self.new("chain")
            for value in range(1, 4):
                steps = [chains.ChainStep(id="only")]
                chain = chains.Chain(id=name, description=str(value), steps=steps)
                self.write("chain", name, value, store.PutChain, chains.PutChainRequest(chain=chain))
            if self.even(name):
                self.write("chain", name, ABSENT, store.DeleteChain, chains.DeleteChainRequest(chain_id=name))

    def strategies(self):
        value = 0
        while True:
            value = value % 600_000 + 1
            config = models.StrategyConfig(timeout_ms=value)
            request = models.UpdateRoutingStrategyRequest(type=CUSTOM, config=config, enabled=True)
            self.write("strategy", "custom", value, self.kit.router.UpdateRoutingStrategy, request)

    def even(self, name):
        return int(name.rsplit("-", 1)[1]) % 2 == 0

    def executions(self):
        model = self.kit.local()
        while True:
            self.execute("execution", model)

    def stuck(self):
        self.execute("stuck", self.kit.local(delay_ms_per_token="10000"))

    def execute(self, kind, model):
        chain = chains.Chain(steps=[chains.ChainStep(id="only", model=model)])
        request = chains.ChainExecutionRequest(chain=chain, input="x")
        events = self.kit.call(self.kit.engine.StreamChainExecution, request)
        name = next(events).execution_id
        # From here on it is known; unless it ends, the crash interrupts it.
        self.tell(kind, name, INTERRUPTED, acked=True)
        if kind == "execution":
            self.tell(kind, name, FINISHED)
        for event in events:
            if event.WhichOneof("data") == "chain_completed":
                self.tell(kind, name, FINISHED, acked=True)

    def run(self):
        """Until every writer has found the services gone. Other errors are the script's end."""

        kinds = [self.models, self.chains, self.executions] * WRITERS_PER_KIND
        kinds += [self.strategies] + [self.stuck] * STUCK
        with concurrent.futures.ThreadPoolExecutor(len(kinds)) as pool:
            for running in concurrent.futures.as_completed([pool.submit(kind) for kind in kinds]):
                error = running.exception()
                gone = isinstance(error, grpc.RpcError) and error.code() == Code.UNAVAILABLE
                check(gone, "a writer ended with", repr(error))
        return 0


class Reader:
    """Reads the value that a name has now."""

    def __init__(self, kit):
        self.kit = kit

    def model(self, name):
        answer = self.kit.call(self.kit.registry.GetModel, models.GetModelRequest(model_id=name))
        return int(answer.metadata.metadata.get("status_reason", "0"))

    def chain(self, name):
        answer = self.kit.call(self.kit.store.GetChain, chains.GetChainRequest(chain_id=name))
        return int(answer.chain.description)

    def strategy(self, _):
        answer = self.kit.call(self.kit.router.GetRoutingStrategies, models.GetRoutingStrategiesRequest())
        return next(s.config.timeout_ms for s in answer.strategies if s.type == CUSTOM) or ABSENT

    def execution(self, name):
        answer = self.kit.call(self.kit.engine.GetChainStatus, chains.ChainStatusRequest(execution_id=name))
        if answer.status == common.STATUS_SUCCESS:
            return FINISHED
        check((answer.status, answer.error.code) == (common.STATUS_ERROR, "INTERRUPTED"), answer)
        return INTERRUPTED

    stuck = execution

    def read(self, kind, name):
        try:
            return getattr(self, kind)(name)
        except grpc.RpcError as error:
            check(error.code() == Code.NOT_FOUND, kind, name, error)
            return ABSENT


def journal(path):
    """Per kind and name: the values that may be there now."""

    allowed = collections.defaultdict(lambda: collections.defaultdict(lambda: [ABSENT]))
    for line in open(path):
        entry = json.loads(line)
        values = allowed[entry["kind"]][entry["name"]]
        if entry.get("acked"):
            values[:] = [entry["value"]]
        else:
            values.append(entry["value"])
    return allowed


def verify(kit, path):
    reader, allowed = Reader(kit), journal(path)

    def kept(kind):
        names = allowed[kind]
        check(names, "nothing of this kind was written")
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            read = pool.map(lambda name: reader.read(kind, name), names)
            wrong = [(name, now, may) for (name, may), now in zip(names.items(), read) if now not in may]
        check(not wrong, len(wrong), "of", len(names), "are not as acknowledged:", wrong[:5])

    kinds = ("model", "chain", "strategy", "execution", "stuck")
    return protocol.run((f"every {kind} is as acknowledged", lambda kind=kind: kept(kind)) for kind in kinds)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", required=True)
    parser.add_argument("--ca", required=True)
    parser.add_argument("--token", required=True)
    verbs = parser.add_subparsers(required=True, dest="verb")
    verbs.add_parser("write")
    verbs.add_parser("verify").add_argument("journal")
    options = parser.parse_args()

    credentials = grpc.ssl_channel_credentials(open(options.ca, "rb").read())
    with grpc.secure_channel(options.target, credentials) as channel:
        kit = Kit(channel, {"admin": options.token}, None)
        return Writer(kit).run() if options.verb == "write" else verify(kit, options.journal)


if __name__ == "__main__":
    sys.exit(main())
