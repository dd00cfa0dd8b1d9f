// The scenarios of OpenAI's SDK. Each stage needs the service in another state:
//   live    the service works as usual
//   idle    there is no worker
//   killed  processes of the API are killed
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import OpenAI from "openai";
import { accepted, call, cancelledInTheMiddle, counter, ended, eventually, key, kill, limited, long, model, other, prompt, stage, url } from "./service.js";

const at = (base, options) => new OpenAI({ baseURL: `${base}/v1`, apiKey: key, ...options });
const client = at(url);

// The three operations that make texts. Their answers and their chunks differ.
const surfaces = {
  completions: {
    create: (c, body, options) => c.completions.create({ model, prompt, temperature: 0, ...body }, options),
    length: (n) => ({ max_tokens: n }),
    input: (text) => ({ prompt: text }),
    unsupported: { best_of: 3 },
    text: (answer) => answer.choices[0].text,
    piece: (chunk) => chunk.choices[0]?.text ?? "",
    job: (answer) => answer.id.replace(/^cmpl-/, ""),
    usage: (u) => [u.prompt_tokens, u.completion_tokens],
  },
  chat: {
    create: (c, body, options) => c.chat.completions.create({ model, messages: [{ role: "user", content: prompt }], temperature: 0, ...body }, options),
    length: (n) => ({ max_completion_tokens: n }),
    input: (text) => ({ messages: [{ role: "user", content: text }] }),
    unsupported: { tools: [{ type: "function", function: { name: "f" } }] },
    text: (answer) => answer.choices[0].message.content,
    piece: (chunk) => chunk.choices[0]?.delta.content ?? "",
    job: (answer) => answer.id.replace(/^chatcmpl-/, ""),
    usage: (u) => [u.prompt_tokens, u.completion_tokens],
  },
  responses: {
    create: (c, body, options) => c.responses.create({ model, input: prompt, temperature: 0, ...body }, options),
    length: (n) => ({ max_output_tokens: n }),
    input: (text) => ({ input: text }),
    unsupported: { tools: [{ type: "web_search" }] },
    text: (answer) => answer.output_text,
    piece: (event) => (event.type === "response.output_text.delta" ? event.delta : ""),
    job: (answer) => answer.id.replace(/^resp_/, ""),
    usage: (u) => [u.input_tokens, u.output_tokens],
  },
};

// jobOf returns the id of the job of a chunk, if the chunk has one.
const jobOf = (surface, chunk) => (chunk.response ?? chunk).id && surface.job(chunk.response ?? chunk);

// begin reads a stream up to its first piece of text.
async function begin(surface, stream) {
  const chunks = stream[Symbol.asyncIterator]();
  for (let job; ; ) {
    const { value, done } = await chunks.next();
    assert.ok(!done, "the stream ended without a text");
    job ??= jobOf(surface, value);
    if (surface.piece(value)) return { chunks, first: value, job, leave: () => chunks.return() };
  }
}

async function refused(surface, c, body, status, code, kind) {
  await assert.rejects(surface.create(c, body), (err) => {
    assert.ok(err instanceof kind, `${err}`);
    assert.deepEqual([err.status, err.code], [status, code]);
    assert.ok(err.message && err.requestID);
    return true;
  });
}

