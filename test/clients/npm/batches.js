// The scenarios of files and batches with OpenAI's SDK. Stage live needs a worker, and stage idle
// a service without one.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import OpenAI, { toFile } from "openai";
import { counter, eventually, key, model, other, prompt, stage, url } from "./service.js";

const at = (base, options) => new OpenAI({ baseURL: `${base}/v1`, apiKey: key, ...options });
const client = at(url);

const endpoint = "/v1/completions";
const line = (id, body) => JSON.stringify({ custom_id: id, method: "POST", url: endpoint, body: { model, prompt: `${prompt} ${id}`, temperature: 0, max_tokens: 5, ...body } });
const upload = async (lines) => client.files.create({ file: await toFile(Buffer.from(lines.join("\n")), "requests.jsonl"), purpose: "batch" });
const begin = (file, options) => client.batches.create({ input_file_id: file.id, endpoint, completion_window: "24h", ...options });

async function collect(iterable) {
  const all = [];
  for await (const one of iterable) all.push(one);
  return all;
}

// ended polls a batch at the other process until it has ended.
const ended = (batch) =>
  eventually("the batch has ended", async () => {
    const got = await at(other).batches.retrieve(batch.id);
    return ["completed", "failed", "expired", "cancelled"].includes(got.status) && got;
  });

// lines returns the lines of a file that a batch has made.
const lines = async (id) => (await (await at(other).files.content(id)).text()).trim().split("\n").map(JSON.parse);

const refusal = (status, code, kind) => (err) => {
  assert.ok(err instanceof kind, err.stack);
  assert.deepEqual([err.status, err.code], [status, code]);
  return true;
};

