"""An OpenAI-compatible endpoint on 127.0.0.1 that does what the names of its models say.

A model `anything.BEHAVIOUR` behaves as BEHAVIOUR: `answers`; `gated` (one piece,
the rest when the test releases it); `stalls` (never says anything);
`stalls_midway` (one piece, then nothing); `cuts` (one piece, then the connection
closes); `errs_401`, `errs_429`, `errs_500`. Others do not exist: 404.

Owns a port, also while it is stopped. Every wait ends after 15 s. As a script it
writes {"port"}, then {"event", "model", "authorization"} for each request.
"""

import json
import select
import socket
import threading

from protocol import check, emit

DEADLINE = 15
FIRST = "first "


class ModelServer:
    def __init__(self, tell=lambda **fields: None):
        self.tell = tell
        # A socket that is bound and does not listen: whoever connects while the
        # server is stopped is refused, and nobody else is given the port.
        self.reserved = bound(0)
        self.port = self.reserved.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self.changed = threading.Condition()
        self.journal = []
        self.gates = {}
        self.open = set()
        self.listener = None
        self.start()

    def start(self):
        self.listener = bound(self.port)
        self.listener.listen()
        threading.Thread(target=self.accept, args=(self.listener,), daemon=True).start()

    def stop(self):
        """Closes the port and every connection."""

        # Alone, close() would not wake the thread that accepts.
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        with self.changed:
            for connection in self.open:
                end(connection)

    def arrived(self, model):
        """Waits for a request for this model; gives its headers and its body."""

        return self.wait("arrived", model)

    def gone(self, model):
        """Waits until the caller of this model has closed its connection before it had an answer."""

        self.wait("gone", model)

    def release(self, model):
        """Lets a `gated` model say the rest."""

        self.gate(model)[1].send(b"x")

    def count(self, model):
        """How often this model was asked."""

        with self.changed:
            return sum(event == "arrived" and name == model for event, name, _ in self.journal)

    def wait(self, event, model):
        def first():
            return next((w for e, m, w in self.journal if (e, m) == (event, model)), None)

        with self.changed:
            self.changed.wait_for(lambda: first() is not None, DEADLINE)
            found = first()
            check(found is not None, f"{model} never {event}:", [e[:2] for e in self.journal])
            return found

    def note(self, event, model, what=True):
        with self.changed:
            self.journal.append((event, model, what))
            self.changed.notify_all()

    def gate(self, model):
        with self.changed:
            return self.gates.setdefault(model, socket.socketpair())

    def accept(self, listener):
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with self.changed:
                self.open.add(connection)
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        reader = connection.makefile("rb")
        try:
            while request := read_request(reader):
                if not self.answer(connection, *request):
                    break
        except OSError:
            pass
        finally:
            with self.changed:
                self.open.discard(connection)
                end(connection)
                connection.close()

    def answer(self, connection, line, headers, body):
        """Whether the connection can be used again."""

        if line.startswith("GET /v1/models "):
            reply(connection, 200, {"object": "list", "data": []})
            return True
        request = json.loads(body)
        model = request["model"]
        self.tell(event="arrived", model=model, authorization=headers.get("authorization"))
        self.note("arrived", model, (headers, request))
        try:
            return self.behave(connection, model, request)
        except OSError:
            # The caller was gone before all that it was to get was written.
            self.note("gone", model)
            return False

    def behave(self, connection, model, request):
        behaviour = model.rsplit(".", 1)[-1]
        if behaviour == "stalls":
            self.stall(connection, model)
            return False
        if behaviour.startswith("errs_"):
            error(connection, int(behaviour.removeprefix("errs_")))
            return True
        if behaviour not in ("answers", "gated", "stalls_midway", "cuts"):
            error(connection, 404)
            return True
        rest = f"of {model} to {request['messages'][-1]['content']}"
        if request.get("stream"):
            return self.stream(connection, model, behaviour, rest)
        if behaviour == "cuts":
            head(connection, 200, "application/json", ["content-length: 1000"])
            return False
        reply(connection, 200, completion(model, FIRST + rest))
        return True

    def stream(self, connection, model, behaviour, rest):
        head(connection, 200, "text/event-stream", ["transfer-encoding: chunked"])
        piece(connection, chunk(model, {"role": "assistant", "content": FIRST}))
        if behaviour == "cuts":
            return False
        if behaviour == "stalls_midway":
            self.stall(connection, model)
            return False
        if behaviour == "gated" and not self.opened(connection, model):
            return False
        for word in rest.split(" "):
            piece(connection, chunk(model, {"content": word + " "}))
        usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
        piece(connection, chunk(model, {}, "stop"))
        piece(connection, {**chunk(model, {}), "choices": [], "usage": usage})
        send_chunk(connection, b"data: [DONE]\n\n")
        send_chunk(connection, b"")
        return True

    def stall(self, connection, model):
        readable, _, _ = select.select([connection], [], [], DEADLINE)
        if readable and at_end(connection):
            self.note("gone", model)

    def opened(self, connection, model):
        gate = self.gate(model)[0]
        readable, _, _ = select.select([connection, gate], [], [], DEADLINE)
        if gate in readable:
            gate.recv(1)
            return True
        if readable and at_end(connection):
            self.note("gone", model)
        return False


def bound(port):
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", port))
    return sock


def end(connection):
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # the other side was faster


def at_end(connection):
    try:
        return connection.recv(1) == b""
    except OSError:
        return True


def read_request(reader):
    """Request line, headers and body; None at the end of the connection."""

    line = reader.readline().decode().strip()
    if not line:
        return None
    headers = {}
    while text := reader.readline().decode().strip():
        name, _, value = text.partition(":")
        headers[name.lower()] = value.strip()
    return line, headers, reader.read(int(headers.get("content-length", 0)))


def head(connection, status, kind, more):
    lines = [f"HTTP/1.1 {status} Scripted", f"content-type: {kind}", *more, "", ""]
    connection.sendall("\r\n".join(lines).encode())


def reply(connection, status, value, more=()):
    body = json.dumps(value).encode()
    head(connection, status, "application/json", [f"content-length: {len(body)}", *more])
    connection.sendall(body)


def error(connection, status):
    more = ["retry-after: 7"] if status == 429 else []
    reply(connection, status, {"error": {"message": f"scripted {status}", "type": "scripted"}}, more)


def completion(model, text):
    message = {"role": "assistant", "content": text}
    return {
        "id": "scripted-1",
        "object": "chat.completion",
        "created": 1,
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
    }


def chunk(model, delta, finish_reason=None):
    return {
        "id": "scripted-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": model,
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}],
    }


def piece(connection, value):
    send_chunk(connection, f"data: {json.dumps(value)}\n\n".encode())


def send_chunk(connection, data):
    connection.sendall(f"{len(data):x}\r\n".encode() + data + b"\r\n")


if __name__ == "__main__":
    emit(port=ModelServer(tell=emit).port)
    threading.Event().wait()
