// The scenarios of the AI SDK with the provider that PROVIDER names.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { createOpenResponses } from "@ai-sdk/open-responses";
import { APICallError, generateText, streamText } from "ai";
import { call, cancelledInTheMiddle, counter, eventually, key, limited, long, model, prompt, url } from "./service.js";

globalThis.AI_SDK_LOG_WARNINGS = false;

// Each provider returns the models of its operations.
const provider = {
  "@ai-sdk/openai": (base, options) => {
    const p = createOpenAI({ baseURL: `${base}/v1`, apiKey: key, ...options });
    return { completions: p.completion, chat: p.chat, responses: p.responses };
  },
  "@ai-sdk/openai-compatible": (base, options) => {
    const p = createOpenAICompatible({ name: "colophon", baseURL: `${base}/v1`, apiKey: key, includeUsage: true, ...options });
    return { completions: p.completionModel, chat: p.chatModel };
  },
  "@ai-sdk/open-responses": (base, options) => ({
    responses: createOpenResponses({ name: "colophon", url: `${base}/v1/responses`, apiKey: key, ...options }),
  }),
}[process.env.PROVIDER];

const jobOf = (id) => id.replace(/^(cmpl|chatcmpl|resp)[-_]/, "");

for (const operation of Object.keys(provider(url))) {
  const at = (base, options, name = model) => provider(base, options)[operation](name);
  const short = { model: at(url), prompt, temperature: 0, maxOutputTokens: 40 };

  describe(operation, { concurrency: true }, () => {
    test(`${operation}: a text is that of its job`, async () => {
      const { text, usage, response, finishReason } = await generateText(short);
      const job = await call("GET", `/jobs/${jobOf(response.id)}`);
      assert.equal(text, job.completion);
      assert.ok(text);
      assert.deepEqual([usage.inputTokens, usage.outputTokens], [job.usage.prompt_tokens, job.usage.completion_tokens]);
      assert.ok(["stop", "length"].includes(finishReason), finishReason);
    });
    test(`${operation}: a stream has the same text and usage as one answer`, async () => {
      const answer = await generateText(short);
      const stream = streamText(short);
      const pieces = [];
      for await (const piece of stream.textStream) pieces.push(piece);
      assert.equal(pieces.join(""), answer.text);
      assert.ok(pieces.length > 1);
      const usage = await stream.usage;
      assert.deepEqual([usage.inputTokens, usage.outputTokens], [answer.usage.inputTokens, answer.usage.outputTokens]);
      assert.equal(await stream.finishReason, answer.finishReason);
    });
    test(`${operation}: a conversation becomes the prompt`, async () => {
      const messages = [
        { role: "user", content: "What is light?" },
        { role: "assistant", content: [{ type: "text", text: "A ray." }] },
        { role: "user", content: [{ type: "text", text: "And " }, { type: "text", text: "colour?" }] },
      ];
      const { response } = await generateText({ ...short, prompt: undefined, system: "You know optics.", messages, maxOutputTokens: 5 });
      const job = await call("GET", `/jobs/${jobOf(response.id)}`);
      assert.equal(job.prompt, "You know optics.\n\nuser:\nWhat is light?\n\nassistant:\nA ray.\n\nuser:\nAnd colour?\n\nassistant:\n");
    });
    test(`${operation}: a client that leaves its stream cancels the job`, async () => {
      await cancelledInTheMiddle(async (seed) => {
        const leave = new AbortController();
        const stream = streamText({ ...short, prompt: `Light ${seed}`, maxOutputTokens: long, abortSignal: leave.signal, includeRawChunks: true });
        let job;
        for await (const part of stream.fullStream) {
          if (part.type === "raw") job ??= jobOf(part.rawValue.id ?? part.rawValue.response.id);
          if (part.type === "text-delta") leave.abort();
        }
        return job;
      });
    });
    test(`${operation}: errors 400, 401 and 404 have their messages, and are not retried`, async () => {
      const fetch = counter();
      for (const [status, code, options] of [
        [400, "unsupported_parameter", { model: at(url, { fetch: changed(fetch, { tools: [{ type: "function" }], best_of: 3 }) }) }],
        [401, "invalid_api_key", { model: at(url, { fetch, apiKey: "sk-colophon-wrong" }) }],
        [404, "model_not_found", { model: at(url, { fetch }, "gpt-none") }],
        [400, "invalid_request", { model: at(url, { fetch }), temperature: 5 }],
      ]) {
        await assert.rejects(generateText({ ...short, ...options }), (err) => {
          assert.ok(APICallError.isInstance(err), err.stack);
          const { error } = JSON.parse(err.responseBody);
          assert.deepEqual([err.statusCode, error.code, err.isRetryable], [status, code, false]);
          // This provider reads no error without a param, although the specification has them.
          const unread = process.env.PROVIDER === "@ai-sdk/open-responses" && error.param === null;
          assert.equal(err.message, unread ? "Unauthorized" : error.message);
          return true;
        });
      }
      assert.equal(fetch.calls, 4);
    });
    test(`${operation}: a request beyond the rate is sent again and succeeds`, async () => {
      const fetch = counter();
      let sent = 0;
      await eventually("a request beyond the rate", async () => {
        sent++;
        await generateText({ ...short, model: at(limited, { fetch }), maxOutputTokens: 1 });
        return fetch.calls > sent;
      });
    });
    if (operation === "responses") {
      test(`${operation}: items of the input have no type`, async () => {
        const sent = [];
        const fetch = counter();
        await generateText({ ...short, model: at(url, { fetch: (at, init) => (sent.push(JSON.parse(init.body)), fetch(at, init)) }) });
        assert.deepEqual(sent[0].input.map((item) => item.type), process.env.PROVIDER === "@ai-sdk/openai" ? [undefined] : ["message"]);
      });
    }
  });
}

// changed is a fetch that adds members to the bodies of its requests.
function changed(fetch, members) {
  return (at, init) => fetch(at, { ...init, body: JSON.stringify({ ...JSON.parse(init.body), ...members }) });
}
