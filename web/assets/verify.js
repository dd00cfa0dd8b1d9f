// Connects the form and the result of the page that verifies receipts. The page sends
// nothing: it reads the files in the browser.

import { find, make, show } from "./dom.js";
import { generated, Invalid, maxReceipt, parseKeys, parsePolicy, prompt, Unsupported, verify } from "./receipt.js";

const maxText = 1 << 20; // bytes of a file with keys

let receipt = null; // the chosen file, which may have been dropped
let run = 0; // number of the latest verification; an earlier one that ends later is ignored

find("verifier").addEventListener("submit", (event) => {
  event.preventDefault();
  check();
});
find("clear").addEventListener("click", () => {
  find("verifier").reset();
  receipt = null;
  forget();
});
find("receipt").addEventListener("change", ({ target }) => {
  receipt = target.files[0] ?? null;
  checkIfComplete();
});
find("key-file").addEventListener("change", async ({ target }) => {
  const [file] = target.files;
  if (file) await takeKey(file);
});
for (const field of [find("key"), find("policy")]) {
  field.addEventListener("input", forget);
  field.addEventListener("change", checkIfComplete);
}

// A file that misses the form would replace the page, so the whole page accepts files.
for (const type of ["dragenter", "dragover"]) {
  document.addEventListener(type, (event) => {
    event.preventDefault();
    find("drop").classList.add("over");
  });
}
document.addEventListener("dragleave", ({ relatedTarget }) => {
  if (!relatedTarget) find("drop").classList.remove("over");
});
document.addEventListener("drop", async (event) => {
  event.preventDefault();
  find("drop").classList.remove("over");
  for (const file of [...event.dataTransfer.files]) {
    const start = await file.slice(0, 64).text().catch(() => "");
    if (!start.trimStart().startsWith("{")) {
      await takeKey(file);
      continue;
    }
    receipt = file;
    find("receipt").files = listOf(file);
    checkIfComplete();
  }
});
show(find("verifier"));

// listOf returns a list with one file, so that the field shows the name of a dropped file.
function listOf(file) {
  const transfer = new DataTransfer();
  transfer.items.add(file);
  return transfer.files;
}

// takeKey puts the key of a file into its text field, where the user sees it.
async function takeKey(file) {
  forget();
  try {
    if (file.size > maxText) throw new Invalid("The file with the key is too long.");
    find("key").value = (await file.text()).trim();
  } catch (error) {
    return complain(error);
  }
  checkIfComplete();
}

// forget removes the result, which belongs to other input.
function forget() {
  run++;
  complain(null);
  show(find("verdict"), false);
  find("verdict-status").textContent = "";
}

// checkIfComplete verifies as soon as nothing is missing. Before that, a result would only
// say that the key is missing.
function checkIfComplete() {
  forget();
  if (receipt && (find("key").value.trim() || find("policy").value.trim())) check();
}

async function check() {
  forget();
  const mine = run;
  if (!receipt) return complain(new Invalid("Choose a receipt first."));
  find("verdict-status").textContent = "Verifying";
  try {
    const [keys, policy] = [find("key").value.trim(), find("policy").value.trim()];
    if (receipt.size > maxReceipt) throw new Invalid("The receipt is too long.");
    const bytes = new Uint8Array(await receipt.arrayBuffer());
    const report = await verify(bytes, keys ? await parseKeys(keys) : [], policy ? await parsePolicy(find("policy").value) : null);
    if (mine === run) present(report);
  } catch (error) {
    if (mine === run) complain(error);
  }
}

// complain shows why there is no result.
function complain(error) {
  find("verdict-status").textContent = "";
  const place = find("verifier-notice");
  if (!error) return place.replaceChildren();
  if (error instanceof Unsupported) {
    const where = globalThis.isSecureContext ? "It lacks Ed25519 in WebCrypto. Use a newer browser." : "WebCrypto needs HTTPS. Open this page with https.";
    return place.replaceChildren(make("strong", {}, "This browser cannot check signatures. "), `${where} The receipt was not verified, and this page says nothing about it.`);
  }
  if (error instanceof Invalid) return place.replaceChildren(make("strong", {}, "Not verified. "), error.message);
  console.error(error);
  const unreadable = error instanceof DOMException;
  place.replaceChildren(make("strong", {}, "Not verified. "), unreadable ? "The browser cannot read the file. Choose it again." : "This page has a fault. Reload it and try again.");
}

const words = {
  proven: ["Proven", "the log has recorded this job.", "The log contains these events of the job, from the first to the last. A key that you trust has signed the log."],
  refuted: ["Refuted", "this receipt is wrong.", "The receipt contradicts itself or the log. It was changed, or it is not of this log."],
  "cannot tell": ["Cannot tell", "a proof is missing.", "The receipt is not proven, and it is not refuted."],
};

