// How a client script talks to the test that runs it; the same protocol as
// protocol.py, which describes it.
import { createInterface } from "node:readline";

const input = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

export const emit = (fields) => process.stdout.write(JSON.stringify(fields) + "\n");

// Writes a question and resolves to the line that answers it.
export async function ask(question) {
  emit(question);
  const { value, done } = await input.next();
  if (done) throw new Error("stdin ended before the answer");
  return value;
}

// Resolves when the service has seen the call; with no test around, on Enter.
export const awaitBegin = (call) => ask({ await: "begin", call });

export const cancelled = (call) => ({ call, cancelled_at: Date.now() });

export function check(condition, ...what) {
  if (!condition) throw new Error("check failed: " + what.map((w) => JSON.stringify(w)).join(" "));
}

// Runs the cases one after the other, reports each, and gives the exit status.
export async function run(cases) {
  let failed = 0;
  for (const [name, body] of cases) {
    try {
      emit({ case: name, ok: true, ...(await body()) });
    } catch (error) {
      failed += 1;
      emit({ case: name, ok: false, detail: String(error?.stack ?? error) });
    }
  }
  return failed ? 1 : 0;
}
