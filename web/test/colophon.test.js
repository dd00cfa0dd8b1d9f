import assert from "node:assert/strict";
import { test } from "node:test";
import { blank, ended, fold, lines, quote, request, sentence, since, unquote } from "../assets/colophon.js";

const at = (seconds) => new Date(Date.parse("2025-08-01T12:00:00Z") + seconds * 1000).toISOString();
const accepted = {
  version: 1, type: "job.accepted", at: at(0), prompt: "The Rays", prompt_tokens: 2, model: "opticks", stop: ["\n"],
  params: { max_tokens: 48, temperature: 0, top_k: 40, top_p: 1, seed: 9007199254740991 },
};
const started = { version: 2, type: "job.started", at: at(1), attempt: 1, weights: "sha256:ab/f32", kernel: "go/amd64" };
const advanced = { version: 3, type: "job.advanced", at: at(2), tokens: [1, 2, 3], text: " of Light" };
const completed = { version: 4, type: "job.completed", at: at(2.5), finish_reason: "stop" };
const record = (...events) => events.reduce(fold, blank);
const told = (r) => Object.fromEntries(lines("job-1", r));

test("a finished job has every line of its colophon", () => {
  const r = record(accepted, started, advanced, completed);
  assert.ok(ended(r));
  assert.match(sentence(r), /^Written by opticks in 1\.50 seconds, on .*2025/);
  assert.deepEqual(told(r), {
    Seed: "9007199254740991",
    Settings: "at most\u00a048 new tokens · temperature\u00a00 · top-k\u00a040 · top-p\u00a01 · stop at\u00a0\"\\n\"",
    Tokens: "2 in the beginning, 3 written, 2 a second",
    Ended: "at a natural end or a stop string",
    Weights: "sha256:ab/f32",
    Kernel: "go/amd64",
    Job: "job-1",
    Events: "1 to 4",
  });
  assert.equal(since(r, advanced.at), "+2.00 s");
});

test("the repeated request equals the first one", () => {
  assert.deepEqual(request(record(accepted)), { prompt: "The Rays", max_new_tokens: 48, temperature: 0, top_k: 40, top_p: 1, seed: 9007199254740991, stop: ["\n"] });
  assert.equal("stop" in request(record({ ...accepted, stop: undefined })), false);
  const params = { ...accepted.params, presence_penalty: 0.5, logit_bias: { 7: -100 }, min_tokens: 1 };
  const repeated = request(record({ ...accepted, params }));
  assert.deepEqual([repeated.presence_penalty, repeated.logit_bias, repeated.min_tokens], [0.5, { 7: -100 }, 1]);
  assert.match(told(record({ ...accepted, params })).Settings, /presence penalty.0\.5 · logit bias for.1 token · at least.1 new token/);
  const watermark = { key: "020ca29fff479ebe", parameters: "gumbel-h3-s8/1" };
  assert.equal(request(record({ ...accepted, watermark })).watermark, true);
  assert.equal(told(record({ ...accepted, watermark })).Watermark, "key 020ca29fff479ebe, gumbel-h3-s8/1");
});

test("users can write every stop string", () => {
  for (const stop of [[], ["\n"], ["The end", ", ", '"', "\\", "é\u0000"]]) assert.deepEqual(unquote(quote(stop)), stop);
  for (const text of ["x", '"x', '"x",', "1", "null", '["x"]', '"x"], ["y"']) assert.equal(unquote(text), null, text);
});

test("a failed attempt counts and does not end the job", () => {
  const failed = { version: 3, type: "job.failed", at: at(2), reason: "the worker stopped", final: false };
  const waiting = record(accepted, started, failed);
  assert.equal(waiting.state, "queued");
  const r = [{ ...started, version: 4 }, { ...completed, version: 5 }].reduce(fold, waiting);
  assert.equal(r.state, "completed");
  assert.equal(told(r).Attempts, "2");
});

test("a failed or cancelled job has its reason", () => {
  const failed = record(accepted, started, { version: 3, type: "job.failed", at: at(90), reason: "out of memory", final: true });
  assert.match(sentence(failed), /^Begun by opticks, which failed after 1 minute and 29 seconds/);
  assert.equal(told(failed).Ended, "out of memory");

  const cancelled = record(accepted, { version: 2, type: "job.cancelled", at: at(1), by: "owner" });
  assert.match(sentence(cancelled), /^Given up before opticks began/);
  assert.equal(told(cancelled).Ended, "by request");
  assert.equal(told(cancelled).Tokens, "2 in the beginning, 0 written");
});

test("an event of a later version is kept and harms nothing", () => {
  const r = record(accepted, { version: 2, type: "job.praised", at: at(1) });
  assert.equal(r.state, "queued");
  assert.equal(r.events.length, 2);
});
