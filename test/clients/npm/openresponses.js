// The cases of the compliance tests of OpenResponses that need no tools and no images, rebuilt
// from the specification, because no package has them. SCHEMA is the specification's OpenAPI
// document, or empty if it is not here. Then the last test is reported as not done.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { describe, test } from "node:test";
import Ajv from "ajv/dist/2020.js";
import addFormats from "ajv-formats";
import { cancelledInTheMiddle, key, long, model, other, url } from "./service.js";

const document = process.env.SCHEMA && JSON.parse(readFileSync(process.env.SCHEMA, "utf8"));
const ajv = addFormats(new Ajv({ strict: false, allErrors: true }));
if (document) ajv.addSchema(document, "document");

const checked = { ResponseResource: 0, CreateResponseBody: 0 }; // values by schema
const misfits = []; // what does not fit its schema

// fits checks a value against a schema of the document.
function fits(name, value) {
  if (!document) return;
  checked[name] = (checked[name] ?? 0) + 1;
  const schema = ajv.getSchema(`document#/components/schemas/${name}`);
  if (!schema(value)) misfits.push({ name, value, errors: schema.errors });
}

// The schemas of events by the type of the event.
const events = {};
for (const { $ref } of document ? document.paths["/responses"].post.responses["200"].content["text/event-stream"].schema.oneOf : []) {
  const name = $ref.split("/").at(-1);
  for (const type of document.components.schemas[name].properties.type.enum) events[type] = name;
}

async function call(method, path, { base = url, body } = {}) {
  const answer = await fetch(base + path, {
    method,
    headers: { Authorization: `Bearer ${key}`, ...(body && { "Content-Type": "application/json" }) },
    body: body && JSON.stringify(body),
  });
  assert.equal(answer.status, 200, await answer.clone().text().catch(String));
  return answer;
}

const request = (members) => {
  const body = { model, temperature: 0, ...members };
  fits("CreateResponseBody", body);
  return body;
};

async function respond(members) {
  const response = await (await call("POST", "/v1/responses", { body: request(members) })).json();
  fits("ResponseResource", response);
  return response;
}

// stream reads a stream to its end, and checks what holds for all streams.
async function stream(method, path, options) {
  const answer = await call(method, path, options);
  assert.equal(answer.headers.get("Content-Type"), "text/event-stream");
  const list = [];
  for (const message of (await answer.text()).split("\n\n")) {
    if (message === "" || message.startsWith(":")) continue;
    const [, type, data] = message.match(/^event: (.*)\ndata: (.*)$/);
    const event = JSON.parse(data);
    assert.equal(event.type, type);
    if (document) assert.ok(events[type], type);
    fits(events[type], event);
    list.push(event);
  }
  return list;
}

const streamed = (members) => stream("POST", "/v1/responses", { body: request({ ...members, stream: true }) });
const message = (role, content, more) => ({ type: "message", role, content, ...more });
const text = (response) => response.output.map((item) => item.content.map((part) => part.text).join("")).join("");

function completed(response) {
  assert.equal(response.status, "completed");
  assert.equal(response.object, "response");
  assert.ok(response.completed_at >= response.created_at);
  assert.equal(response.output.length, 1);
  assert.ok(text(response));
}

describe("cases", { concurrency: true }, () => {
  test("basic-response", async () => {
    completed(await respond({ input: [message("user", "Say hello in exactly 3 words.")] }));
  });
  test("system-prompt", async () => {
    const input = [message("system", "You are a pirate. Always respond in pirate speak."), message("user", "Say hello.")];
    const response = await respond({ input });
    completed(response);
    assert.ok(response.usage.input_tokens > (await respond({ input: input.slice(1) })).usage.input_tokens);
  });
  test("multi-turn", async () => {
    const input = [
      message("user", "My name is Alice."),
      message("assistant", "Hello Alice! Nice to meet you. How can I help you today?"),
      message("user", "What is my name?"),
    ];
    completed(await respond({ input }));
  });
  test("assistant-phase", async () => {
    const said = [{ type: "output_text", text: "Let me think about that." }];
    const input = [message("user", "What is light?"), message("assistant", said, { phase: "commentary" }), message("user", "Well?")];
    const response = await respond({ input });
    completed(response);
    const items = await (await call("GET", `/v1/responses/${response.id}/input_items?order=asc`, { base: other })).json();
    assert.deepEqual(items.data.map((item) => item.phase), [undefined, "commentary", undefined]);
    for (const item of items.data) fits("ItemField", item);
  });
  test("response-output-phase-schema", async () => {
    const response = await respond({ input: [message("user", "Say hello.")] });
    completed(response);
    assert.equal(response.output[0].phase, "final_answer");
    completed(await respond({ input: [message("user", "Say hello."), ...response.output, message("user", "Again.")] }));
  });
  test("previous-response-id", async () => {
    const first = await respond({ input: [message("user", "My name is Alice.")] });
    completed(first);
    const second = await respond({ input: [message("user", "What is my name?")], previous_response_id: first.id });
    completed(second);
    assert.equal(second.previous_response_id, first.id);
    assert.ok(second.usage.input_tokens > first.usage.total_tokens);
  });
  test("streaming-response", async () => {
    const list = await streamed({ input: [message("user", "Count from 1 to 5.")] });
    const types = list.map((event) => event.type);
    assert.deepEqual(
      types.filter((type, i) => type !== types[i - 1]),
      [
        "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added", "response.output_text.delta",
        "response.output_text.done", "response.content_part.done", "response.output_item.done", "response.completed",
      ],
    );
    assert.deepEqual(list.map((event) => event.sequence_number), list.map((_, i) => i));
    const { response } = list.at(-1);
    completed(response);
    assert.equal(list.map((event) => (event.type === "response.output_text.delta" ? event.delta : "")).join(""), text(response));
    const kept = await (await call("GET", `/v1/responses/${response.id}`, { base: other })).json();
    assert.deepEqual(kept, response);
  });
  test("more answers: background, incomplete, cancelled, with every field that is shown again", async () => {
    const members = {
      input: [message("developer", "Be brief."), message("user", [{ type: "input_text", text: "What is light?" }])], instructions: "You know optics.",
      metadata: { topic: "light" }, max_output_tokens: 20, top_p: 0.9, temperature: 1, presence_penalty: 0.1, frequency_penalty: 0.1,
      safety_identifier: "someone", prompt_cache_key: "light", user: "someone", tools: [], tool_choice: "auto", truncation: "disabled", text: { format: { type: "text" } },
    };
    for (const event of await streamed(members)) if (event.response) fits("ResponseResource", event.response);
    assert.equal((await respond({ ...members, store: false })).store, false);
    await cancelledInTheMiddle(async (seed) => {
      const { id, status } = await respond({ input: `Light ${seed}`, max_output_tokens: long, background: true });
      assert.ok(["queued", "in_progress"].includes(status));
      fits("ResponseResource", await (await call("POST", `/v1/responses/${id}/cancel`)).json());
      await stream("GET", `/v1/responses/${id}?stream=true`, { base: other });
      return id.replace("resp_", "");
    });
  });
});

// It runs after the cases.
test("every request, answer and event of the cases fits the schema of the specification", (t) => {
  if (!document) return t.skip("the specification is not here");
  assert.deepEqual(misfits, []);
  for (const [name, n] of Object.entries(checked)) assert.ok(n > 0, name);
  assert.ok(checked.ResponseOutputTextDeltaStreamingEvent > 0);
});
