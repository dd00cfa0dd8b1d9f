// The sheet on which a text appears, with its colophon at the end.

import { blank, count, ended, fold, lines, request, sentence, since } from "./colophon.js";
import { complain, find, make, show } from "./dom.js";

export class Sheet {
  #job = null;
  #record = blank;
  #root = find("sheet");
  #status = find("status");
  #continuation = find("continuation");

  // The constructor takes a callback. The sheet calls it with the request that
  // generates the text once more.
  constructor(again) {
    find("again").addEventListener("click", () => again(request(this.#record)));
  }

  // begin clears the sheet for a new job.
  begin(job) {
    this.#job = job;
    this.#record = blank;
    find("opening").textContent = job.prompt;
    this.#continuation.replaceChildren();
    complain(find("sheet-notice"), null);
    show(find("colophon"), false);
    find("colophon").querySelector("details").open = false;
    show(this.#root);
    this.#report();
    this.#root.focus({ preventScroll: true });
    this.#root.scrollIntoView({ block: "nearest" });
  }

  clear() {
    this.#job = null;
    show(this.#root, false);
    find("opening").textContent = "";
    this.#continuation.replaceChildren();
    find("colophon-lines").replaceChildren();
    find("colophon-events").replaceChildren();
  }

  // apply adds an event to the sheet.
  apply(event) {
    this.#record = fold(this.#record, event);
    // Each piece gets its own span, so that a screen reader announces only this piece
    // and not the whole text again.
    if (event.type === "job.advanced") this.#continuation.append(make("span", {}, event.text ?? ""));
    if (event.type !== "job.advanced" || this.#root.dataset.state !== this.#record.state) this.#report();
    if (ended(this.#record)) this.#close();
  }

  // interrupted shows that the connection was lost. wait is the number of milliseconds
  // until the next attempt.
  interrupted(wait) {
    this.#say(`The connection was lost, trying again${wait < 1500 ? "" : ` in ${Math.round(wait / 1000)} s`}`, "interrupted");
  }

  // complain shows why the page cannot follow the job.
  complain(problem) {
    show(this.#root);
    complain(find("sheet-notice"), problem);
    if (this.#job) this.#say("Not followed to its end", "lost");
  }

  #report() {
    const { state, tokens } = this.#record;
    const written = count(tokens, "token");
    const place = this.#job.queue_position;
    const words = {
      queued: place > 0 ? `Waiting, number ${place} in the queue` : "Waiting for its turn",
      running: "Being written",
      completed: `Finished, ${written}`,
      cancelled: `Cancelled after ${written}`,
      failed: `Failed after ${written}`,
    };
    this.#say(words[state], state);
  }

  #say(words, state) {
    this.#status.textContent = words;
    this.#root.dataset.state = state;
  }

  #close() {
    find("colophon-sentence").textContent = sentence(this.#record);
    const terms = lines(this.#job.id, this.#record).map(([term, value]) =>
      make("div", {}, make("dt", {}, term), make("dd", { className: term.toLowerCase() }, value)),
    );
    find("colophon-lines").replaceChildren(...terms);
    const events = this.#record.events.map((event) =>
      make("li", { value: event.version }, make("span", {}, event.type), make("span", {}, fact(event)), make("time", { dateTime: event.at }, since(this.#record, event.at))),
    );
    find("colophon-events").replaceChildren(...events);
    show(find("colophon"));
  }
}

// fact returns the detail of an event that the list of events shows.
function fact({ type, tokens, attempt, finish_reason, reason }) {
  switch (type) {
    case "job.started":
      return attempt === undefined ? "" : `attempt ${attempt}`;
    case "job.advanced":
      return count(tokens?.length ?? 0, "token");
    case "job.completed":
      return finish_reason ?? "";
    default:
      return reason ?? "";
  }
}
