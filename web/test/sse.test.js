import assert from "node:assert/strict";
import { test } from "node:test";
import { Parser, read } from "../assets/sse.js";

// text is a stream that uses every feature of the format.
const text = [
  ": a comment, which is a heartbeat here",
  "",
  "id: 1",
  "event: job.accepted",
  'data: {"version":1}',
  "",
  "id:2",
  "event:job.advanced",
  "data:no space, naïve “quotes”, 光と色, 🌈",
  "data:  one space kept",
  "data",
  "",
  "data: the id stays, the type does not",
  "",
  "event: dropped, because it has no data",
  "id: 3",
  "",
  "unknown: field",
  "retry: 10",
  "data: id \u00003 is not allowed",
  "id: \u00003",
  "",
  "id",
  "data: the id is empty again",
  "",
  "data: : colons : stay",
  "",
  "data",
  "",
  "data: cut off before its blank line",
];
const messages = [
  { id: "1", type: "job.accepted", data: '{"version":1}' },
  { id: "2", type: "job.advanced", data: "no space, naïve “quotes”, 光と色, 🌈\n one space kept\n" },
  { id: "2", type: "message", data: "the id stays, the type does not" },
  { id: "3", type: "message", data: "id \u00003 is not allowed" },
  { id: "", type: "message", data: "the id is empty again" },
  { id: "", type: "message", data: ": colons : stay" },
  { id: "", type: "message", data: "" },
];
const endings = ["\n", "\r\n", "\r"];

function body(...chunks) {
  return new ReadableStream({
    start(controller) {
      for (const chunk of chunks) controller.enqueue(chunk);
      controller.close();
    },
  });
}

async function collect(stream) {
  const all = [];
  for await (const message of read(stream)) all.push(message);
  return all;
}

test("a stream cut in two anywhere, even inside a character or a CRLF, has the same messages", async () => {
  for (const ending of endings) {
    const bytes = new TextEncoder().encode("\ufeff" + text.join(ending) + ending);
    for (let cut = 0; cut <= bytes.length; cut++) {
      assert.deepEqual(await collect(body(bytes.slice(0, cut), bytes.slice(cut))), messages, `${JSON.stringify(ending)} cut at ${cut}`);
    }
  }
});

test("a stream that arrives byte by byte has the same messages", async () => {
  for (const ending of endings) {
    const bytes = new TextEncoder().encode(text.join(ending) + ending);
    assert.deepEqual(await collect(body(...Array.from(bytes, (byte) => Uint8Array.of(byte)))), messages);
  }
});

test("line endings may be mixed, and a blank line completes a message at once", () => {
  const parser = new Parser();
  assert.deepEqual(parser.feed("id: 7\rdata: a\r\ndata: b\n\r"), [{ id: "7", type: "message", data: "a\nb" }]);
  assert.deepEqual(parser.feed("\n"), []);
  assert.deepEqual(parser.feed("data: c\n"), []);
  assert.deepEqual(parser.feed(""), []);
  assert.deepEqual(parser.feed("\n"), [{ id: "7", type: "message", data: "c" }]);
});

test("onBytes is called for everything that arrives, heartbeats included", async () => {
  let heard = 0;
  const encoder = new TextEncoder();
  const stream = body(encoder.encode(":\n\n"), encoder.encode(":\n\n"), encoder.encode("data: x\n\n"));
  for await (const message of read(stream, () => heard++)) assert.equal(message.data, "x");
  assert.equal(heard, 3);
});

test("a reader that leaves closes the stream", async () => {
  let cancelled = false;
  const stream = new ReadableStream({
    pull: (controller) => controller.enqueue(new TextEncoder().encode("data: x\n\n")),
    cancel: () => (cancelled = true),
  });
  for await (const message of read(stream)) if (message) break;
  assert.ok(cancelled);
});
