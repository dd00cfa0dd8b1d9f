import assert from "node:assert/strict";
import { createHash, createHmac, createPrivateKey, createPublicKey, sign } from "node:crypto";
import { readdir, readFile } from "node:fs/promises";
import { test } from "node:test";
import { canonical, generated, parseKeys, parsePolicy, prompt, read, verify } from "../assets/receipt.js";

// The Go package proves that its verifier accepts these files.
const testdata = new URL("../../events/receipt/testdata/", import.meta.url);
const golden = await readFile(new URL("receipt.json", testdata), "utf8");
const logKey = (await readFile(new URL("log.key", testdata), "utf8")).trim();
const keys = await parseKeys(logKey);
const bytes = (text) => new TextEncoder().encode(text);
const check = (receipt, trusted = keys, policy = null) => verify(bytes(typeof receipt === "string" ? receipt : JSON.stringify(receipt)), trusted, policy);

const sha256 = (...parts) => parts.reduce((hash, part) => hash.update(part), createHash("sha256")).digest();
const base64 = (data) => Buffer.from(data).toString("base64");
const payload = (event) => Buffer.from(event, "base64").toString();

// signer returns a key that is the same in each run, and in the tests of the Go package.
function signer(name, fill, algorithm = 1) {
  const seed = Buffer.alloc(32, fill);
  const key = createPrivateKey({ key: Buffer.concat([Buffer.from("302e020100300506032b657004220420", "hex"), seed]), format: "der", type: "pkcs8" });
  const encoded = Buffer.concat([Buffer.of(algorithm), createPublicKey(key).export({ format: "der", type: "spki" }).subarray(-32)]);
  const id = sha256(`${name}\n`, encoded).subarray(0, 4);
  const line = (signature) => `— ${name} ${base64(Buffer.concat([id, signature]))}\n`;
  return {
    vkey: `${name}+${id.toString("hex")}+${base64(encoded)}`,
    sign: (text) => line(sign(null, Buffer.from(text), key)),
    cosign(text, at = 1800000000n) {
      const time = Buffer.alloc(8);
      time.writeBigUInt64BE(at);
      return line(Buffer.concat([time, sign(null, Buffer.from(`cosignature/v1\ntime ${at}\n${text}`), key)]));
    },
  };
}

const origin = "log.example/test";
const log = signer(origin, 1);
const stranger = signer(origin, 2);
const other = signer("other.example", 3);

// tree returns the root of a Merkle tree, and path the audit path of a leaf.
const leaf = (entry) => sha256(Buffer.of(0), sha256(entry));
const half = (n) => 2 ** Math.ceil(Math.log2(n) - 1);
const tree = (entries) => (entries.length === 1 ? leaf(entries[0]) : sha256(Buffer.of(1), tree(entries.slice(0, half(entries.length))), tree(entries.slice(half(entries.length)))));
function path(entries, index) {
  if (entries.length === 1) return [];
  const [left, right] = [entries.slice(0, half(entries.length)), entries.slice(half(entries.length))];
  return index < left.length ? [...path(left, index), tree(right)] : [...path(right, index - left.length), tree(left)];
}

// make returns a copy of the golden receipt with the log that contains it. change may
// change the events before they are logged.
function make(change = () => {}) {
  const receipt = JSON.parse(golden);
  change(receipt);
  const entries = receipt.events.flatMap((event, i) => [`an event of another stream, before event ${i + 1}`, Buffer.from(event, "base64")]);
  entries.push("an event after the last one");
  const text = (size = entries.length) => `${origin}\n${size}\n${base64(tree(entries.slice(0, size)))}\n`;
  return {
    receipt,
    entries,
    text,
    prove: (version, index, size = entries.length) => (receipt.proofs[version] = { index, hashes: path(entries.slice(0, size), index).map(base64) }),
    sign: (...by) => (receipt.checkpoint = `${text()}\n${by.map((key) => key.sign(text())).join("")}`),
  };
}

test("the golden receipt is proven", async () => {
  const report = await check(golden);
  assert.equal(report.verdict, "proven", report.reasons.join());
  assert.equal(prompt(report), "In a very dark <Chamber>");
  assert.deepEqual(generated(report), { text: ", I placed “a Prism”\n", complete: true });
  assert.equal(report.job, "01a22858-9ffc-794b-bed8-7caa28eaed71");
  assert.deepEqual([report.log, report.size, report.index, report.events.length], [origin, 13n, 11n, 6]);
  assert.deepEqual(report.signers.map(({ text, trusted }) => [text, trusted]), [[logKey, true]]);
  const m = make();
  m.prove(6, 11);
  m.sign(log);
  assert.deepEqual(m.receipt, JSON.parse(golden)); // so the other tests build the logs that they mean to
});