if (stage === "live") {
  describe("files and batches", { concurrency: true }, () => {
    test("files: a file is uploaded, listed, read and deleted", async () => {
      const contents = [line("a"), line("b")];
      const first = await upload(contents);
      const second = await upload([line("c")]);
      assert.deepEqual([first.object, first.filename, first.purpose, first.bytes], ["file", "requests.jsonl", "batch", Buffer.byteLength(contents.join("\n"))]);
      assert.deepEqual(await client.files.waitForProcessing(first.id), first);
      assert.equal(await (await at(other).files.content(first.id)).text(), contents.join("\n"));
      const ids = async (query) => (await collect(await client.files.list(query))).map((file) => file.id).filter((id) => [first.id, second.id].includes(id));
      assert.deepEqual(await ids({ purpose: "batch", limit: 1 }), [second.id, first.id]);
      assert.deepEqual(await ids({ order: "asc" }), [first.id, second.id]);
      assert.deepEqual(await client.files.delete(first.id), { id: first.id, object: "file", deleted: true });
      await assert.rejects(client.files.retrieve(first.id), refusal(404, "not_found", OpenAI.NotFoundError));
      await assert.rejects(client.files.content(first.id), refusal(404, "not_found", OpenAI.NotFoundError));
    });
    test("batches: the output has the answers in the order of the custom ids", async () => {
      const names = ["10", "9", "é", "a", "B"];
      const batch = await begin(await upload(names.map((name) => line(name))), { metadata: { night: "first" } });
      assert.deepEqual([batch.object, batch.endpoint, batch.metadata], ["batch", endpoint, { night: "first" }]);
      const got = await ended(batch);
      assert.deepEqual([got.status, got.request_counts, got.error_file_id ?? null], ["completed", { total: 5, completed: 5, failed: 0 }, null]);
      const output = await lines(got.output_file_id);
      assert.deepEqual(output.map((l) => l.custom_id), ["10", "9", "B", "a", "é"]);
      for (const { custom_id: id, response, error } of output) {
        const { choices, usage } = await client.completions.create(JSON.parse(line(id)).body);
        assert.deepEqual([error, response.status_code, response.body.choices, response.body.usage], [null, 200, choices, usage]);
      }
      assert.ok((await collect(await client.batches.list({ limit: 1 }))).some((b) => b.id === batch.id));
    });
    test("batches: a line that its operation refuses fails alone", async () => {
      const got = await ended(await begin(await upload([line("bad", { temperature: 5 }), line("good"), line("unsupported", { best_of: 3 })])));
      assert.deepEqual([got.status, got.request_counts], ["completed", { total: 3, completed: 1, failed: 2 }]);
      assert.deepEqual((await lines(got.output_file_id)).map((l) => [l.custom_id, l.response.status_code]), [["good", 200]]);
      const failed = (await lines(got.error_file_id)).map(({ custom_id: id, response: { status_code: status, body } }) => [id, status, body.error.code, body.error.param]);
      assert.deepEqual(failed, [["bad", 400, "invalid_request", "temperature"], ["unsupported", 400, "unsupported_parameter", "best_of"]]);
    });
    test("batches: a file with malformed lines fails the batch, with their numbers", async () => {
      const got = await ended(await begin(await upload([line("a"), "{", line("b").replace("POST", "GET")])));
      assert.equal(got.status, "failed");
      assert.deepEqual(got.errors.data.map((e) => [e.line, e.code]), [[2, "invalid_json_line"], [3, "invalid_method"]]);
    });
    test("files and batches: errors 400, 401 and 404 have their classes and codes, and are not retried", async () => {
      const fetch = counter();
      const c = at(url, { fetch });
      const file = await toFile(Buffer.from(line("a")), "requests.jsonl");
      const none = "00000000-0000-7000-8000-000000000000";
      const batch = { input_file_id: `file-${none}`, endpoint, completion_window: "24h" };
      await assert.rejects(c.files.create({ file, purpose: "fine-tune" }), refusal(400, "invalid_request", OpenAI.BadRequestError));
      await assert.rejects(c.batches.create({ ...batch, endpoint: "/v1/embeddings" }), refusal(400, "invalid_request", OpenAI.BadRequestError));
      await assert.rejects(c.batches.create({ ...batch, output_expires_after: { anchor: "created_at", seconds: 3600 } }), refusal(400, "unsupported_parameter", OpenAI.BadRequestError));
      await assert.rejects(at(url, { fetch, apiKey: "sk-colophon-wrong" }).batches.list(), refusal(401, "invalid_api_key", OpenAI.AuthenticationError));
      await assert.rejects(c.batches.create(batch), refusal(404, "not_found", OpenAI.NotFoundError));
      await assert.rejects(c.batches.retrieve(`batch_${none}`), refusal(404, "not_found", OpenAI.NotFoundError));
      await assert.rejects(c.batches.cancel(`batch_${none}`), refusal(404, "not_found", OpenAI.NotFoundError));
      assert.equal(fetch.calls, 7);
    });
  });
}

if (stage === "idle") {
  test("batches: a batch is cancelled, and again; its input cannot be deleted before", async () => {
    const file = await upload([line("a"), line("b")]);
    const batch = await begin(file);
    const fetch = counter();
    await assert.rejects(at(url, { fetch }).files.delete(file.id), refusal(409, "file_in_use", OpenAI.ConflictError));
    assert.equal(fetch.calls, 1);
    await eventually("the lines are under way", async () => (await client.batches.retrieve(batch.id)).status === "in_progress");
    for (const c of [client, at(other)]) assert.ok(["cancelling", "cancelled"].includes((await c.batches.cancel(batch.id)).status));
    const got = await ended(batch);
    assert.deepEqual([got.status, got.request_counts, got.output_file_id ?? null], ["cancelled", { total: 2, completed: 0, failed: 2 }, null]);
    assert.deepEqual((await lines(got.error_file_id)).map((l) => [l.custom_id, l.response, l.error.code]), [["a", null, "batch_cancelled"], ["b", null, "batch_cancelled"]]);
    await client.files.delete(file.id);
  });
}
