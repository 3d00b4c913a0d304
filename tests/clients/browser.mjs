// Drives Debian's Chromium: gRPC-Web and events from pages of another origin.
//
//   node browser.mjs [--case PART] [--protocol h2|http/1.1]
//
// It first serves its pages, writes {"await": "gateway", "origin", "foreign_origin"}
// and reads one line: {"url", "token"}; "origin" must be allowed by the
// gateway's CORS rules, "foreign_origin" must not. Then it speaks the protocol
// of protocol.py. A case has 20 s.
import { execFileSync } from "node:child_process";
import { createServer } from "node:http";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { build } from "esbuild";
import { chromium } from "playwright-core";
import { ask, awaitBegin, check, run } from "./protocol.mjs";

const { values: options } = parseArgs({
  options: { case: { type: "string", multiple: true }, protocol: { type: "string", multiple: true } },
});
const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const CASE_MS = 20_000;

function descriptors() {
  const folder = mkdtempSync(join(tmpdir(), "interop-"));
  try {
    const out = join(folder, "descriptors");
    const compile = ["-m", "grpc_tools.protoc", "-I../proto", `--descriptor_set_out=${out}`, "interop.proto"];
    execFileSync("../.venv/bin/python", compile, { cwd: here(".") });
    return readFileSync(out).toString("base64");
  } finally {
    rmSync(folder, { recursive: true });
  }
}

async function bundle() {
  const { outputFiles } = await build({
    entryPoints: [here("browser_page.js")],
    bundle: true,
    write: false,
    format: "iife",
    define: { INTEROP_DESCRIPTORS: JSON.stringify(descriptors()) },
  });
  return outputFiles[0].text;
}

// The same page on two ports, that is, from two origins.
async function servePages() {
  const script = await bundle();
  const origins = [];
  for (let i = 0; i < 2; i += 1) {
    const server = createServer((request, response) => {
      const isScript = request.url === "/page.js";
      response.setHeader("content-type", isScript ? "text/javascript" : "text/html");
      response.end(isScript ? script : '<!doctype html><title>page</title><script src="/page.js"></script>');
    });
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    origins.push(`http://localhost:${server.address().port}`);
  }
  return origins;
}

function launch(protocol) {
  return chromium.launch({
    executablePath: "/usr/bin/chromium",
    headless: true,
    args: [
      "--no-sandbox",
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
      ...(protocol === "h2" ? [] : ["--disable-http2"]),
    ],
  });
}

// A page in a context of its own (own caches), and what its network did.
async function open(browser, origin) {
  const context = await browser.newContext({ ignoreHTTPSErrors: true });
  const page = await context.newPage();
  page.setDefaultTimeout(CASE_MS);
  page.on("pageerror", (error) => console.error(error));
  await page.exposeFunction("awaitBegin", awaitBegin);
  const network = { preflights: 0, protocols: new Set() };
  const devtools = await context.newCDPSession(page);
  await devtools.send("Network.enable");
  devtools.on("Network.requestWillBeSent", (e) => {
    if (e.request.method === "OPTIONS") network.preflights += 1;
  });
  devtools.on("Network.responseReceived", (e) => {
    if (e.response.url.startsWith("https://")) network.protocols.add(e.response.protocol);
  });
  await page.goto(origin);
  return { page, network, close: () => context.close() };
}

function withTime(promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not done after ${CASE_MS} ms`)), CASE_MS);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

let calls = 0;
const newCall = () => `web-${++calls}`;

// Cases that look at the browser from the outside.
const outside = {
  async a_preflight_is_cached({ page, network }, { url, token }) {
    const at = { url, token, headers: { "x-call-id": newCall() } };
    await page.evaluate((a) => window.emptyCall(a), at);
    check(network.preflights === 1, "preflights after the first call", network.preflights);
    await page.evaluate((a) => window.emptyCall(a), at);
    check(network.preflights === 1, "preflights after the second call", network.preflights);
  },

  async events_stream_to_a_page({ page }, { url, token }) {
    const channel = "intellirouter:chain_engine:router_core:chain_execution_completed";
    await page.evaluate((a) => window.eventRoundTrip(a), { url, token, channel, payload: '{"from":"a page"}' });
  },
};

async function foreignOrigin(browser, origin, { url, token }) {
  const { page, close } = await open(browser, origin);
  const call = newCall();
  const at = { url, token, headers: { "x-call-id": call } };
  const error = await page.evaluate((a) => window.emptyCall(a).then(() => null, (e) => e.message ?? "error"), at);
  await close();
  check(error, "a page of a foreign origin got an answer");
  return { never_called: call };
}

// The calls share a page, so that what one leaves behind shows in the next;
// what depends on the browser's caches gets a page of its own.
function* casesFor(protocol, browser, shared, origins, gateway, rpcCases) {
  const named = (name) => `${protocol} ${name}`;
  const spoke = (network) => {
    const seen = [...network.protocols];
    check(seen.every((p) => p === protocol), "protocol in use", seen);
  };
  for (const library of ["connect", "text", "binary"]) {
    for (const name of rpcCases) {
      // grpc-web has no server streaming in its binary format.
      if (library === "binary" && /stream|message/.test(name)) continue;
      const at = { ...gateway, call: newCall() };
      const body = () => shared.page.evaluate(([l, n, a]) => window.runRpc(l, n, a), [library, name, at]);
      yield [named(`${library} ${name}`), () => withTime(body()).finally(() => spoke(shared.network))];
    }
  }
  for (const [name, body] of Object.entries(outside)) {
    const fresh = async () => {
      const opened = await open(browser, origins[0]);
      const result = await withTime(body(opened, gateway)).finally(opened.close);
      spoke(opened.network);
      return result;
    };
    yield [named(name), fresh];
  }
  yield [named("a_foreign_origin_is_refused"), () => withTime(foreignOrigin(browser, origins[1], gateway))];
}

async function main() {
  const origins = await servePages();
  const gateway = JSON.parse(await ask({ await: "gateway", origin: origins[0], foreign_origin: origins[1] }));
  let failed = 0;
  for (const protocol of options.protocol ?? ["h2", "http/1.1"]) {
    const browser = await launch(protocol);
    const shared = await open(browser, origins[0]);
    const rpcCases = await shared.page.evaluate(() => window.rpcCases);
    const cases = [...casesFor(protocol, browser, shared, origins, gateway, rpcCases)];
    const wanted = cases.filter(([name]) => !options.case || options.case.some((part) => name.includes(part)));
    check(wanted.length, "no such case", options.case);
    failed |= await run(wanted);
    await browser.close();
  }
  return failed;
}

process.exit(await main());
