// The gRPC interop cases, with @grpc/grpc-js as the client.
//
//   node interop_client.mjs --target localhost:8443 --ca certs/ca.crt --token T [--case NAME ...]
//
// Every call has a deadline of 20 s, so a call that hangs is a failed case.
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";
import { awaitBegin, cancelled, check, run } from "./protocol.mjs";

const { values: options } = parseArgs({
  options: {
    target: { type: "string" },
    ca: { type: "string" },
    cert: { type: "string" },
    key: { type: "string" },
    token: { type: "string" },
    case: { type: "string", multiple: true },
  },
});

const proto = fileURLToPath(new URL("../proto/interop.proto", import.meta.url));
const { interop } = grpc.loadPackageDefinition(loader.loadSync(proto, { keepCase: true }));
const read = (path) => (path ? readFileSync(path) : null);
const credentials = grpc.credentials.createSsl(read(options.ca), read(options.key), read(options.cert));
const client = new interop.testing.Interop(options.target, credentials);
const missing = new interop.testing.Missing(options.target, credentials);

const DEADLINE_MS = 20_000;
const CHUNK_SIZES = [31415, 9, 2653, 58979];
const REQUEST_SIZES = [27182, 8, 1828, 45904];
const SPECIAL_MESSAGE = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n % and %41";
const BINARY = Buffer.from(Array.from({ length: 256 }, (_, i) => i));
const { status } = grpc;

const within = (ms = DEADLINE_MS) => ({ deadline: Date.now() + ms });
let calls = 0;
const newCall = () => `js-${++calls}`;

function metadata(...pairs) {
  const all = new grpc.Metadata();
  if (options.token) all.set("authorization", `Bearer ${options.token}`);
  for (const [key, value] of pairs) all.add(key, value);
  return all;
}

// One answer; rejects with the error of the call.
function unary(method, request, { pairs = [], ms, to = client } = {}) {
  return new Promise((resolve, reject) => {
    const seen = {};
    const call = to[method](request, metadata(...pairs), within(ms), (error, answer) =>
      error ? reject(error) : (seen.answer = answer),
    );
    call.on("metadata", (m) => (seen.initial = m));
    // grpc-js tells the status after the answer.
    call.on("status", (s) => resolve({ ...seen, trailing: s.metadata }));
  });
}

// All messages of a stream and its status; never rejects.
function drain(call) {
  return new Promise((resolve) => {
    const seen = { messages: [] };
    call.on("data", (message) => seen.messages.push(message));
    call.on("metadata", (m) => (seen.initial = m));
    call.on("error", () => {});
    call.on("status", (s) => resolve({ ...seen, status: s }));
  });
}

async function fails(code, promise) {
  const error = await promise.then(
    () => null,
    (e) => e,
  );
  check(error?.code === code, "expected code", code, "got", error?.code ?? "an answer", error?.details);
  return error;
}

// Emits "data" to whoever asks next.
function reader(call) {
  const iterator = call[Symbol.asyncIterator]();
  return async () => (await iterator.next()).value;
}

