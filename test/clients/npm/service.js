// What the scenarios need of the service itself, beside their client.
import assert from "node:assert/strict";

export const { STAGE: stage, URL: url, OTHER: other, LIMITED: limited, KEY: key } = process.env;
export const model = "opticks";

// The same request gives the same text, so that scenarios can compare answers.
export const prompt = "The nature of light";
export const long = 200; // tokens

// Clients may call no other host.
const { fetch: real } = globalThis;
globalThis.fetch = async (at, init) => {
  const { hostname } = new URL(at.url ?? at);
  assert.equal(hostname, "127.0.0.1");
  return real(at, init);
};

// call calls the service without a client.
export async function call(method, path, at = url, body = undefined) {
  const headers = { Authorization: `Bearer ${key}`, ...(body && { "Content-Type": "application/json" }) };
  const answer = await fetch(at + path, { method, headers, body: body && JSON.stringify(body) });
  assert.ok(answer.ok, `${method} ${path}: ${answer.status}`);
  return answer.json();
}

// ended waits until a job has ended and returns it.
export async function ended(id, at = url) {
  const stream = await fetch(`${at}/jobs/${id}/events`, { headers: { Authorization: `Bearer ${key}`, Accept: "text/event-stream" } });
  assert.ok(stream.ok, `stream: ${stream.status}`);
  await stream.text();
  return call("GET", `/jobs/${id}`, at);
}

// eventually polls until a value is truthy. It is for what no event announces.
export async function eventually(what, value) {
  for (const end = Date.now() + 60_000; Date.now() < end; await new Promise((next) => setTimeout(next, 20))) {
    const got = await value();
    if (got) return got;
  }
  throw new Error(`it never happened: ${what}`);
}

// accepted waits until a job with this prompt has been accepted and returns it.
export const accepted = (text, at) => eventually(`a job for ${text}`, async () => (await call("GET", "/jobs", at)).find((job) => job.prompt === text));

// counter is a fetch that counts its calls.
export function counter() {
  const counted = async (...args) => {
    if (`${args[0]}`.startsWith("http")) counted.calls++; // OpenAI's SDK also calls it to learn what it can do
    return fetch(...args);
  };
  counted.calls = 0;
  return counted;
}

// cancelledInTheMiddle starts texts until one is cancelled before its end. begin begins a text,
// leaves it after its first piece and returns the job's id. A short text may end before.
export async function cancelledInTheMiddle(begin) {
  for (let seed = 1; seed <= 20; seed++) {
    const job = await ended(await begin(seed));
    if (job.state === "cancelled") return job;
    assert.equal(job.state, "completed");
  }
  assert.fail("every job has ended before its client left");
}

const doomed = JSON.parse(process.env.DOOMED ?? "[]"); // processes that may be killed

// kill kills a process of the API in the middle of a text. begin begins a text at the process,
// and returns the job's id when the first piece has arrived. The worker stops for that time, so
// that the text cannot end. Returns what begin has returned last.
export async function kill(begin) {
  const { URL: at, PID: pid } = doomed.shift();
  const worker = Number(process.env.WORKER);
  for (let seed = 1; seed <= 20; seed++) {
    const begun = await begin(at, seed);
    process.kill(worker, "SIGSTOP");
    try {
      const { state } = await call("GET", `/jobs/${begun.job}`, other);
      if (state === "running") {
        process.kill(pid, "SIGKILL");
        return { ...begun, seed };
      }
    } finally {
      process.kill(worker, "SIGCONT");
    }
    await begun.leave();
  }
  assert.fail("every job was faster than the signal");
}
