// Follows a job to its end, and connects again when a connection is lost.

import { Problem } from "./problem.js";
import { read } from "./sse.js";

const first = 500; // milliseconds before the first new attempt; doubles with each attempt that fails
const longest = 10_000;

// follow yields the events of a job after a version, each exactly once and in order, and
// returns after the final event. open(after, signal) resolves to the body of an event
// stream. If a stream breaks, ends early or sends no byte for silence milliseconds, not
// even a heartbeat, follow opens it again from the last version that it has seen.
// Before each wait, it calls onCut with the wait in milliseconds.
//
// follow throws the errors of open that a retry cannot fix, and the signal's reason
// when the signal is aborted.
export async function* follow(open, { signal, after = 0, silence = 30_000, onCut = () => {}, pause = sleep }) {
  let version = after;
  let failures = 0; // number of failed attempts in a row
  for (;;) {
    let asked = 0;
    const watch = new AbortController();
    let timer;
    const heard = () => {
      clearTimeout(timer);
      timer = setTimeout(() => watch.abort(), silence);
    };
    try {
      heard();
      for await (const message of read(await open(version, AbortSignal.any([signal, watch.signal])), heard)) {
        const event = JSON.parse(message.data);
        if (event.version <= version) continue;
        version = event.version;
        failures = 0;
        yield event;
        if (isFinal(event)) return;
      }
    } catch (err) {
      signal.throwIfAborted();
      if (err instanceof SyntaxError || (err instanceof Problem && !err.temporary)) throw err;
      asked = (err.retryAfter ?? 0) * 1000;
    } finally {
      clearTimeout(timer);
      watch.abort();
    }
    const jitter = 0.75 + Math.random() / 2; // a random factor, so that many pages do not reconnect at the same time
    const wait = Math.max(asked, Math.min(longest, first * 2 ** failures++) * jitter);
    onCut(wait);
    await pause(wait, signal);
  }
}

// isFinal reports whether an event ends its job. Only job.erased may follow.
export function isFinal({ type, final }) {
  return type === "job.completed" || type === "job.cancelled" || type === "job.erased" || (type === "job.failed" && final !== false);
}

function sleep(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    const abort = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", abort);
      resolve();
    }, milliseconds);
    signal.addEventListener("abort", abort, { once: true });
  });
}
