import assert from "node:assert/strict";
import { test } from "node:test";
import { Client } from "../assets/api.js";
import { follow, isFinal } from "../assets/follow.js";
import { serve } from "./service.js";

const events = [
  { version: 1, type: "job.accepted" },
  { version: 2, type: "job.started" },
  { version: 3, type: "job.advanced", text: "Light — " },
  { version: 4, type: "job.failed", final: false },
  { version: 5, type: "job.started" },
  { version: 6, type: "job.advanced", text: "光" },
  { version: 7, type: "job.completed" },
];
const wire = (event) => `id: ${event.version}\nevent: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`;
const after = (request) => Number(request.headers["last-event-id"] ?? 0);
const open = (origin) => (version, signal) => new Client(origin).events("/jobs/1", version, signal);
const start = (response) => response.writeHead(200, { "Content-Type": "text/event-stream" });

async function collect(follower) {
  const all = [];
  for await (const event of follower) all.push(event);
  return all;
}

test("a stream cut at every boundary, and within every event, yields each event once", async (t) => {
  for (const half of [false, true]) {
    const asked = [];
    const origin = await serve(t, (request, response) => {
      asked.push(after(request));
      const [next, following] = events.slice(after(request));
      start(response).write(": here\n\n");
      response.write(wire(next));
      if (isFinal(next)) return response.end();
      if (half) response.write(wire(following).slice(0, 20));
      setImmediate(() => response.destroy());
    });
    let cuts = 0;
    const { signal } = new AbortController();
    assert.deepEqual(await collect(follow(open(origin), { signal, onCut: () => cuts++, pause: async () => {} })), events);
    assert.ok(cuts >= events.length - 1, `${cuts} cuts`); // a destroyed connection may lose an event that was already sent, so there may be more cuts
    assert.deepEqual(asked, asked.toSorted((a, b) => a - b));
    assert.equal(asked.at(-1), events.length - 1);
  }
});

test("repeated events are yielded once, and the final event ends the stream", async (t) => {
  const origin = await serve(t, (request, response) => {
    start(response);
    for (const event of [...events.slice(0, 3), ...events.slice(0, 3), ...events, { version: 8, type: "job.advanced" }]) response.write(wire(event));
  });
  const { signal } = new AbortController();
  assert.deepEqual(await collect(follow(open(origin), { signal })), events);
});

test("a busy, broken or unreachable service is retried after its Retry-After", async (t) => {
  const answers = [503, 429, 502, 0, 200];
  const origin = await serve(t, (request, response) => {
    const status = answers.shift();
    if (status === 0) return request.socket.destroy();
    if (status !== 200) return response.writeHead(status, { "Retry-After": "120" }).end();
    start(response).end(events.slice(after(request)).map(wire).join(""));
  });
  const waits = [];
  const pause = async (wait) => waits.push(wait);
  assert.deepEqual(await collect(follow(open(origin), { signal: new AbortController().signal, pause })), events);
  assert.deepEqual(waits.slice(0, 3), [120_000, 120_000, 120_000]);
  assert.ok(waits[3] > 0 && waits[3] <= 12_500, `${waits[3]} ms`);
});

test("waits grow with failures in a row and start over after an event", async (t) => {
  let requests = 0;
  const origin = await serve(t, (request, response) => {
    if (++requests % 5 !== 0) return response.writeHead(500).end();
    start(response).end(wire(events[after(request)]));
  });
  const waits = [];
  const pause = async (wait) => waits.push(wait);
  await collect(follow(open(origin), { signal: new AbortController().signal, pause }));
  const row = [500, 1000, 2000, 4000]; // waits in milliseconds until an event arrives; then the waits start again
  waits.slice(0, 12).forEach((wait, i) => {
    const want = i < 4 ? row[i] : [500, 1000, 2000, 4000, 8000][(i - 4) % 5];
    assert.ok(wait >= want * 0.75 && wait <= want * 1.25, `wait ${i} is ${wait} ms, want about ${want}`);
  });
});

test("a silent stream is closed and opened again", async (t) => {
  const origin = await serve(t, (request, response) => {
    start(response).write(after(request) === 0 ? wire(events[0]) : events.slice(after(request)).map(wire).join(""));
  });
  assert.deepEqual(await collect(follow(open(origin), { signal: new AbortController().signal, silence: 50, pause: async () => {} })), events);
});

test("an error that a retry cannot fix is thrown", async (t) => {
  const origin = await serve(t, (request, response) => response.writeHead(404).end());
  await assert.rejects(collect(follow(open(origin), { signal: new AbortController().signal })), { name: "Problem", status: 404 });
  const garbage = await serve(t, (request, response) => start(response).end("data: {\n\n"));
  await assert.rejects(collect(follow(open(garbage), { signal: new AbortController().signal })), SyntaxError);
});

test("an abort ends follow while it reads and while it waits", async (t) => {
  const origin = await serve(t, (request, response) => start(response).write(wire(events[0])));
  const reading = new AbortController();
  await assert.rejects(async () => {
    for await (const event of follow(open(origin), { signal: reading.signal })) if (event) reading.abort();
  }, { name: "AbortError" });

  const gone = await serve(t, (request) => request.socket.destroy());
  const waiting = new AbortController();
  const onCut = () => setImmediate(() => waiting.abort());
  await assert.rejects(collect(follow(open(gone), { signal: waiting.signal, onCut })), { name: "AbortError" });
});

test("only a job's last event is final", () => {
  const final = (event) => isFinal(event);
  assert.ok(["job.completed", "job.cancelled", "job.failed"].every((type) => final({ type })));
  assert.ok(final({ type: "job.failed", final: true }));
  assert.ok(!final({ type: "job.failed", final: false }));
  assert.ok(!["job.accepted", "job.started", "job.advanced", "job.unheard_of"].some((type) => final({ type })));
});
