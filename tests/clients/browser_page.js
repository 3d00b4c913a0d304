// Runs in the browser: the cases, with connect-web and with grpc-web as the
// clients. Each case gets the gateway's URL and a token, throws when something
// is wrong, and returns what the test has to check outside of the browser.
//
// `INTEROP_DESCRIPTORS` is put in by the bundler: the descriptor set of
// interop.proto, base64.
import { create, createFileRegistry, fromBinary, toBinary } from "@bufbuild/protobuf";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createGrpcWebTransport } from "@connectrpc/connect-web";
import { GrpcWebClientBase, MethodDescriptor, MethodType } from "grpc-web";

const bytes = Uint8Array.from(atob(INTEROP_DESCRIPTORS), (c) => c.charCodeAt(0));
const registry = createFileRegistry(fromBinary(FileDescriptorSetSchema, bytes));
const service = registry.getService("interop.testing.Interop");

const BINARY = Uint8Array.from({ length: 256 }, (_, i) => i);
const same = (a, b) => a.length === b.length && a.every((x, i) => x === b[i]);
const decodeBinary = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
const cancelled = (call) => ({ call, cancelled_at: Date.now() });

function check(condition, ...what) {
  if (!condition) throw new Error("check failed: " + what.map((w) => JSON.stringify(w)).join(" "));
}

const FAILURE = {
  code: Code.NotFound,
  message: "not here: 100 % ☺",
  trailers: [
    { name: "x-reason", value: new TextEncoder().encode("gone") },
    { name: "x-reason-bin", value: BINARY },
  ],
};

// What differs between the two libraries, behind one face: `unary` resolves to
// {answer, trailers}; `stream` yields messages; both reject with
// {code, message, trailers}. Trailers are a Map of text.

function connectWeb({ url, token }) {
  const transport = createGrpcWebTransport({ baseUrl: url, useBinaryFormat: true });
  const client = createClient(service, transport);
  const headersOf = (headers) => ({ authorization: `Bearer ${token}`, ...headers });
  const known = (error) => {
    const e = ConnectError.from(error);
    return { code: e.code, message: e.rawMessage, trailers: new Map(e.metadata) };
  };
  const local = (method) => method[0].toLowerCase() + method.slice(1);
  return {
    async unary(method, request, { headers, signal } = {}) {
      let trailers;
      const onTrailer = (t) => (trailers = new Map(t));
      const options = { headers: headersOf(headers), signal, onTrailer };
      const answer = await client[local(method)](request, options).catch((e) => Promise.reject(known(e)));
      return { answer, trailers };
    },
    async *stream(method, request, { headers, signal } = {}) {
      try {
        yield* client[local(method)](request, { headers: headersOf(headers), signal });
      } catch (error) {
        throw known(error);
      }
    },
  };
}

function grpcWeb(format) {
  return ({ url, token }) => {
    const client = new GrpcWebClientBase({ format });
    const headersOf = (headers) => ({ authorization: `Bearer ${token}`, ...headers });
    const known = (e) => ({ code: e.code, message: e.message, trailers: new Map(Object.entries(e.metadata ?? {})) });
    const start = (call, method, request, headers, ...rest) => {
      const desc = service.methods.find((m) => m.name === method);
      const path = `/${service.typeName}/${method}`;
      const kind = desc.methodKind === "unary" ? MethodType.UNARY : MethodType.SERVER_STREAMING;
      const info = new MethodDescriptor(
        path,
        kind,
        Object,
        Object,
        (message) => toBinary(desc.input, message),
        (data) => fromBinary(desc.output, data),
      );
      return client[call](url + path, create(desc.input, request), headersOf(headers), info, ...rest);
    };
    return {
      unary(method, request, { headers, signal } = {}) {
        return new Promise((resolve, reject) => {
          let trailers;
          const call = start("rpcCall", method, request, headers, (error, answer) =>
            error ? reject(known(error)) : resolve({ answer, trailers }),
          );
          // grpc-web tells the status before the answer.
          call.on("status", (s) => (trailers = new Map(Object.entries(s.metadata ?? {}))));
          signal?.addEventListener("abort", () => {
            call.cancel();
            reject({ code: Code.Canceled });
          });
        });
      },
      async *stream(method, request, { headers, signal } = {}) {
        const queue = [];
        let wake = () => {};
        const put = (item) => (queue.push(item), wake());
        const call = start("serverStreaming", method, request, headers);
        call.on("data", (message) => put({ message }));
        call.on("error", (error) => put({ error: known(error) }));
        call.on("end", () => put({ done: true }));
        signal?.addEventListener("abort", () => {
          call.cancel();
          put({ error: { code: Code.Canceled } });
        });
        for (;;) {
          while (!queue.length) await new Promise((resolve) => (wake = resolve));
          const item = queue.shift();
          if (item.error) throw item.error;
          if (item.done) return;
          yield item.message;
        }
      },
    };
  };
}

