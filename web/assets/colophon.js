// Builds the record of a text from the events of its job, without the page or the
// network.

// blank is the record of a job before its first event.
export const blank = { state: "queued", attempts: 0, tokens: 0, events: [] };

// fold returns the record after it has added an event.
export function fold(record, event) {
  const next = { ...record, events: [...record.events, event] };
  switch (event.type) {
    case "job.accepted": {
      const { at: acceptedAt, prompt, prompt_tokens: promptTokens, params, watermark, stop, model } = event;
      return { ...next, acceptedAt, prompt, promptTokens, params, watermark, stop, model };
    }
    case "job.started": {
      const { weights, kernel } = event;
      return { ...next, state: "running", attempts: record.attempts + 1, startedAt: record.startedAt ?? event.at, weights, kernel };
    }
    case "job.advanced":
      return { ...next, tokens: record.tokens + (event.tokens?.length ?? 0) };
    case "job.completed":
      return { ...next, state: "completed", finishReason: event.finish_reason, finishedAt: event.at };
    case "job.failed":
      return event.final === false ? { ...next, state: "queued" } : { ...next, state: "failed", reason: event.reason, finishedAt: event.at };
    case "job.cancelled":
      return { ...next, state: "cancelled", reason: event.reason, finishedAt: event.at };
    default: // an event type of a later version of the service
      return next;
  }
}

// ended reports whether the record has the final event of its job.
export const ended = ({ state }) => state !== "queued" && state !== "running";

// request returns the request that generates the text of a record again.
export function request({ prompt, params, watermark, stop }) {
  const { max_tokens, ...others } = params;
  return { prompt, max_new_tokens: max_tokens, ...others, ...(watermark && { watermark: true }), ...(stop?.length && { stop }) };
}

// quote returns strings as users write them: in double quotes, with commas between them.
export const quote = (strings) => strings.map((string) => JSON.stringify(string)).join(", ");

// unquote returns the strings of a text that quote made or a user wrote, or null if the
// text has another form.
export function unquote(text) {
  try {
    const strings = JSON.parse(`[${text}]`);
    return strings.every((string) => typeof string === "string") ? strings : null;
  } catch {
    return null;
  }
}

// sentence returns a sentence with the model, the speed and the time of an ended job's
// text.
export function sentence(record) {
  const took = duration(record);
  const date = new Date(record.finishedAt).toLocaleString(undefined, { dateStyle: "long", timeStyle: "short" });
  if (!took) return `Given up before ${record.model} began, on ${date}.`;
  switch (record.state) {
    case "completed":
      return `Written by ${record.model} in ${took}, on ${date}.`;
    case "cancelled":
      return `Begun by ${record.model} and cancelled after ${took}, on ${date}.`;
    default:
      return `Begun by ${record.model}, which failed after ${took}, on ${date}.`;
  }
}

// lines returns the other facts about a text as [term, value] pairs.
export function lines(id, record) {
  const params = record.params ?? {};
  const settings = [
    ["at most", params.max_tokens && count(params.max_tokens, "new token")],
    ["temperature", params.temperature],
    ["top-k", params.top_k],
    ["top-p", params.top_p],
    ["min-p", params.min_p],
    ["presence penalty", params.presence_penalty],
    ["frequency penalty", params.frequency_penalty],
    ["repetition penalty", params.repetition_penalty],
    ["logit bias for", params.logit_bias && count(Object.keys(params.logit_bias).length, "token")],
    ["at least", params.min_tokens && count(params.min_tokens, "new token")],
    ["stop at", record.stop && quote(record.stop)],
  ];
  const versions = record.events.map(({ version }) => version);
  return [
    ["Seed", params.seed],
    ["Settings", settings.filter(([, value]) => known(value)).map((pair) => pair.join("\u00a0")).join(" · ")],
    ["Tokens", `${record.promptTokens} in the beginning, ${record.tokens} written${speed(record)}`],
    ["Ended", ending(record)],
    ["Attempts", record.attempts > 1 ? record.attempts : undefined],
    ["Weights", record.weights],
    ["Kernel", record.kernel],
    ["Watermark", record.watermark && `key ${record.watermark.key}, ${record.watermark.parameters}`],
    ["Job", id],
    ["Events", versions.length > 0 ? `${versions[0]} to ${versions.at(-1)}` : undefined],
  ].filter(([, value]) => known(value)).map(([term, value]) => [term, String(value)]);
}

// since returns the time from the job's acceptance to an event, such as "+1.50 s".
export const since = (record, at) => `+${((Date.parse(at) - Date.parse(record.acceptedAt)) / 1000).toFixed(2)} s`;

// count returns a number with its noun, which is singular or plural.
export const count = (n, thing) => `${n} ${n === 1 ? thing : `${thing}s`}`;

const known = (value) => value !== undefined && value !== null && value !== "";

// seconds returns the time from the job's first start to its end. It returns NaN for a
// job that never started.
const seconds = ({ startedAt, finishedAt }) => (Date.parse(finishedAt) - Date.parse(startedAt)) / 1000;

function duration(record) {
  const s = seconds(record);
  if (!(s >= 0)) return "";
  return s < 60 ? `${s.toFixed(s < 10 ? 2 : 1)} seconds` : `${count(Math.floor(s / 60), "minute")} and ${count(Math.floor(s % 60), "second")}`;
}

function speed(record) {
  const s = seconds(record);
  return s > 0 && record.tokens > 0 ? `, ${Number((record.tokens / s).toPrecision(2))} a second` : "";
}

function ending({ state, reason, finishReason }) {
  if (state === "failed") return reason || "by a failure";
  if (state === "cancelled") return reason || "by request";
  if (finishReason === "length") return "at the requested length";
  if (finishReason === "stop") return "at a natural end or a stop string";
  return finishReason;
}
