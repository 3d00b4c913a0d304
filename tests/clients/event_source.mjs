// A page whose EventSource follows events by a ticket, in Debian's Chromium.
//
//   node event_source.mjs
//
// It serves its page, writes {"await": "gateway", "origin"} and reads one line:
// {"url", "token", "channel"}; "origin" must be allowed by the gateway's CORS
// rules. The page asks for a ticket, opens its EventSource and does nothing
// else. Each message of the stream is then written as {"event", "id", "data"},
// each fault of the EventSource as {"fault": "connecting" | "closed"}. Ends
// with its stdin.
import { createServer } from "node:http";
import { once } from "node:events";
import { chromium } from "playwright-core";
import { ask, emit } from "./protocol.mjs";

const TYPES = ["ir.open", "ir.gap", "ir.error", "ir.expiring", "chain_execution_completed"];

const server = createServer((_, response) => {
  response.setHeader("content-type", "text/html");
  response.end("<!doctype html><title>page</title>");
});
server.listen(0, "127.0.0.1");
await once(server, "listening");
const origin = `http://localhost:${server.address().port}`;
const { url, token, channel } = JSON.parse(await ask({ await: "gateway", origin }));

const browser = await chromium.launch({
  executablePath: "/usr/bin/chromium",
  headless: true,
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"],
});
const context = await browser.newContext({ ignoreHTTPSErrors: true });
const page = await context.newPage();
page.on("pageerror", (error) => console.error(error));
page.on("console", (message) => console.error(message.text()));
await page.exposeFunction("tell", emit);
await page.goto(origin);
await page.evaluate(
  async ({ url, token, channel, types }) => {
    const asked = await fetch(`${url}/events/ticket`, {
      method: "POST",
      headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
      body: JSON.stringify({ channels: [channel] }),
    });
    if (asked.status !== 201) throw new Error(`ticket: ${asked.status} ${await asked.text()}`);
    const { url: path } = await asked.json();
    // The cookie with which the browser comes back is of another site.
    const source = new EventSource(url + path, { withCredentials: true });
    for (const type of types) {
      source.addEventListener(type, ({ data, lastEventId }) =>
        window.tell({ event: type, id: lastEventId, data: JSON.parse(data) }),
      );
    }
    source.onerror = () => window.tell({ fault: source.readyState === EventSource.CLOSED ? "closed" : "connecting" });
  },
  { url, token, channel, types: TYPES },
);
// Until the test has seen enough.
process.stdin.on("end", () => process.exit(0));
process.stdin.resume();