test("receipts of erased and marked jobs are verified as the Go package verifies them", async () => {
  const names = (await readdir(testdata)).filter((name) => name.startsWith("erased") || name.startsWith("marked") || name.startsWith("refuted"));
  assert.ok(names.length >= 7);
  for (const name of names) {
    const report = await check(await readFile(new URL(name, testdata), "utf8"));
    assert.equal(report.verdict, name.startsWith("refuted") ? "refuted" : "proven", `${name}: ${report.reasons.join()}`);
  }
});

test("every character of a receipt counts", async () => {
  const text = JSON.stringify(JSON.parse(golden));
  const changes = [(c) => String.fromCharCode(c.charCodeAt(0) ^ 1), (c) => String.fromCharCode(c.charCodeAt(0) ^ 0x20), () => "A", () => '"', () => ""];
  const checks = [];
  for (let i = 0, n = 0; i < text.length; i += 7) {
    for (let k = 0; k < 2; k++, n++) {
      const to = changes[n % changes.length](text[i]);
      if (to === text[i]) continue;
      checks.push(check(text.slice(0, i) + to + text.slice(i + 1)).then(({ verdict }) =>
        assert.notEqual(verdict, "proven", `${to} instead of character ${i}: …${text.slice(Math.max(0, i - 40), i + 40)}…`),
      ));
    }
  }
  assert.ok(checks.length > 1000);
  await Promise.all(checks);
});

