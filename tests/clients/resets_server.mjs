// A backend on Node's own HTTP/2, which ends a connection on which more than 1,000 streams are
// reset and 33 more each second, whether they were answered or not. One line tells its port. After
// that a line "figures" on stdin is answered with what it has seen, as JSON.
//
//   node resets_server.mjs backend.crt backend.key ca.crt
//
// `Unary` is answered at once, `Begins` with headers and nothing after them, `Never` not at all.
import { readFileSync } from "node:fs";
import http2 from "node:http2";
import readline from "node:readline";

const [cert, key, ca] = process.argv.slice(2).map((path) => readFileSync(path));
const server = http2.createSecureServer({ cert, key, ca, requestCert: true, rejectUnauthorized: true });
const seen = { sessions: 0, closed: 0, calls: 0, resets: 0 };

server.on("session", (session) => {
  seen.sessions += 1;
  session.on("error", () => {});
  session.on("close", () => (seen.closed += 1));
});
server.on("stream", (stream, headers) => {
  seen.calls += 1;
  stream.on("error", () => {});
  stream.on("aborted", () => (seen.resets += 1));
  const method = headers[":path"].split("/").at(-1);
  if (method === "Never" || stream.destroyed) return;
  stream.respond({ ":status": 200, "content-type": "application/grpc" }, { waitForTrailers: true });
  stream.on("wantTrailers", () => stream.sendTrailers({ "grpc-status": "0" }));
  if (method !== "Begins") stream.end(Buffer.alloc(5));
});
server.listen(0, "127.0.0.1", () => console.log(JSON.stringify({ port: server.address().port })));
readline.createInterface({ input: process.stdin }).on("line", () => console.log(JSON.stringify(seen)));
