// Verifies receipts of jobs. The module needs WebCrypto and nothing else, so it runs in a
// browser and in Node. Its results are those of the Go package events/receipt.

const format = "colophon-receipt/1";
const latestSchema = 2; // of events
const maxDepth = 10_000; // of nested JSON values, as in encoding/json
const maxSignatures = 100; // of a checkpoint
const maxPolicyLines = 1000;

// maxReceipt bounds the length of a receipt in bytes.
export const maxReceipt = 64 * 2 ** 20;

// Unsupported occurs when the browser cannot check signatures.
export class Unsupported extends Error {}

// Invalid occurs when a text is not a key of a log or not a policy.
export class Invalid extends Error {}

// Finding ends a verification with its verdict.
class Finding extends Error {
  constructor(verdict, reason) {
    super(reason);
    this.verdict = verdict;
  }
}

const refuted = (reason) => {
  throw new Finding("refuted", reason);
};
const cannotTell = (reason) => {
  throw new Finding("cannot tell", reason);
};

// attempt returns the result of a function, or null if it throws a SyntaxError of read.
function attempt(f) {
  try {
    return f();
  } catch (error) {
    if (error instanceof SyntaxError) return null;
    throw error;
  }
}

// Bytes

const utf8 = new TextEncoder();
const strictUTF8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const laxUTF8 = new TextDecoder("utf-8", { ignoreBOM: true });

const equal = (a, b) => a.length === b.length && a.every((byte, i) => byte === b[i]);
const hex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
const toBase64 = (bytes) => btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));

