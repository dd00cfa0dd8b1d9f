// The scenarios of LangChain.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { AIMessage, HumanMessage, SystemMessage } from "@langchain/core/messages";
import { ChatOpenAI, OpenAI } from "@langchain/openai";
import { call, cancelledInTheMiddle, eventually, key, limited, long, model, prompt, url } from "./service.js";

const settings = (base, options = {}) => {
  const { fetch, apiKey = key, ...others } = options;
  return { model, apiKey, temperature: 0, maxTokens: 40, configuration: { baseURL: `${base}/v1`, ...(fetch && { fetch }) }, ...others };
};

// The operations differ in their classes, and in what they return.
const operations = {
  completions: {
    at: (base, options) => new OpenAI(settings(base, options)),
    text: (answer) => answer,
    unsupported: { modelKwargs: { suffix: "end" } },
  },
  chat: {
    at: (base, options) => new ChatOpenAI(settings(base, options)),
    text: (message) => message.text,
    unsupported: { modelKwargs: { prediction: { type: "content", content: "x" } } },
  },
  responses: {
    at: (base, options) => new ChatOpenAI({ ...settings(base, options), useResponsesApi: true }),
    text: (message) => message.text,
    unsupported: { modelKwargs: { conversation: "conv_1" } },
  },
};

// seen is a fetch that keeps the bodies of its requests.
function seen() {
  const recorder = async (at, init) => {
    recorder.sent.push(JSON.parse(init.body));
    return fetch(at, init);
  };
  return Object.assign(recorder, { sent: [] });
}

for (const [name, operation] of Object.entries(operations)) {
  describe(name, { concurrency: true }, () => {
    test(`${name}: a text is that of its job`, async () => {
      const text = operation.text(await operation.at(url).invoke(`${prompt} ${name}`));
      const job = (await call("GET", "/jobs")).find((job) => job.prompt === `${prompt} ${name}`);
      assert.equal(text, job.completion);
      assert.ok(text);
    });
    test(`${name}: a stream has the same text as one answer`, async () => {
      const pieces = [];
      for await (const piece of await operation.at(url).stream(prompt)) pieces.push(operation.text(piece));
      assert.equal(pieces.join(""), operation.text(await operation.at(url).invoke(prompt)));
      assert.ok(pieces.filter(Boolean).length > 1);
    });
    test(`${name}: a client that leaves its stream cancels the job`, async () => {
      await cancelledInTheMiddle(async (seed) => {
        const text = `Light of ${name} ${seed}`;
        const leave = new AbortController();
        const stream = await operation.at(url, { maxTokens: long }).stream(text, { signal: leave.signal });
        try {
          for await (const piece of stream) if (operation.text(piece)) leave.abort();
        } catch (err) {
          assert.ok(leave.signal.aborted, err);
        }
        return (await call("GET", "/jobs")).find((job) => job.prompt === text).id;
      });
    });
    test(`${name}: errors 400, 401 and 404 have their codes, and are not retried`, async () => {
      const fetch = seen();
      for (const [status, code, options] of [
        [400, "unsupported_parameter", operation.unsupported],
        [401, "invalid_api_key", { apiKey: "sk-colophon-wrong" }],
        [404, "model_not_found", { model: "gpt-none" }],
        [400, "invalid_request", { temperature: 5 }], // LangChain would send it seven times after another status
      ]) {
        await assert.rejects(operation.at(url, { fetch, ...options }).invoke(prompt), (err) => {
          assert.deepEqual([err.status, err.code], [status, code], err.stack);
          return true;
        });
      }
      assert.equal(fetch.sent.length, 4);
    });
    test(`${name}: a request beyond the rate is sent again and succeeds`, async () => {
      const fetch = seen();
      let sent = 0;
      await eventually("a request beyond the rate", async () => {
        sent++;
        await operation.at(limited, { fetch, maxTokens: 1 }).invoke(prompt);
        return fetch.sent.length > sent;
      });
    });
    if (name !== "completions") {
      test(`${name}: a conversation becomes the prompt`, async () => {
        const text = `And colour for ${name}?`;
        await operation.at(url).invoke([new SystemMessage("You know optics."), new HumanMessage("What is light?"), new AIMessage("A ray."), new HumanMessage(text)]);
        const wanted = `You know optics.\n\nuser:\nWhat is light?\n\nassistant:\nA ray.\n\nuser:\n${text}\n\nassistant:\n`;
        assert.ok((await call("GET", "/jobs")).some((job) => job.prompt === wanted));
      });
    }
  });
}

test("completions: the prompt is a list, with n 1", async () => {
  const fetch = seen();
  await operations.completions.at(url, { fetch }).invoke(prompt);
  assert.deepEqual([fetch.sent[0].prompt, fetch.sent[0].n], [[prompt], 1]);
});
test("responses: the member text is empty", async () => {
  const fetch = seen();
  await operations.responses.at(url, { fetch }).invoke(prompt);
  assert.deepEqual(fetch.sent[0].text, {});
});