for (const [name, surface] of Object.entries(surfaces)) {
  if (stage === "live") {
    describe(name, { concurrency: true }, () => {
      test(`${name}: a text is that of its job`, async () => {
        const answer = await surface.create(client, surface.length(40));
        const job = await call("GET", `/jobs/${surface.job(answer)}`);
        assert.equal(surface.text(answer), job.completion);
        assert.ok(job.completion);
        assert.deepEqual(surface.usage(answer.usage), [job.usage.prompt_tokens, job.usage.completion_tokens]);
      });
      test(`${name}: a stream has the same text and usage as one answer`, async () => {
        const body = { ...surface.length(40), ...(name === "responses" ? {} : { seed: 7, temperature: 1 }) };
        const answer = await surface.create(client, body);
        const options = name === "responses" ? {} : { stream_options: { include_usage: true } };
        let text = "";
        let pieces = 0;
        let usage;
        for await (const chunk of await surface.create(client, { ...body, stream: true, ...options })) {
          text += surface.piece(chunk);
          pieces += surface.piece(chunk) ? 1 : 0;
          usage = chunk.usage ?? chunk.response?.usage ?? usage;
        }
        assert.equal(text, surface.text(answer));
        assert.ok(pieces > 1);
        assert.deepEqual(surface.usage(usage), surface.usage(answer.usage));
      });
      test(`${name}: a client that leaves its stream cancels the job`, async () => {
        const job = await cancelledInTheMiddle(async (seed) => {
          const { job, leave } = await begin(surface, await surface.create(client, { ...surface.input(`Light ${seed}`), ...surface.length(long), stream: true }));
          await leave();
          return job;
        });
        assert.ok(job.usage.completion_tokens < long);
      });
      test(`${name}: errors 400, 401 and 404 have their classes and codes, and are not retried`, async () => {
        const fetch = counter();
        const counted = at(url, { fetch });
        await refused(surface, counted, surface.unsupported, 400, "unsupported_parameter", OpenAI.BadRequestError);
        await refused(surface, at(url, { fetch, apiKey: "sk-colophon-wrong" }), {}, 401, "invalid_api_key", OpenAI.AuthenticationError);
        await refused(surface, counted, { model: "gpt-none" }, 404, "model_not_found", OpenAI.NotFoundError);
        await refused(surface, counted, { temperature: 5 }, 400, "invalid_request", OpenAI.BadRequestError);
        assert.equal(fetch.calls, 4);
      });
      test(`${name}: a request beyond the rate is sent again and succeeds`, async () => {
        const fetch = counter();
        const counted = at(limited, { fetch });
        let sent = 0;
        await eventually("a request beyond the rate", async () => {
          sent++;
          const answer = await surface.create(counted, surface.length(1));
          assert.ok(answer.id);
          return fetch.calls > sent;
        });
      });
    });
  }
  if (stage === "idle") {
    describe(name, { concurrency: true }, () => {
      test(`${name}: a client that leaves before the answer cancels the job`, async () => {
        const text = `A ${name} client that leaves`;
        const leave = new AbortController();
        const answer = surface.create(client, surface.input(text), { signal: leave.signal });
        const job = await accepted(text);
        leave.abort();
        await assert.rejects(answer, OpenAI.APIUserAbortError);
        assert.equal((await ended(job.id)).state, "cancelled");
      });
      test(`${name}: the error 409 of a cancelled job is not retried`, async () => {
        const fetch = counter();
        const text = `A ${name} job that is cancelled`;
        const answer = surface.create(at(url, { fetch }), surface.input(text));
        answer.catch(() => {});
        await call("POST", `/jobs/${(await accepted(text)).id}/cancel`);
        await assert.rejects(answer, (err) => err instanceof OpenAI.ConflictError && err.code === "job_cancelled" && err.headers.get("x-should-retry") === "false");
        assert.equal(fetch.calls, 1);
      });
      test(`${name}: the error 429 of too many jobs is retried twice`, async () => {
        const fetch = counter();
        const full = at(limited, { fetch });
        await assert.rejects(surface.create(full, {}), (err) => err instanceof OpenAI.RateLimitError && err.code === "too_many_jobs");
        assert.equal(fetch.calls, 3);
      });
    });
  }
  if (stage === "killed") {
    test(`${name}: a stream goes on at another process after a kill of the first`, async () => {
      const wanted = (seed) => ({ ...surface.input(`Light ${seed}`), ...surface.length(long), ...(name === "responses" ? {} : { seed }) });
      const idempotencyKey = (seed) => ({ headers: { "Idempotency-Key": `${name}-killed-${seed}` } });
      const streamed = { stream: true, ...(name === "responses" ? { background: true } : {}) };
      const { chunks, first, job, seed } = await kill(async (base, seed) =>
        begin(surface, await surface.create(at(base, { maxRetries: 0 }), { ...wanted(seed), ...streamed }, name === "responses" ? {} : idempotencyKey(seed))),
      );
      let text = surface.piece(first);
      let last = first.sequence_number;
      await assert.rejects(async () => {
        for (;;) {
          const { value, done } = await chunks.next();
          if (done) return;
          text += surface.piece(value);
          last = value.sequence_number;
        }
      });
      if (name === "responses") {
        let status;
        for await (const event of await at(other).responses.retrieve(`resp_${job}`, { stream: true, starting_after: last })) {
          assert.equal(event.sequence_number, ++last);
          text += surface.piece(event);
          status = event.response?.status ?? status;
        }
        assert.ok(["completed", "incomplete"].includes(status), status);
      } else {
        text = ""; // the stream with the same key begins again
        for await (const chunk of await surface.create(at(other), { ...wanted(seed), ...streamed }, idempotencyKey(seed))) {
          assert.equal(surface.job(chunk), job);
          text += surface.piece(chunk);
        }
      }
      assert.equal(text, surface.text(await surface.create(at(other), wanted(seed))));
    });
  }
}