function concat(...parts) {
  const all = new Uint8Array(parts.reduce((n, part) => n + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

// fromBase64 returns the bytes of a text in padded base64, or null. Bits after the last
// byte must be zero, unless lax is true.
function fromBase64(text, lax = false) {
  let binary;
  try {
    binary = atob(text);
  } catch {
    return null;
  }
  const spelling = btoa(binary);
  if (spelling !== text && !(lax && spelling.length === text.length && spelling.replace(/.=*$/, "") === text.replace(/.=*$/, ""))) return null;
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

// uint64 returns a number as eight bytes, the highest first.
function uint64(n) {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(n));
  return bytes;
}

// int64 returns the value of a decimal number in its usual spelling, or null.
function int64(text) {
  if (!/^(?:0|-?[1-9][0-9]{0,18})$/.test(text)) return null;
  const n = BigInt(text);
  return BigInt.asIntN(64, n) === n ? n : null;
}

// Cryptography

const sha256 = async (...parts) => new Uint8Array(await crypto.subtle.digest("SHA-256", concat(...parts)));

// ed25519 reports whether a signature is valid. A key that is no point of the curve has no
// valid signature.
async function ed25519(key, message, signature) {
  try {
    const imported = await crypto.subtle.importKey("raw", key, { name: "Ed25519" }, false, ["verify"]);
    return await crypto.subtle.verify({ name: "Ed25519" }, imported, signature, message);
  } catch {
    return false;
  }
}

let works; // the promise of the first test

// supported rejects with Unsupported unless WebCrypto accepts the first test vector of
// RFC 8032. A browser without Ed25519 must not make a receipt look refuted.
async function supported() {
  const bytes = (digits) => Uint8Array.from(digits.match(/../g), (pair) => parseInt(pair, 16));
  works ??= globalThis.crypto?.subtle && ed25519(
    bytes("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"),
    new Uint8Array(),
    bytes("e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"),
  );
  if (!(await works)) throw new Unsupported("WebCrypto with Ed25519 is missing");
}

// JSON

const escapes = { '"': '"', "\\": "\\", "/": "/", b: "\b", f: "\f", n: "\n", r: "\r", t: "\t" };
const short = { '"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t" };

// quote returns a string as encoding/json spells it.
const quote = (text) => `"${text.replace(/[\0-\x1f"\\<>&\u2028\u2029]/g, (c) => short[c] ?? `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`)}"`;

// compare orders strings by their bytes in UTF-8. The order of UTF-16 differs.
function compare(a, b) {
  const [x, y] = [utf8.encode(a), utf8.encode(b)];
  const i = x.findIndex((byte, at) => byte !== y[at]);
  return i < 0 ? x.length - y.length : x[i] - (y[i] ?? -1);
}

// read returns the value of a JSON text. It throws a SyntaxError if the text is not JSON.
// JSON.parse loses the spelling of numbers and the repeated names of members. A value has
// these members:
//
//	kind: object, array, string, number, or a literal such as null
//	value: a Map, an array, a string, or the number as it is written
//	text: the canonical spelling of the value
//	simple: all names of members in it are lower-case ASCII
//	unique: no object in it repeats a name
//	escaped: whether a string has an escape
//	entries: all members of an object in their order, repeated ones too
export function read(text) {
  let at = 0;
  const open = []; // containers that are not closed yet, so that nesting needs no recursion
  const fail = () => {
    throw new SyntaxError("not JSON");
  };
  const skip = () => {
    while (" \t\n\r".includes(text[at] || "x")) at++;
  };
  const leaf = (kind, value, spelling, escaped = false) => ({ kind, value, text: spelling, escaped, simple: true, unique: true });

  const string = () => {
    if (text[at] !== '"') fail();
    let value = "";
    let from = ++at;
    let escaped = false;
    for (; text[at] !== '"'; at++) {
      if (!(text.charCodeAt(at) >= 0x20)) fail(); // NaN at the end of the text
      if (text[at] !== "\\") continue;
      escaped = true;
      value += text.slice(from, at++);
      if (text[at] === "u") {
        const digits = text.slice(at + 1, at + 5);
        if (!/^[0-9a-fA-F]{4}$/.test(digits)) fail();
        value += String.fromCharCode(parseInt(digits, 16));
        at += 4;
      } else {
        value += escapes[text[at]] ?? fail();
      }
      from = at + 1;
    }
    value = (value + text.slice(from, at++)).toWellFormed(); // encoding/json replaces half a pair of surrogates too
    return leaf("string", value, quote(value), escaped);
  };

  const name = (container) => {
    skip();
    container.name = string().value;
    skip();
    if (text[at++] !== ":") fail();
  };

  const close = ({ kind, entries, items }) => {
    const children = kind === "object" ? entries.map(([, child]) => child) : items;
    const simple = children.every((child) => child.simple);
    const unique = children.every((child) => child.unique);
    if (kind === "array") return { kind, value: items, text: `[${items.map((item) => item.text).join(",")}]`, simple, unique };
    const value = new Map(entries);
    const members = [...value].sort(([a], [b]) => compare(a, b)).map(([key, child]) => `${quote(key)}:${child.text}`);
    return {
      kind,
      value,
      entries,
      text: `{${members.join(",")}}`,
      simple: simple && !entries.some(([key]) => /[A-Z\x80-\uffff]/.test(key)),
      unique: unique && value.size === entries.length,
    };
  };

  const scalar = /(-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)|true|false|null/y;
  for (;;) {
    skip();
    let node;
    if (text[at] === "{" || text[at] === "[") {
      if (open.length === maxDepth) fail();
      const kind = text[at++] === "{" ? "object" : "array";
      const container = { kind, entries: [], items: [] };
      skip();
      if (text[at] !== (kind === "object" ? "}" : "]")) {
        open.push(container);
        if (kind === "object") name(container);
        continue;
      }
      at++;
      node = close(container);
    } else if (text[at] === '"') {
      node = string();
    } else {
      scalar.lastIndex = at;
      const match = scalar.exec(text) ?? fail();
      at = scalar.lastIndex;
      node = leaf(match[1] ? "number" : match[0], match[0], match[0]);
    }
    for (;;) {
      skip();
      const container = open.at(-1);
      if (!container) return at < text.length ? fail() : node;
      if (container.kind === "object") container.entries.push([container.name, node]);
      else container.items.push(node);
      if (text[at] === ",") {
        at++;
        if (container.kind === "object") name(container);
        break;
      }
      if (text[at++] !== (container.kind === "object" ? "}" : "]")) fail();
      node = close(open.pop());
    }
  }
}

// canonical reports whether a text is the canonical spelling of a JSON value.
export function canonical(text) {
  const node = attempt(() => read(text));
  return node !== null && node.simple && node.text === text;
}

// The receipt

// parse reads a receipt strictly. A text with any other member or spelling is not a receipt
// of this format, and nothing can be told about it.
function parse(bytes) {
  const wrong = (why) => cannotTell(`this is not a receipt of the format ${format}: ${why}`);
  if (bytes.length > maxReceipt) wrong("it is too long");
  let text;
  try {
    text = strictUTF8.decode(bytes);
  } catch {
    wrong("it is not UTF-8");
  }
  const root = attempt(() => read(text)) ?? wrong("it is not JSON");
  if (!root.unique) wrong("a member is repeated");

  const members = (node, required, optional = []) => {
    if (node.kind !== "object") wrong("it has a value of another kind");
    const names = [...node.value.keys()];
    if (!required.every((name) => node.value.has(name)) || !names.every((name) => required.includes(name) || optional.includes(name))) {
      wrong("it has other members than the format");
    }
    return node.value;
  };
  const string = (node) => (node.kind === "string" ? node.value : wrong("it has a value of another kind"));
  const integer = (text) => int64(text) ?? wrong("it has a number in another spelling");
  const bytesOf = (node) => (node.kind === "null" ? new Uint8Array() : (fromBase64(string(node)) ?? wrong("it has bytes that are not in base64")));
  const list = (node, item) => (node.kind === "null" ? [] : node.kind === "array" ? node.value.map(item) : wrong("it has a value of another kind"));
  const table = (node, item) => {
    if (node.kind === "null") return new Map();
    if (node.kind !== "object") wrong("it has a value of another kind");
    return new Map([...node.value].map(([key, value]) => [key, item(value)]));
  };
  const byVersion = (node, item) => new Map([...table(node, item)].map(([key, value]) => [integer(key), value]));
  const hash = (node) => {
    const sum = bytesOf(node);
    return sum.length === 32 && !node.escaped ? sum : wrong("it has a hash of another form");
  };

  const receipt = members(root, ["format", "job", "events", "proofs", "checkpoint", "log_keys"], ["openings"]);
  if (string(receipt.get("format")) !== format) wrong("its format is another one");
  const openings = receipt.get("openings");
  if (openings && !(openings.kind === "object" && openings.value.size > 0)) wrong("its openings are empty");
  return {
    job: string(receipt.get("job")),
    events: list(receipt.get("events"), bytesOf),
    openings: openings ? byVersion(openings, (node) => table(node, (opening) => {
      const both = members(opening, ["blinding", "value"]);
      return { blinding: bytesOf(both.get("blinding")), value: bytesOf(both.get("value")) };
    })) : new Map(),
    proofs: byVersion(receipt.get("proofs"), (node) => {
      const both = members(node, ["index", "hashes"]);
      const index = both.get("index");
      return { index: integer(index.kind === "number" ? index.value : ""), hashes: list(both.get("hashes"), hash) };
    }),
    checkpoint: string(receipt.get("checkpoint")),
    logKeys: list(receipt.get("log_keys"), string),
  };
}

// Events

const fields = { at: "string", commit: "object", fact: "any", owner: "string", prev: "string", schema: "integer", stream: "string", type: "string", version: "integer" };
const requiredFields = ["at", "fact", "schema", "stream", "type", "version"];

// isTime reports whether a text is RFC 3339 in UTC with six decimals.
function isTime(text) {
  const parts = /^([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})\.[0-9]{6}Z$/.exec(text)?.slice(1).map(Number);
  if (!parts) return false;
  const [year, month, day, hour, minute, second] = parts;
  const leap = (year % 4 === 0 && year % 100 !== 0) || year % 400 === 0;
  const days = [31, leap ? 29 : 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31][month - 1] ?? 0;
  return day >= 1 && day <= days && hour < 24 && minute < 60 && second < 60;
}

// parseEvent reads the payload of an event. Two readers could understand another spelling
// differently, so only the canonical one is accepted.
function parseEvent(payload, n) {
  const wrong = () => refuted(`event ${n} is not in its canonical form`);
  const text = laxUTF8.decode(payload);
  const root = attempt(() => read(text)) ?? wrong();
  if (root.kind !== "object" || root.text !== text || !root.simple || !equal(utf8.encode(text), payload)) wrong();
  const written = root.value.get("schema");
  const schema = written?.kind === "number" ? int64(written.value) : null;
  if (schema !== null && schema > latestSchema) cannotTell(`a later version of the service wrote event ${n}`);

  const names = [...root.value.keys()];
  if (!requiredFields.every((name) => root.value.has(name)) || !names.every((name) => Object.hasOwn(fields, name))) wrong();
  const string = (name) => {
    const node = root.value.get(name);
    return node && node.kind !== "string" ? wrong() : node?.value;
  };
  const integer = (name) => int64(root.value.get(name).value) ?? wrong();
  const e = {
    at: string("at"), commit: new Map(), fact: root.value.get("fact"), owner: string("owner"), prev: string("prev"),
    schema: integer("schema"), stream: string("stream"), type: string("type"), version: integer("version"),
  };
  const commit = root.value.get("commit");
  if (commit) {
    if (commit.kind !== "object" || commit.value.size === 0) wrong();
    for (const [name, { kind, value }] of commit.value) e.commit.set(name, kind === "string" && /^[0-9a-f]{64}$/.test(value) ? value : wrong());
  }
  if (!e.fact.simple || !isTime(e.at) || e.schema < 1n || e.version < 1n) wrong();
  if (e.owner === "" || e.prev === "") wrong(); // the service leaves out an empty member
  const first = e.schema === 1n;
  if (first !== (e.owner !== undefined) || (e.prev !== undefined) !== (!first && e.version > 1n) || (first && commit)) wrong();
  return e;
}

// erased is the type of the event that may follow the end of a job. It says that the service
// has erased the secret members.
const erased = "job.erased";

// ends reports whether no event can follow an event of a job, except one of that type.
const ends = ({ type, fact }) => type === "job.completed" || type === "job.cancelled" || type === erased || (type === "job.failed" && fact.kind === "object" && fact.value.get("final")?.kind === "true");

// commitment returns the commitment to a secret member in hexadecimal.
async function commitment(stream, version, type, name, blinding, value) {
  const parts = [...[stream, String(version), type, name].map((part) => utf8.encode(part)), blinding, value];
  return hex(await sha256(utf8.encode("colophon/commit/1"), ...parts.flatMap((part) => [uint64(part.length), part])));
}

// Keys

// space matches the white space of Unicode, which \s does not do exactly.
const space = /[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]/;
const validName = (name) => name !== "" && !name.includes("+") && !space.test(name) && name.isWellFormed();

// parseKey returns the key of a text in the form NAME+HASH+KEY, or null. Each key has one
// spelling. algorithm is 1 for the keys of logs and 4 for those of witnesses.
async function parseKey(text, algorithm = 1) {
  const [, name, id, encoded] = /^([^+]*)\+([^+]*)\+(.*)$/s.exec(text) ?? [];
  const bytes = fromBase64(encoded ?? "");
  if (bytes?.length !== 33 || bytes[0] !== algorithm || !validName(name)) return null;
  if (hex(await sha256(utf8.encode(`${name}\n`), bytes)).slice(0, 8) !== id) return null;
  return { name, id, key: bytes.subarray(1), text };
}

// parseKeys returns the keys of a text that has one key in a line. It rejects with Invalid
// if a line is not a key or no line is one.
export async function parseKeys(text) {
  await supported();
  const lines = text.split("\n").map((line) => line.trim()).filter(Boolean);
  const keys = await Promise.all(lines.map((line) => parseKey(line)));
  if (keys.length === 0 || keys.includes(null)) throw new Invalid("The key is not in the form NAME+HASH+KEY.");
  return keys;
}

// The checkpoint

const signatureText = (name, id) => `${name}+${id}`;

// openNote reads a signed note and checks the signatures of the known keys. Every such
// signature must be valid.
async function openNote(signed, known) {
  const wrong = () => refuted("the checkpoint is not a signed note");
  if (/[\0-\t\v-\x1f]/.test(signed)) wrong();
  const split = signed.lastIndexOf("\n\n");
  if (split < 0 || !signed.endsWith("\n") || split + 2 === signed.length) wrong();
  const text = signed.slice(0, split + 1);
  const lines = signed.slice(split + 2, -1).split("\n");
  const verified = new Map();
  const others = new Map();
  for (const [i, line] of lines.entries()) {
    if (!line.startsWith("— ")) wrong();
    const [, name, encoded] = /^([^ ]*) (.*)$/.exec(line.slice(2)) ?? wrong();
    const bytes = fromBase64(encoded, true);
    if (!bytes || bytes.length < 5 || !validName(name) || i >= maxSignatures) wrong();
    const signature = { name, id: hex(bytes.subarray(0, 4)), bytes: bytes.subarray(4), encoded };
    const id = signatureText(name, signature.id);
    if (verified.has(id) || others.has(id)) refuted(`the key ${id} has signed the checkpoint twice`);
    const keys = known.filter((key) => signatureText(key.name, key.id) === id);
    if (keys.length > 1) refuted(`two keys have the id ${id}`);
    if (keys.length === 0) others.set(id, signature);
    else if (!(await ed25519(keys[0].key, utf8.encode(text), signature.bytes))) refuted(`the signature of ${id} is not valid`);
    else verified.set(id, { ...signature, key: keys[0] });
  }
  if (verified.size === 0) cannotTell("no key of the receipt and no trusted key has signed the checkpoint");
  for (const { encoded } of [...verified.values(), ...others.values()]) {
    if (!fromBase64(encoded)) refuted("a signature of the checkpoint is not in base64");
  }
  return { text, verified: [...verified.values()], others: [...others.values()] };
}

// maxSize is the largest size of a checkpoint.
const maxSize = 2n ** 62n;

// state returns a checkpoint from its three fields, or null.
function state(origin, size, root) {
  const n = int64(size);
  const hash = fromBase64(root);
  return n !== null && n >= 0n && n <= maxSize && hash?.length === 32 ? { origin, size: n, root: hash } : null;
}

// previous returns the last checkpoint of the log that this log continues, or null.
function previous(extensions) {
  for (const line of extensions) {
    const words = line.split(" ");
    if (words[0] === "previous" && words.length === 4) return state(...words.slice(1));
  }
  return null;
}

// Policies

// nobody is the policy that wants no witness.
const nobody = { logs: [], witnesses: [], satisfied: () => true };

// parsePolicy reads a policy of c2sp.org/tlog-policy. It rejects with Invalid if the text
// is not a policy.
export async function parsePolicy(text) {
  await supported();
  const fail = (why) => {
    throw new Invalid(`The policy is not one of c2sp.org/tlog-policy: ${why}.`);
  };
  const lines = text.split("\n");
  if (/[\0-\x08\v-\x1f\x7f]/.test(text)) fail("it has a control character");
  if (lines.length > maxPolicyLines) fail("it is too long");
  const policy = { logs: [], witnesses: [], satisfied: null };
  const defined = new Map();
  const grouped = new Set();
  for (const [i, line] of lines.entries()) {
    const wrong = (why) => fail(`line ${i + 1}: ${why}`);
    const [kind, ...args] = line.split(/[ \t]+/).filter(Boolean);
    if (!kind || kind.startsWith("#")) continue;
    const checkAddress = (address) => address === undefined || /^https?:\/\/[^/?#]/i.test(address) || wrong("it has no web address");
    const define = (name, member) => (name === "none" || defined.has(name) ? wrong("the name is taken") : defined.set(name, member));
    if (kind === "log" && (args.length === 1 || args.length === 2)) {
      const key = (await parseKey(args[0])) ?? wrong("it has no key of a log");
      checkAddress(args[1]);
      if (policy.logs.some(({ name, id }) => name === key.name && id === key.id)) wrong("a log with this key is there already");
      policy.logs.push(key);
    } else if (kind === "witness" && (args.length === 2 || args.length === 3)) {
      const witness = (await parseKey(args[1], 4)) ?? wrong("it has no key of a witness");
      if (/[\x7f-\x9f]/.test(witness.name)) wrong("it has no key of a witness");
      checkAddress(args[2]);
      if (policy.witnesses.some(({ key }) => equal(key, witness.key))) wrong("a witness with this key is there already");
      policy.witnesses.push(witness);
      define(args[0], (cosigned) => cosigned.has(witness));
    } else if (kind === "group" && args.length >= 3) {
      const [name, threshold, ...names] = args;
      const want = threshold === "any" ? 1 : threshold === "all" ? names.length : /^[1-9][0-9]{0,3}$/.test(threshold) ? Number(threshold) : 0;
      if (want < 1 || want > names.length) wrong("it wants any, all or a number of members");
      const members = names.map((member) => {
        if (!defined.has(member)) wrong("no line before defines a name");
        if (grouped.has(member)) wrong("a name is in two groups");
        grouped.add(member);
        return defined.get(member);
      });
      define(name, (cosigned) => members.filter((member) => member(cosigned)).length >= want);
    } else if (kind === "quorum" && args.length === 1) {
      if (policy.satisfied) wrong("a second quorum");
      policy.satisfied = args[0] === "none" ? () => true : (defined.get(args[0]) ?? wrong("no line before defines a name"));
    } else {
      wrong("it is not log, witness, group or quorum with its arguments");
    }
  }
  return policy.satisfied ? policy : fail("it has no line with the quorum");
}

// cosignedAt returns the time of a witness's cosignature in seconds, or null if it is not
// valid.
async function cosignedAt(witness, text, { name, id, bytes }) {
  if (name !== witness.name || id !== witness.id || bytes.length !== 72) return null;
  const at = new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0);
  const valid = at < 2n ** 63n && (await ed25519(witness.key, utf8.encode(`cosignature/v1\ntime ${at}\n${text}`), bytes.subarray(8)));
  return valid ? at : null;
}

// The tree

// rootOf returns the root of a tree with size leaves that a leaf and its audit path lead to
// (RFC 6962), or null if the path has another length.
async function rootOf(path, size, index, leaf) {
  const rights = []; // from the root down to the leaf: whether the leaf is on the right
  for (let [low, high] = [0n, size]; high - low > 1n; ) {
    let half = 1n;
    while (half * 2n < high - low) half *= 2n;
    const right = index >= low + half;
    if (right) low += half;
    else high = low + half;
    rights.push(right);
  }
  if (rights.length !== path.length) return null;
  let hash = leaf;
  for (const [i, sibling] of path.entries()) {
    const right = rights[rights.length - 1 - i];
    hash = await sha256(Uint8Array.of(1), ...(right ? [sibling, hash] : [hash, sibling]));
  }
  return hash;
}

// Verification

// verify checks a receipt. keys are the keys of logs that the caller trusts. With a policy,
// the logs of the policy are trusted too, and the checkpoint must have the cosignatures that
// the policy wants. It resolves to a report:
//
//	verdict: "proven", "refuted" or "cannot tell"
//	reasons: why the receipt is not proven
//	job, log: the id of the job and the name of the log
//	size, index: the size of the log and the index of the last event, as BigInt
//	events: the events, from version 1 on
//	opened: the secret members that the receipt shows, by version and name
//	signers: the keys that have signed the checkpoint; trusted tells whether the caller trusts a key
//	cosigned: the cosignatures of the policy's witnesses
//	continues: the last checkpoint of the log that this log continues, or null
//
// It rejects with Unsupported if the browser cannot check signatures.
export async function verify(bytes, keys = [], policy = null) {
  await supported();
  const report = { verdict: "cannot tell", reasons: [], job: "", log: "", size: null, index: null, events: [], opened: new Map(), signers: [], cosigned: [], continues: null };
  try {
    const receipt = parse(bytes);
    report.job = receipt.job;
    const hashes = await checkEvents(receipt, report);
    await checkOpenings(receipt, report);
    const root = await checkCheckpoint(receipt, report, keys, policy ?? nobody);
    await checkProofs(receipt, report, hashes, root);
    checkComplete(report);
    report.verdict = report.reasons.length > 0 ? "cannot tell" : "proven";
  } catch (finding) {
    if (!(finding instanceof Finding)) throw finding;
    report.verdict = finding.verdict;
    report.reasons = [finding.message];
  }
  return report;
}

// checkEvents reads the payloads, which must be one stream of the job from its first event
// on. It returns the hashes of the payloads.
async function checkEvents({ job, events }, report) {
  const hashes = [];
  for (const [i, payload] of events.entries()) {
    const n = i + 1;
    const e = parseEvent(payload, n);
    if (e.stream !== `job/${job}` || e.version !== BigInt(n)) refuted(`event ${n} is event ${e.version} of ${e.stream}`);
    if ((i === 0) !== (e.type === "job.accepted")) refuted(`event ${n} is ${e.type}`);
    if (i > 0) {
      const before = report.events[i - 1];
      if (before.type === erased || (ends(before) && e.type !== erased)) refuted(`event ${n} follows the end of the job`);
      if (e.type === erased && !ends(before)) refuted(`event ${n} erases a job that has not ended`);
      if (e.schema < before.schema) refuted(`event ${n} has an older schema than the event before it`);
      if (e.schema > 1n && e.prev !== hex(hashes[i - 1])) refuted(`event ${n} does not follow the event before it`);
    }
    hashes.push(await sha256(payload));
    report.events.push(e);
  }
  if (report.events.length === 0) refuted("the receipt has no events");
  return hashes;
}

// checkOpenings compares the members that are shown with their commitments.
async function checkOpenings({ openings }, report) {
  for (const [version, members] of openings) {
    if (version < 1n || version > BigInt(report.events.length) || members.size === 0) refuted(`the receipt shows members of event ${version}, which has none`);
    const { stream, type, commit } = report.events[Number(version) - 1];
    const shown = new Map();
    report.opened.set(Number(version), shown);
    for (const [name, { blinding, value }] of members) {
      const text = laxUTF8.decode(value);
      if (blinding.length !== 32 || !equal(utf8.encode(text), value) || !canonical(text) || (await commitment(stream, version, type, name, blinding, value)) !== commit.get(name)) {
        refuted(`event ${version}: the value of ${quote(name.slice(0, 50))} is not the recorded one`);
      }
      shown.set(name, read(text));
    }
  }
}

// checkCheckpoint verifies the signatures of the checkpoint. Each of them must be valid: by
// a key that the caller trusts, by a key of the receipt, or by a witness of the policy. It
// returns the root of the log.
async function checkCheckpoint({ checkpoint, logKeys }, report, keys, policy) {
  const trusted = [...new Map([...keys, ...policy.logs].map((key) => [key.text, key])).values()];
  const embedded = [];
  for (const text of logKeys) {
    if (embedded.some((key) => key.text === text)) refuted("a key of the receipt is repeated");
    embedded.push((await parseKey(text)) ?? refuted("a key of the receipt is not a key of a log"));
  }
  // A key is compared as a whole. Its id has only 32 bits, so a forger can find a key with
  // the id of a trusted one.
  const all = [...embedded, ...trusted.filter((key) => !embedded.some(({ text }) => text === key.text))];
  const origin = checkpoint.split("\n", 1)[0];
  const note = await openNote(checkpoint, all.filter(({ name }) => name === origin));

  const lines = note.text.slice(0, -1).split("\n");
  const c = lines.length >= 3 && !lines.includes("") && state(...lines.slice(0, 3));
  if (!c) refuted("the checkpoint does not have its usual form");
  report.log = c.origin;
  report.size = c.size;
  report.continues = previous(lines.slice(3));

  const signed = new Set(note.verified.map(({ key }) => key.text));
  for (const { name, id, text } of embedded) {
    if (!signed.has(text)) refuted(`the key ${signatureText(name, id)} of the receipt has not signed the checkpoint`);
  }
  if (signed.size > embedded.length) refuted("a key that has signed the checkpoint is not in the receipt");
  const isTrusted = ({ text }) => trusted.some((key) => key.text === text);
  report.signers = note.verified.map(({ key }) => ({ ...key, trusted: isTrusted(key) }));
  if (!report.signers.some((key) => key.trusted)) {
    report.reasons.push(`no key that you trust has signed the checkpoint of ${c.origin}; a key in the receipt proves nothing about its owner`);
  }
  await checkCosignatures(note, report, policy);
  return c.root;
}

// checkCosignatures checks the cosignatures of the policy's witnesses.
async function checkCosignatures({ text, others }, report, policy) {
  const valid = new Map();
  for (const signature of others) {
    for (const witness of policy.witnesses) {
      const at = await cosignedAt(witness, text, signature);
      if (at !== null) valid.set(witness, { signature, at });
    }
  }
  report.cosigned = [...valid].map(([{ name }, { at }]) => ({ name, at })).sort((a, b) => (a.at < b.at ? -1 : a.at > b.at ? 1 : 0));
  for (const signature of others) {
    const known = policy.witnesses.some(({ name, id }) => name === signature.name && id === signature.id);
    if (!known) report.reasons.push(`the signature of ${signature.name} was not checked, because no policy names its key`);
    else if (![...valid.values()].some((cosignature) => cosignature.signature === signature)) refuted(`the cosignature of ${signature.name} is not valid`);
  }
  if (!policy.satisfied(valid)) report.reasons.push("the checkpoint lacks cosignatures that the policy wants");
}

// checkProofs checks that the log contains the events. An event needs a proof of its own
// unless the next event contains its hash.
async function checkProofs({ events, proofs }, report, hashes, root) {
  for (const i of report.events.keys()) {
    const next = report.events[i + 1];
    if ((!next || next.schema < 2n) && !proofs.has(BigInt(i + 1))) refuted(`event ${i + 1} has no proof that the log contains it`);
  }
  let last = -1n;
  for (const i of events.keys()) {
    const proof = proofs.get(BigInt(i + 1));
    if (!proof) continue;
    const inside = proof.index > last && proof.index < report.size;
    const found = inside && (await rootOf(proof.hashes, report.size, proof.index, await sha256(Uint8Array.of(0), hashes[i])));
    if (!found || !equal(found, root)) refuted(`the log does not contain event ${i + 1} at index ${proof.index}`);
    last = proof.index;
  }
  for (const version of proofs.keys()) {
    if (version < 1n || version > BigInt(events.length)) refuted(`the receipt has a proof of event ${version}, which is missing`);
  }
  report.index = last;
}

// checkComplete looks for what a reader would take for granted.
function checkComplete(report) {
  if (!ends(report.events.at(-1))) report.reasons.push("the job had not ended at this checkpoint");
  if (report.events[0].schema < 2n) report.reasons.push("the job began in an early release, whose events commit to no text");
  if ([...report.opened.values()].some((members) => members.has("text")) && !generated(report).complete) report.reasons.push("a part of the text is not shown");
}

// prompt returns the prompt that a report shows, or null.
export function prompt({ opened }) {
  const node = opened.get(1)?.get("prompt");
  return node?.kind === "string" ? node.value : null;
}

// generated returns the text that a report shows, and whether it is all of the text.
export function generated({ events, opened }) {
  const parts = events.filter(({ type }) => type === "job.advanced").map(({ version }) => opened.get(Number(version))?.get("text"));
  const shown = parts.filter((node) => node?.kind === "string");
  return { text: shown.map(({ value }) => value).join(""), complete: shown.length === parts.length };
}