const cases = {
  async empty_unary() {
    await unary("EmptyCall", {});
  },

  async large_unary() {
    const { answer } = await unary("UnaryCall", { payload: Buffer.alloc(271828), response_size: 314159 });
    check(answer.payload.length === 314159, answer.payload.length);
  },

  async compressed_unary() {
    const zipped = new interop.testing.Interop(options.target, credentials, {
      "grpc.default_compression_algorithm": grpc.compressionAlgorithms.gzip,
    });
    const request = { payload: Buffer.alloc(271828), response_size: 314159, compress: true };
    const { answer } = await unary("UnaryCall", request, { to: zipped });
    zipped.close();
    check(answer.payload.length === 314159, answer.payload.length);
  },

  async client_streaming() {
    const answer = await new Promise((resolve, reject) => {
      const call = client.StreamingInputCall(metadata(), within(), (error, a) => (error ? reject(error) : resolve(a)));
      for (const size of REQUEST_SIZES) call.write({ payload: Buffer.alloc(size) });
      call.end();
    });
    check(answer.bytes === REQUEST_SIZES.reduce((a, b) => a + b) && answer.messages === 4, answer);
  },

  async server_streaming() {
    const end = await drain(client.StreamingOutputCall({ sizes: CHUNK_SIZES }, metadata(), within()));
    check(end.status.code === status.OK, end.status);
    check(String(end.messages.map((m) => m.payload.length)) === String(CHUNK_SIZES));
  },

  async ping_pong() {
    const call = client.FullDuplexCall(metadata(), within());
    const next = reader(call);
    for (const [i, size] of CHUNK_SIZES.entries()) {
      call.write({ sizes: [size], payload: Buffer.alloc(REQUEST_SIZES[i]) });
      check((await next()).payload.length === size);
    }
    call.end();
    check((await next()) === undefined, "a message after the last");
  },

  async empty_stream() {
    const call = client.FullDuplexCall(metadata(), within());
    call.end();
    const end = await drain(call);
    check(end.status.code === status.OK && end.messages.length === 0, end.status);
  },

  async cancel_after_begin() {
    const id = newCall();
    let call;
    const error = new Promise((resolve) => {
      call = client.StreamingInputCall(metadata(["x-call-id", id]), within(), resolve);
    });
    await awaitBegin(id);
    call.cancel();
    const stopped = cancelled(id);
    check((await error).code === status.CANCELLED);
    return stopped;
  },

  async cancel_after_first_response() {
    const id = newCall();
    const call = client.FullDuplexCall(metadata(["x-call-id", id]), within());
    const end = new Promise((resolve) => call.on("status", resolve));
    const first = new Promise((resolve) => call.once("data", resolve));
    call.on("error", () => {});
    call.write({ sizes: [31415], payload: Buffer.alloc(27182) });
    check((await first).payload.length === 31415);
    call.cancel();
    const stopped = cancelled(id);
    check((await end).code === status.CANCELLED);
    return stopped;
  },

  async timeout_on_sleeping_server() {
    await fails(status.DEADLINE_EXCEEDED, unary("Sleep", {}, { ms: 300 }));
  },

  async deadline_is_passed_on() {
    const { answer } = await unary("Inspect", {}, { ms: 7000 });
    const left = Number(answer.remaining_ms);
    check(left > 5000 && left <= 7500, "the service saw", left, "ms");
  },

  async status_code_and_message() {
    const wanted = { code: 2, message: "test status message" };
    const error = await fails(status.UNKNOWN, unary("UnaryCall", { status: wanted }));
    check(error.details === wanted.message, error.details);
    const call = client.FullDuplexCall(metadata(), within());
    call.write({ status: wanted });
    call.end();
    const end = await drain(call);
    check(end.status.code === status.UNKNOWN && end.status.details === wanted.message, end.status);
  },

  async special_status_message() {
    const request = { status: { code: 2, message: SPECIAL_MESSAGE } };
    const error = await fails(status.UNKNOWN, unary("UnaryCall", request));
    check(error.details === SPECIAL_MESSAGE, error.details);
  },

  async trailers_only_error_with_trailers() {
    const trailers = [
      { name: "x-reason", value: Buffer.from("gone") },
      { name: "x-reason-bin", value: BINARY },
    ];
    const error = await fails(status.NOT_FOUND, unary("Fail", { code: 5, message: "not here", trailers }));
    check(error.metadata.get("x-reason")[0] === "gone", error.metadata);
    check(BINARY.equals(error.metadata.get("x-reason-bin")[0]), error.metadata);
  },

  async error_after_messages() {
    const request = { code: 15, message: "half way", chunks: 3 };
    const end = await drain(client.FailLate(request, metadata(), within()));
    check(end.status.code === status.DATA_LOSS && end.messages.length === 3, end.status);
  },

  async unimplemented_method() {
    await fails(status.UNIMPLEMENTED, unary("Unimplemented", {}));
  },

  async unimplemented_service() {
    await fails(status.UNIMPLEMENTED, unary("Call", {}, { to: missing }));
  },

  async custom_metadata() {
    const pairs = [
      ["x-echo-initial", "test_initial_metadata_value"],
      ["x-echo-trailing-bin", BINARY],
    ];
    const call = client.FullDuplexCall(metadata(...pairs), within());
    call.write({ sizes: [1] });
    call.end();
    const stream = await drain(call);
    const single = await unary("UnaryCall", {}, { pairs });
    for (const [initial, trailing] of [
      [stream.initial, stream.status.metadata],
      [single.initial, single.trailing],
    ]) {
      check(initial.get("x-echo-initial")[0] === pairs[0][1], initial);
      check(BINARY.equals(trailing.get("x-echo-trailing-bin")[0]), trailing);
    }
  },

  async bidi_waits_for_headers() {
    const call = client.HeadersFirst(metadata(), within());
    // Nothing has been sent: this resolves only if nobody holds the headers back.
    const headers = await new Promise((resolve, reject) => call.once("metadata", resolve).once("error", reject));
    check(headers.get("x-headers")[0] === "first", headers);
    const next = reader(call);
    call.write({ sizes: [1] });
    check((await next()).payload.length === 1);
    call.end();
    check((await next()) === undefined);
  },
};

const wanted = options.case ?? Object.keys(cases);
const unknown = wanted.filter((name) => !(name in cases));
if (unknown.length || !options.target || !options.ca) {
  console.error(unknown.length ? `unknown case: ${unknown}` : "--target and --ca are needed");
  process.exit(2);
}
process.exit(await run(wanted.map((name) => [name, cases[name]])));
