// The scenarios of log probabilities, with the client that PROVIDER names. The numbers must be
// those that a worker computes later from the text alone. The AI SDK keeps those of the last chunk
// of a completion's stream, so its chunks are read. LangChain keeps none of a completion's stream
// and of responses.
import assert from "node:assert/strict";
import { test } from "node:test";
import { createOpenAI } from "@ai-sdk/openai";
import { ChatOpenAI, OpenAI as Completions } from "@langchain/openai";
import { generateText, streamText } from "ai";
import OpenAI from "openai";
import { call, ended, key, model, prompt, url } from "./service.js";

globalThis.AI_SDK_LOG_WARNINGS = false;

const top = 3; // alternatives at each position
const tokens = 40;
const messages = [{ role: "user", content: prompt }];
const jobOf = (id) => id.replace(/^(cmpl|chatcmpl|resp)[-_]/, "");

// Answers have the id and a list of log probabilities in the form of their operation, which may
// be in parts.
const openai = () => {
  const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: key });
  const completion = { model, prompt, temperature: 0, max_tokens: tokens, logprobs: top };
  const chat = { model, messages, temperature: 0, max_completion_tokens: tokens, logprobs: true, top_logprobs: top };
  const response = { model, input: prompt, temperature: 0, max_output_tokens: tokens, top_logprobs: top, include: ["message.output_text.logprobs"] };
  const chunks = async (stream, of) => {
    const parts = [];
    let id;
    for await (const chunk of await stream) {
      id ??= chunk.id;
      if (chunk.choices[0]?.logprobs) parts.push(of(chunk.choices[0].logprobs));
    }
    return { id, parts };
  };
  const whole = (answer, of) => ({ id: answer.id, parts: [of(answer.choices[0].logprobs)] });
  const all = (logprobs) => logprobs;
  const content = (logprobs) => logprobs.content;
  return {
    "completions: an answer": async () => whole(await client.completions.create(completion), all),
    "completions: a stream": () => chunks(client.completions.create({ ...completion, stream: true }), all),
    "chat: an answer": async () => whole(await client.chat.completions.create(chat), content),
    "chat: a stream": () => chunks(client.chat.completions.create({ ...chat, stream: true }), content),
    "responses: an answer": async () => {
      const answer = await client.responses.create(response);
      return { id: answer.id, parts: [answer.output[0].content[0].logprobs] };
    },
    "responses: a stream": async () => {
      const parts = [];
      let done;
      let last;
      for await (const event of await client.responses.create({ ...response, stream: true })) {
        if (event.type === "response.output_text.delta") parts.push(event.logprobs);
        if (event.type === "response.output_text.done") done = event.logprobs;
        last = event.response ?? last;
      }
      assert.deepEqual(done, parts.flat());
      assert.deepEqual(last.output[0].content[0].logprobs, done);
      return { id: last.id, parts };
    },
  };
};

const aiSDK = () => {
  const provider = createOpenAI({ baseURL: `${url}/v1`, apiKey: key });
  const answer = async (of) => {
    const { response, providerMetadata } = await generateText(of);
    return { id: response.id, parts: [providerMetadata.openai.logprobs].flat() };
  };
  const stream = async (of) => {
    const streamed = streamText({ ...of, includeRawChunks: true });
    const raw = [];
    for await (const part of streamed.fullStream) if (part.type === "raw") raw.push(part.rawValue);
    return { raw, id: (await streamed.response).id, parts: [(await streamed.providerMetadata).openai.logprobs].flat() };
  };
  const of = (kind) => ({ model: provider[kind](model), prompt, temperature: 0, maxOutputTokens: tokens, providerOptions: { openai: { logprobs: top } } });
  return {
    "completions: an answer": () => answer(of("completion")),
    "completions: a stream": async () => {
      const { raw, id, parts } = await stream(of("completion"));
      const chunks = raw.map((chunk) => chunk.choices[0]?.logprobs).filter(Boolean);
      assert.deepEqual(parts.map((part) => part.tokens), [chunks.at(-1).tokens]);
      return { id, parts: chunks };
    },
    "chat: an answer": () => answer(of("chat")),
    "chat: a stream": () => stream(of("chat")),
    "responses: an answer": () => answer(of("responses")),
    "responses: a stream": () => stream(of("responses")),
  };
};

const langChain = () => {
  const settings = { model, apiKey: key, temperature: 0, maxTokens: tokens, configuration: { baseURL: `${url}/v1` } };
  const chat = new ChatOpenAI({ ...settings, logprobs: true, topLogprobs: top });
  return {
    "completions: an answer": async () => {
      const text = `${prompt}, once more`; // LangChain does not keep the id of a completion
      const { generations } = await new Completions({ ...settings, modelKwargs: { logprobs: top } }).generate([text]);
      const { id } = (await call("GET", "/jobs")).find((job) => job.prompt === text);
      return { id, parts: [generations[0][0].generationInfo.logprobs] };
    },
    "chat: an answer": async () => {
      const message = await chat.invoke(prompt);
      return { id: message.id, parts: [message.response_metadata.logprobs.content] };
    },
    "chat: a stream": async () => {
      const parts = [];
      let id;
      for await (const chunk of await chat.stream(prompt)) {
        id ??= chunk.id;
        if (chunk.response_metadata.logprobs) parts.push(chunk.response_metadata.logprobs.content);
      }
      return { id, parts };
    },
  };
};

// text is the form of a token's bytes in OpenAI's API.
const text = (token) => (token.bytes ? `bytes:${token.bytes.map((b) => (b >= 32 && b <= 126 && b !== 92 ? String.fromCharCode(b) : `\\x${b.toString(16).padStart(2, "0")}`)).join("")}` : token.text);

const listed = (list) => list.map((p) => ({ token: text(p), logprob: p.logprob }));
const shown = (list) => list.map(({ token, logprob }) => ({ token, logprob }));

for (const [name, get] of Object.entries({ openai, "@ai-sdk/openai": aiSDK, "@langchain/openai": langChain }[process.env.PROVIDER]())) {
  test(`${name} has the log probabilities of POST /jobs/{id}/logprobs`, async () => {
    const { id, parts } = await get();
    const again = await call("POST", `/jobs/${jobOf(id)}/logprobs`, url, { logprobs: top });
    const { state, logprobs: want } = await ended(again.id);
    assert.equal(state, "completed");
    assert.equal(want.length, tokens);
    if (name.includes("stream")) assert.ok(parts.filter((part) => (part.tokens ?? part).length !== 0).length > 1);
    if (name.includes("completions")) {
      assert.deepEqual(parts.flatMap((part) => part.tokens), want.map(text));
      assert.deepEqual(parts.flatMap((part) => part.token_logprobs), want.map((p) => p.logprob));
      const alternatives = want.map((p) => Object.fromEntries(listed([...p.top, p]).map(({ token, logprob }) => [token, logprob])));
      assert.deepEqual(parts.flatMap((part) => part.top_logprobs), alternatives);
      return;
    }
    const got = parts.flat();
    assert.deepEqual(shown(got), listed(want));
    assert.deepEqual(got.map((p) => shown(p.top_logprobs)), want.map((p) => listed(p.top)));
  });
}