async function failure(promise) {
  const error = await promise.then(
    () => null,
    (e) => e,
  );
  check(error, "expected an error, got an answer");
  if (error.code === undefined) throw error;
  return error;
}

async function collect(stream) {
  const all = [];
  for await (const message of stream) all.push(message);
  return all;
}

function hasFailure(error) {
  check(error.code === FAILURE.code, "code", error);
  check(error.message === FAILURE.message, "message", error);
  check(error.trailers.get("x-reason") === "gone", "x-reason", [...error.trailers]);
  check(same(decodeBinary(error.trailers.get("x-reason-bin")), BINARY), [...error.trailers]);
}

const rpcCases = {
  async unary(client) {
    const { answer } = await client.unary("UnaryCall", { payload: new Uint8Array(271828), responseSize: 314159 });
    check(answer.payload.length === 314159, answer.payload.length);
  },

  async server_streaming(client) {
    const sizes = [31415, 9, 2653, 58979];
    const messages = await collect(client.stream("StreamingOutputCall", { sizes }));
    check(String(messages.map((m) => m.payload.length)) === String(sizes), messages.length);
  },

  // The second message would come after a minute. That the first one is here
  // before shows that nothing waits for the end of the stream.
  async a_message_arrives_at_once_and_an_abort_after_it_reaches_the_service(client, { call }) {
    const abort = new AbortController();
    const request = { sizes: [9, 9], intervalMs: 60_000 };
    const stream = client.stream("StreamingOutputCall", request, {
      signal: abort.signal,
      headers: { "x-call-id": call },
    });
    const first = await stream.next();
    check(first.value.payload.length === 9);
    abort.abort();
    const stopped = cancelled(call);
    await failure(stream.next());
    return stopped;
  },

  async an_abort_before_the_first_byte_reaches_the_service(client, { call }) {
    const abort = new AbortController();
    const answer = failure(client.unary("Sleep", {}, { signal: abort.signal, headers: { "x-call-id": call } }));
    await awaitBegin(call);
    abort.abort();
    const stopped = cancelled(call);
    await answer;
    return stopped;
  },

  async a_trailers_only_error_is_readable(client) {
    hasFailure(await failure(client.unary("Fail", FAILURE)));
  },

  async an_error_after_messages_is_readable(client) {
    const got = [];
    const read = async () => {
      for await (const message of client.stream("FailLate", { ...FAILURE, chunks: 3 })) got.push(message);
    };
    hasFailure(await failure(read()));
    check(got.length === 3, got.length);
  },

  async custom_trailers_of_a_success_are_readable(client) {
    const headers = { "x-echo-trailing-bin": btoa(String.fromCharCode(...BINARY)) };
    const { trailers } = await client.unary("UnaryCall", {}, { headers });
    check(same(decodeBinary(trailers.get("x-echo-trailing-bin")), BINARY), [...trailers]);
  },

  async a_refusal_by_the_gateway_is_readable(client) {
    const error = await failure(client.unary("Restricted", {}));
    check(error.code === Code.PermissionDenied && error.message.length > 0, error);
  },

  async a_refused_token_is_readable(_, { make, url }) {
    const error = await failure(make({ url, token: "not-a-token" }).unary("EmptyCall", {}));
    check(error.code === Code.Unauthenticated && error.message.length > 0, error);
  },
};

// Runs one case with one library.
window.runRpc = (library, name, at) => {
  const make = { connect: connectWeb, text: grpcWeb("text"), binary: grpcWeb("binary") }[library];
  return rpcCases[name](make(at), { ...at, make });
};
window.rpcCases = Object.keys(rpcCases);

// A plain call, for what is checked from the outside of the page.
window.emptyCall = async ({ url, token, headers }) => {
  await connectWeb({ url, token }).unary("EmptyCall", {}, { headers });
};

// Reads /events with fetch (EventSource can't set a header), publishes one
// event, and returns when it has come back on the stream.
window.eventRoundTrip = async ({ url, token, channel, payload }) => {
  const abort = new AbortController();
  const headers = { authorization: `Bearer ${token}` };
  const stream = await fetch(`${url}/events?channel=${encodeURIComponent(channel)}`, {
    headers: { ...headers, accept: "text/event-stream" },
    signal: abort.signal,
  });
  check(stream.status === 200, stream.status);
  const reader = stream.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  const until = async (what) => {
    while (!text.includes(what)) {
      const { value, done } = await reader.read();
      check(!done, "the stream ended before", what, text);
      text += value;
    }
  };
  await until("event: ir.open");
  const posted = await fetch(`${url}/events/${channel}`, {
    method: "POST",
    headers: { ...headers, "content-type": "application/json" },
    body: payload,
  });
  check(posted.status === 202, posted.status);
  await until(`data: ${payload}\n`);
  abort.abort();
};