function present(report) {
  const { verdict, reasons } = report;
  const [word, rest, meaning] = words[verdict];
  find("verdict").dataset.verdict = verdict;
  find("verdict-title").replaceChildren(make("strong", {}, `${word}:`), ` ${rest}`);
  find("verdict-meaning").textContent = meaning;
  find("verdict-reasons").replaceChildren(...reasons.map((reason) => make("li", {}, `${reason[0].toUpperCase()}${reason.slice(1)}.`)));
  show(find("verdict-reasons"), reasons.length > 0);

  // The contents of a refuted receipt may be a forger's, so the page does not show them.
  const readable = verdict === "proven" || (verdict === "cannot tell" && report.log !== "" && report.index !== null);
  show(find("contents"), readable);
  if (readable) presentContents(report);

  find("verdict-status").textContent = `${word}: ${rest}`;
  show(find("verdict"));
  find("verdict").scrollIntoView({ block: "nearest" });
}

function presentContents(report) {
  const proven = report.verdict === "proven";
  find("contents-title").textContent = proven ? "What is proven" : "What the receipt says, without a proof";
  const beginning = prompt(report);
  const { text, complete } = generated(report);
  const hasText = text !== "";
  find("shown-prompt").textContent = beginning ?? "";
  find("shown-continuation").textContent = text;
  show(find("shown-text"), beginning !== null || hasText);
  const notes = [
    beginning !== null && hasText && "The prompt is grey. The text follows it.",
    beginning === null && "The receipt does not show the prompt.",
    !hasText && !complete && "The receipt does not show the text.",
    hasText && !complete && "A part of the text is not shown. The shown parts may not follow each other.",
  ];
  find("shown-note").textContent = notes.filter(Boolean).join(" ");

  const lines = facts(report).map(([term, ...values]) => make("div", {}, make("dt", {}, term), ...values.map((value) => make("dd", { className: term.toLowerCase() }, value))));
  find("facts").replaceChildren(...lines);
  const events = report.events.map(({ version, type, at }) =>
    make("li", { value: Number(version) }, make("span", {}, type), make("time", { dateTime: at }, moment(at))),
  );
  find("events").replaceChildren(...events);
}

// facts returns what a report says as [term, ...values].
function facts(report) {
  const { job, log, size, index, signers, cosigned, continues, events, opened } = report;
  const member = (type, name) => unique(events.filter((e) => e.type === type).map(({ fact }) => fact.kind === "object" && fact.value.get(name)?.value));
  const others = [...opened].flatMap(([version, members]) =>
    [...members].filter(([name]) => name !== "prompt" && name !== "text").map(([name, { text }]) => `${name} of event ${version}: ${text}`),
  );
  const accepted = events[0].fact;
  const mark = accepted.kind === "object" && accepted.value.get("watermark");
  const last = events.at(-1);
  const erased = last.type === "job.erased";
  const end = erased ? events.at(-2) : last;
  return [
    ["Job", job],
    ["Log", log],
    ["Position", `the last event is at index ${index} of ${size} entries`],
    ["Signed by", ...signers.map(({ name, id, trusted }) => `${name}+${id}, ${trusted ? "a key that you gave" : "a key that you did not give"}`)],
    ["Witnesses", ...cosigned.map(({ name, at }) => `${name}, ${seconds(at)}`)],
    ["Continues", ...(continues ? [`${continues.origin}, ${continues.size} entries`] : [])],
    ["Model", ...member("job.accepted", "model")],
    ["Weights", ...member("job.started", "weights")],
    ["Kernel", ...member("job.started", "kernel")],
    ["Watermark", ...(mark?.kind === "object" ? [`key ${mark.value.get("key")?.value}, ${mark.value.get("parameters")?.value}: only the holder of this key can execute the text again`] : [])],
    ["Ended", end.type === "job.completed" ? member("job.completed", "finish_reason").map((reason) => `job.completed, ${reason}`)[0] ?? "job.completed" : end.type],
    ["Erased", ...(erased ? [`${moment(last.at)}, so the service has no prompt and no text of it any more`] : [])],
    ["Also shown", ...others],
  ].filter(([, ...values]) => values.length > 0);
}

const unique = (values) => [...new Set(values.filter((value) => typeof value === "string"))];

// moment returns a time as the receipt has it, in UTC, so that two readers see the same.
const moment = (at) => `${at.slice(0, 10)} ${at.slice(11, -1)} UTC`;

// seconds returns a time in seconds since 1970. A witness can name a time that has no date.
function seconds(at) {
  const date = new Date(Number(at) * 1000);
  return Number.isNaN(date.valueOf()) ? `second ${at}` : `${date.toISOString().slice(0, 19).replace("T", " ")} UTC`;
}