if (stage === "live") {
  describe("more", { concurrency: true }, () => {
    test("responses: a background response is polled at another process", async () => {
      const begun = await client.responses.create({ model, input: prompt, temperature: 0, background: true });
      assert.ok(["queued", "in_progress"].includes(begun.status));
      const got = await eventually("the response is completed", async () => {
        const got = await at(other).responses.retrieve(begun.id);
        return got.status === "completed" && got;
      });
      assert.equal(got.output_text, (await client.responses.create({ model, input: prompt, temperature: 0 })).output_text);
      assert.ok(got.output_text);
    });
    test("responses: a background response is cancelled, and again", async () => {
      await cancelledInTheMiddle(async (seed) => {
        const begun = await client.responses.create({ model, input: `Light ${seed}`, max_output_tokens: long, background: true });
        const { status } = await client.responses.cancel(begun.id);
        assert.equal((await at(other).responses.cancel(begun.id)).status, status);
        return begun.id.replace("resp_", "");
      });
    });
    test("responses: the stream of an ended response is the same at both processes, whole and after a number", async () => {
      const events = [];
      for await (const event of await client.responses.create({ model, input: prompt, temperature: 0, stream: true })) events.push(event);
      const { id } = events[0].response;
      for (const c of [client, at(other)]) {
        for (const after of [-1, 0, 4, events.length - 2]) {
          const query = { stream: true, ...(after < 0 ? {} : { starting_after: after }) };
          assert.deepEqual(await collect(await c.responses.retrieve(id, query)), events.slice(after + 1));
        }
      }
      const last = await at(other).responses.stream({ response_id: id, starting_after: 4 }).finalResponse();
      assert.equal(last.output_text, events.at(-1).response.output[0].content[0].text);
    });
    test("responses: a response is continued, listed, counted and deleted", async () => {
      const first = await client.responses.create({ model, input: prompt, instructions: "You know optics.", max_output_tokens: 10 });
      const next = { model, previous_response_id: first.id, input: [{ role: "user", content: "Go on." }] };
      const second = await at(other).responses.create({ ...next, max_output_tokens: 10 });
      assert.equal(second.previous_response_id, first.id);
      const job = await call("GET", `/jobs/${second.id.replace("resp_", "")}`);
      assert.ok(job.prompt.includes(prompt) && job.prompt.includes(first.output_text) && !job.prompt.includes("optics"), job.prompt);
      assert.equal((await client.responses.inputTokens.count(next)).input_tokens, second.usage.input_tokens);
      const items = await collect(await client.responses.inputItems.list(second.id));
      assert.deepEqual(items.map((item) => [item.role, item.content[0].text]), [["user", "Go on."]]);
      await client.responses.delete(first.id);
      await client.responses.delete(first.id);
      await assert.rejects(at(other).responses.retrieve(first.id), (err) => err instanceof OpenAI.NotFoundError && err.code === "response_erased");
      await assert.rejects(client.responses.create(next), (err) => err instanceof OpenAI.BadRequestError && err.code === "previous_response_erased");
    });
    test("models: the model is listed and described", async () => {
      const models = await collect(await client.models.list());
      assert.deepEqual(models.map((m) => m.id), [model]);
      assert.deepEqual(await client.models.retrieve(model), models[0]);
      await assert.rejects(client.models.retrieve("gpt-none"), (err) => err instanceof OpenAI.NotFoundError && err.code === "model_not_found");
    });
  });
}

async function collect(iterable) {
  const all = [];
  for await (const one of iterable) all.push(one);
  return all;
}