test("changed receipts are refused as the Go package refuses them", async () => {
  const replace = (event, from, to) => base64(payload(event).replace(from, to));
  const cases = {
    "nothing changed": [() => {}, "proven"],
    "nothing is shown": [({ receipt: r }) => delete r.openings, "proven"],
    "empty openings": [({ receipt: r }) => (r.openings = {}), "cannot tell"],
    "only the text": [({ receipt: r }) => delete r.openings[1], "proven"],
    "a part of the text": [({ receipt: r }) => delete r.openings[5], "cannot tell"],
    "an event is left out": [({ receipt: r }) => r.events.splice(2, 1), "refuted"],
    "the first is left out": [({ receipt: r }) => r.events.shift(), "refuted"],
    "the last is left out": [({ receipt: r }) => r.events.pop(), "refuted"],
    "it ends early": [(m) => {
      m.receipt.events.pop();
      m.receipt.proofs = {};
      m.prove(5, 9);
    }, "cannot tell"],
    "two events swapped": [({ receipt: { events: e } }) => ([e[2], e[4]] = [e[4], e[2]]), "refuted"],
    "an event is repeated": [({ receipt: r }) => r.events.splice(3, 0, r.events[2]), "refuted"],
    "no events": [({ receipt: r }) => (r.events = null), "refuted"],
    "an empty event": [({ receipt: r }) => (r.events[2] = ""), "refuted"],
    "another job": [({ receipt: r }) => (r.job = r.job.replace(/1$/, "2")), "refuted"],
    "an event is spelled differently": [({ receipt: { events: e } }) => (e[5] = replace(e[5], '{"at"', '{ "at"')), "refuted"],
    "an event of a later schema": [({ receipt: { events: e } }) => (e[5] = replace(e[5], '"schema":2', '"schema":3')), "cannot tell"],
    "an event of a schema in another spelling": [({ receipt: { events: e } }) => (e[5] = replace(e[5], '"schema":2', '"SCHEMA":3')), "refuted"],
    "a schema that is not a number": [({ receipt: { events: e } }) => (e[5] = replace(e[5], '"schema":2', '"schema":3.0')), "refuted"],
    "openings of two events swapped": [({ receipt: { openings: o } }) => ([o[3], o[5]] = [o[5], o[3]]), "refuted"],
    "an opening under another name": [({ receipt: { openings: o } }) => (o[3] = { tokens: o[3].text }), "refuted"],
    "an opening of a member that is not there": [({ receipt: { openings: o } }) => (o[6] = { text: o[5].text }), "refuted"],
    "an opening of an event that is not there": [({ receipt: { openings: o } }) => (o[7] = o[5]), "refuted"],
    "no opening of an event": [({ receipt: { openings: o } }) => (o[2] = {}), "refuted"],
    "an opening without a value": [({ receipt: { openings: o } }) => (o[3].text.value = null), "refuted"],
    "another value": [({ receipt: { openings: o } }) => (o[1].prompt.value = base64('"another prompt"')), "refuted"],
    "another spelling of the value": [({ receipt: { openings: o } }) => (o[3].text.value = base64(` ${payload(o[3].text.value)}`)), "refuted"],
    "no proof": [({ receipt: r }) => (r.proofs = {}), "refuted"],
    "a proof of another event": [(m) => m.prove(6, 9), "refuted"],
    "a proof of an event too many": [({ receipt: { proofs: p } }) => (p[7] = p[6]), "refuted"],
    "a wrong proof too many": [({ receipt: { proofs: p } }) => (p[5] = p[6]), "refuted"],
    "a proof too many": [(m) => m.prove(5, 9), "proven"],
    "a proof that is too long": [({ receipt: { proofs: p } }) => p[6].hashes.push(p[6].hashes[0]), "refuted"],
    "a proof that is too short": [({ receipt: { proofs: p } }) => p[6].hashes.pop(), "refuted"],
    "an index outside of the log": [({ receipt: { proofs: p } }) => (p[6].index = 13), "refuted"],
    "a negative index": [({ receipt: { proofs: p } }) => (p[6].index = -1), "refuted"],
    "the checkpoint of a stranger": [(m) => {
      m.sign(stranger);
      m.receipt.log_keys = [stranger.vkey];
    }, "cannot tell"],
    "the key of a stranger": [({ receipt: r }) => r.log_keys.push(stranger.vkey), "refuted"],
    "the key of another log": [({ receipt: r }) => r.log_keys.push(other.vkey), "refuted"],
    "a key twice": [({ receipt: r }) => r.log_keys.push(logKey), "refuted"],
    "no key": [({ receipt: r }) => (r.log_keys = []), "refuted"],
    "not a key": [({ receipt: r }) => (r.log_keys = ["key"]), "refuted"],
    "a signature of a stranger more": [(m) => m.sign(log, stranger), "cannot tell"],
    "a signature that is broken": [({ receipt: r }) => (r.checkpoint = r.checkpoint.replace("9wA=", "9wE=")), "refuted"],
    "a signature in another spelling": [({ receipt: r }) => (r.checkpoint = r.checkpoint.replace("9wA=", "9wB=")), "refuted"],
    "no signature": [(m) => (m.receipt.checkpoint = m.text()), "refuted"],
    "a smaller log": [(m) => {
      m.entries.pop();
      m.sign(log);
    }, "refuted"],
    "an unknown format": [({ receipt: r }) => (r.format = "colophon-receipt/2"), "cannot tell"],
  };
  for (const [name, [change, want]] of Object.entries(cases)) {
    const m = make();
    change(m);
    const { verdict, reasons } = await check(m.receipt);
    assert.equal(verdict, want, `${name}: ${reasons}`);
  }
});

test("a receipt has one spelling, except for white space and the order of members", async () => {
  const text = JSON.stringify(JSON.parse(golden));
  const reversed = Object.fromEntries(Object.entries(JSON.parse(golden)).reverse());
  for (const [spelling, want] of [
    [JSON.stringify(reversed, null, "\t"), "proven"],
    [` \r\n${text}`, "proven"],
    [text.replace('"job"', '"\\u006aob"'), "proven"],
    [`\ufeff${text}`, "cannot tell"],
    [`${text}{}`, "cannot tell"],
    ...["", "null", "[]", "{}", '"', "[".repeat(20_000)].map((spelling) => [spelling, "cannot tell"]),
    [text.replace("{", '{"more":1,'), "cannot tell"],
    [text.replace('"format"', '"FORMAT"'), "cannot tell"],
    [text.replace("{", '{"job":"x",'), "cannot tell"],
    [text.replace('"index":11', '"index":11.0'), "cannot tell"],
    [text.replace('"index":11', '"index":11,"index":11'), "cannot tell"],
    [text.replace('"proofs":{"6"', '"proofs":{"06"'), "cannot tell"],
    [text.replace('"events":["', '"events":["\\n'), "cannot tell"],
    [text.replace('"hashes":["l', '"hashes":["\\u006c'), "cannot tell"],
  ]) {
    assert.notEqual(spelling, text);
    assert.equal((await check(spelling)).verdict, want, spelling.slice(0, 60));
  }
  assert.equal((await verify(Uint8Array.of(0xff))).verdict, "cannot tell");
});

