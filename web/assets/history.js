// The list of the user's finished texts, newest first.

import { complain, find, isReady, make, ready, show } from "./dom.js";

const excerpt = 160; // number of characters that the list shows of each text

export class History {
  #client;
  #open;
  #list = find("history-items");
  #older = ""; // path of the next page of the history; "" after the last page
  #entries = new Map(); // buttons, and items of erased texts, by job id

  // The constructor takes a client and the function open, which is called with the id
  // of the job that the user chooses.
  constructor(client, open) {
    this.#client = client;
    this.#open = open;
    find("older").addEventListener("click", () => this.#more());
  }

  clear() {
    this.#entries.clear();
    this.#list.replaceChildren();
    this.#older = "";
    show(find("history"), false);
    show(find("older"), false);
  }

  // refresh adds the texts that are new, and marks those that were erased. If no text is
  // loaded yet, it loads the first page.
  async refresh() {
    const username = this.#client.username;
    await this.#load("/history", (items, older) => {
      if (this.#client.username !== username) return;
      if (this.#entries.size === 0) this.#older = older;
      for (const item of items) if (item.erased_at) this.#erase(item);
      this.#list.prepend(...this.#fresh(items));
    });
  }

  // mark shows which of the listed texts is on the sheet.
  mark(id) {
    for (const [each, button] of this.#entries) {
      if (each === id) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    }
  }

  async #more() {
    if (!isReady(find("older"))) return;
    ready(find("older"), false);
    await this.#load(this.#older, (items, older) => {
      const fresh = this.#fresh(items);
      this.#older = older;
      this.#list.append(...fresh);
      fresh[0]?.firstChild.focus();
    });
    ready(find("older"));
  }

  async #load(path, add) {
    let problem = null;
    try {
      const { items, older } = await this.#client.history(path);
      add(items, older);
    } catch (err) {
      problem = err;
    }
    if (this.#client.username === "") return;
    complain(find("history-notice"), problem);
    show(find("history"));
    show(find("history-empty"), this.#entries.size === 0 && !problem);
    show(find("older"), this.#older !== "");
  }

  // erase replaces a listed text by what is left of it.
  #erase(item) {
    const entry = this.#entries.get(item.id);
    if (entry?.tagName !== "BUTTON") return;
    const tombstone = make("li", {}, ...erased(item));
    entry.parentElement.replaceWith(tombstone);
    this.#entries.set(item.id, tombstone);
  }

  #fresh(items) {
    return items.filter(({ id }) => !this.#entries.has(id)).map((item) => {
      if (item.erased_at) {
        const tombstone = make("li", {}, ...erased(item));
        this.#entries.set(item.id, tombstone);
        return tombstone;
      }
      const button = make("button", { type: "button" }, ...summary(item));
      button.addEventListener("click", () => this.#open(item.id));
      this.#entries.set(item.id, button);
      return make("li", {}, button);
    });
  }
}

// erased returns what is left of an erased text.
function erased({ model_name, created_at, erased_at }) {
  return [
    make("span", { className: "excerpt" }, make("i", {}, `Erased on ${moment(erased_at)}`)),
    make("span", { className: "when" }, make("time", { dateTime: created_at }, moment(created_at)), ` · ${model_name}`),
  ];
}

const moment = (at) => new Date(at).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });

function summary({ prompt, completion, model_name, created_at }) {
  const rest = [...completion].slice(0, Math.max(0, excerpt - [...prompt].length)).join("");
  return [
    make("span", { className: "excerpt" }, make("b", {}, prompt), rest),
    make("span", { className: "when" }, make("time", { dateTime: created_at }, moment(created_at)), ` · ${model_name}`),
  ];
}