test("keys and witnesses decide", async () => {
  const witness = signer("w.example", 5, 4);
  const absent = signer("o.example", 6, 4);
  const newer = signer(origin, 4);
  const w = `witness w ${witness.vkey}\n`;
  const both = `${w}witness o ${absent.vkey}\ngroup all2 all w o\n`;
  const m = make();
  const plain = m.receipt.checkpoint;
  const cosigned = plain + witness.cosign(m.text());
  const broken = `${cosigned.slice(0, -6)}AAAA=\n`;
  const rotating = m.sign(newer, log);
  for (const [name, checkpoint, embedded, trusted, policy, want] of [
    ["the log's key", plain, [logKey], keys, null, "proven"],
    ["no trusted key", plain, [logKey], [], null, "cannot tell"],
    ["no key at all", plain, [], [], null, "cannot tell"],
    ["the key in a policy", plain, [logKey], [], `log ${logKey}\nquorum none`, "proven"],
    ["a witness wanted, none there", plain, [logKey], keys, `${w}quorum w`, "cannot tell"],
    ["a witness wanted and there", cosigned, [logKey], keys, `${w}quorum w`, "proven"],
    ["two wanted, one there", cosigned, [logKey], keys, `${both}quorum all2`, "cannot tell"],
    ["a witness there, and unknown", cosigned, [logKey], keys, null, "cannot tell"],
    ["a cosignature that is broken", broken, [logKey], keys, `${w}quorum w`, "refuted"],
    ["two keys, both in the receipt", rotating, [newer.vkey, logKey], keys, null, "proven"],
    ["a key that has signed is left out", rotating, [newer.vkey], keys, null, "refuted"],
    ["two keys, the new one is not known", rotating, [logKey], keys, null, "cannot tell"],
  ]) {
    const report = await check({ ...m.receipt, checkpoint, log_keys: embedded }, trusted, policy && (await parsePolicy(policy)));
    assert.equal(report.verdict, want, `${name}: ${report.reasons}`);
    if (name === "a witness wanted and there") assert.deepEqual(report.cosigned, [{ name: "w.example", at: 1800000000n }]);
  }
  for (const text of ["", "quorum w", `${w}${w}quorum none`, "log x\nquorum none", `${w}group g 2 w\nquorum g`, "quorum none\nquorum none"]) await assert.rejects(parsePolicy(text), { name: "Error" }, text);
  for (const text of ["", "key", logKey.replace("+fae2", "+FAE2"), logKey.replace("+fae2", "+fae3"), `${logKey}=`]) await assert.rejects(parseKeys(text), text);
});

test("a key of the receipt cannot take the place of a trusted key with the same id", async () => {
  const [trusted] = await parseKeys(stranger.vkey);
  const [{ id }] = keys;
  const { verdict } = await check(golden, [{ ...trusted, id }]); // a real collision takes 2^32 attempts
  assert.notEqual(verdict, "proven");
});

test("events of an early release need proofs of their own", async () => {
  const { receipt, prove, sign } = make((r) => {
    for (const i of [0, 1, 2]) {
      const { type } = JSON.parse(payload(r.events[i]));
      r.events[i] = base64(`{"at":"2026-11-23T01:02:03.000400Z","fact":{"sealed":"AAAA"},"owner":"01a22d65-88bc-7e70-b980-92733a3023fe","schema":1,"stream":"job/${r.job}","type":"${type}","version":${i + 1}}`);
    }
    for (const i of [3, 4, 5]) r.events[i] = base64(payload(r.events[i]).replace(/"prev":"[0-9a-f]*"/, `"prev":"${sha256(Buffer.from(r.events[i - 1], "base64")).toString("hex")}"`));
    delete r.openings;
  });
  for (const version of [1, 2, 6]) prove(version, 2 * version - 1);
  sign(log);
  const report = await check(receipt);
  assert.deepEqual([report.verdict, report.events.length], ["cannot tell", 6], report.reasons.join());
  assert.match(report.reasons[0], /early release/);
  for (const version of [1, 2, 6]) {
    const { [version]: _, ...proofs } = receipt.proofs;
    assert.equal((await check({ ...receipt, proofs })).verdict, "refuted");
  }
});

test("indexes and sizes may exceed the integers of a number", async () => {
  const size = 2n ** 60n + 1n; // the last leaf is alone beside a full tree
  const { receipt } = make();
  const left = Buffer.alloc(32, 7);
  const text = `${origin}\n${size}\n${base64(sha256(Buffer.of(1), left, leaf(Buffer.from(receipt.events[5], "base64"))))}\n`;
  receipt.checkpoint = `${text}\n${log.sign(text)}`;
  receipt.proofs = { 6: { index: 0, hashes: [base64(left)] } };
  const spelled = (index) => JSON.stringify(receipt).replace('"index":0', `"index":${index}`);
  const report = await check(spelled(size - 1n));
  assert.deepEqual([report.verdict, report.size, report.index], ["proven", size, size - 1n], report.reasons.join());
  for (const [index, want] of [[size - 2n, "refuted"], [size, "refuted"], [2n ** 63n, "cannot tell"]]) assert.equal((await check(spelled(index))).verdict, want);
});

test("canonical JSON is that of encoding/json", () => {
  for (const text of [
    "null", "true", "0", "-0", "1.50", "1E+5", "12345678901234567890", "[]", "{}", '""', '[1,"a",{}]', '{"a":1,"b":[{"c":null}]}',
    '"\\u003c\\u003e\\u0026\\u2028\\u2029"', '"\\b\\f\\n\\r\\t\\u0000\\u001f\\"\\\\"', '"\x7f/é光🌈\ufffd"', '{"":0,"_":1,"a1":2}', "[".repeat(10_000) + "]".repeat(10_000),
  ]) {
    assert.ok(canonical(text), text.slice(0, 60));
  }
  for (const text of [
    "", " 1", "1 ", "1,", "01", "+1", ".5", "1.", "1e", "-", "NaN", "True", "nul", "[1,]", "[,1]", "{,}", '{"a":1,}', '{"a"}', "{a:1}", "[1 ]", '{"a": 1}', "1 2", "[", "]",
    '"<"', '">"', '"&"', '"\u2028"', '"\\u003C"', '"\\/"', '"\\u000a"', '"\\u0041"', '"\\u00e9"', '"\\ud83c\\udf08"', '"\\ud800"', '"\\x"', '"\\u12"', '"\n"', '"', '"\\',
    '{"b":1,"a":2}', '{"a":1,"a":1}', '{"A":1}', '{"é":1}', '[{"b":{"A":1}}]', "[".repeat(10_001) + "]".repeat(10_001),
  ]) {
    assert.ok(!canonical(text), text.slice(0, 60));
  }
  const { text, value } = read(' { "\\u0062" : [ 1.0 , "\\ud83c\\udf08\\ud800<" ] , "\uff5e" : 1 , "🌈" : 2 , "a" : 3 } ');
  assert.equal(text, '{"a":3,"b":[1.0,"🌈\ufffd\\u003c"],"\uff5e":1,"🌈":2}'); // bytewise, 🌈 comes after ～
  assert.deepEqual([...value.keys()], ["b", "\uff5e", "🌈", "a"]);
});

test("the commitments of all secret members can be shown", async () => {
  const { receipt } = make();
  receipt.openings = {};
  const secret = {
    1: { prompt: '"In a very dark \\u003cChamber\\u003e"', params: '{"max_tokens":4,"seed":1704}', owner: '"01a22d65-88bc-7e70-b980-92733a3023fe"' },
    3: { text: '", I plac"', tokens: "[11,305]" },
    5: { text: '"ed “a Prism”\\n"', tokens: "[840,259]" },
  };
  for (const [version, members] of Object.entries(secret)) {
    receipt.openings[version] = {};
    for (const [name, value] of Object.entries(members)) {
      receipt.openings[version][name] = { blinding: base64(createHmac("sha256", Buffer.alloc(32, Number(version))).update(name).digest()), value: base64(value) };
    }
  }
  const report = await check(receipt);
  assert.equal(report.verdict, "proven", report.reasons.join());
  assert.equal(report.opened.get(1).get("params").text, secret[1].params);
  const { openings: o } = receipt;
  [o[3].tokens, o[3].text] = [o[3].text, o[3].tokens];
  assert.equal((await check(receipt)).verdict, "refuted");
});
