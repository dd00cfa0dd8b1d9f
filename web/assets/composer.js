// The form in which users enter a prompt.

import { quote, unquote } from "./colophon.js";
import { complain, find, hold, isReady, ready, show } from "./dom.js";

const longest = 500; // largest number of characters; like the service, the page counts code points

export class Composer {
  #form = find("composer");
  #prompt = find("prompt");
  #generate = find("generate");
  #cancel = find("cancel");
  #notice = find("composer-notice");
  #settings = ["max_new_tokens", "temperature", "top_k", "top_p", "seed"].map(find);
  #stop = find("stop");
  #watermark = find("watermark");

  // The constructor takes two callbacks. It calls write with a request when the user
  // submits the form, and cancel when the user cancels the running text.
  constructor(write, cancel) {
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (isReady(this.#generate)) write(this.#read());
    });
    this.#cancel.addEventListener("click", () => {
      if (!isReady(this.#cancel)) return;
      ready(this.#cancel, false);
      cancel();
    });
    this.#prompt.addEventListener("input", () => this.#measure());
    this.#stop.addEventListener("input", () => this.#checkStop());
    this.#prompt.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.#form.requestSubmit();
    });
    for (const opening of this.#form.querySelectorAll(".opening")) {
      opening.addEventListener("click", () => this.#begin(opening.textContent));
    }
    show(this.#form);
    this.#measure();
  }

  // fill puts the values of a request into the form.
  fill(request) {
    for (const input of this.#settings) input.value = request[input.name] ?? "";
    this.#stop.value = quote(request.stop ?? []);
    this.#watermark.checked = request.watermark ?? false;
    this.#checkStop();
    find("seed").closest("details").open = true;
    this.#begin(request.prompt);
  }

  // clear empties the form.
  clear() {
    this.#form.reset();
    this.#measure();
    this.#checkStop();
  }

  // busy shows whether a text is running. Users can cancel the text if cancellable is
  // true.
  busy(yes, cancellable = false) {
    ready(this.#generate, !yes);
    ready(this.#cancel);
    const lost = !cancellable && document.activeElement === this.#cancel;
    show(this.#cancel, cancellable);
    if (lost) this.#generate.focus();
  }

  // complain shows a problem. It disables the button for the time that the problem asks
  // users to wait.
  complain(problem) {
    const fields = Object.fromEntries([this.#prompt, ...this.#settings, this.#stop].map((field) => [field.name, field]));
    const seconds = complain(this.#notice, problem, fields);
    if (isReady(this.#generate)) hold(this.#generate, seconds);
    if (problem && [...this.#settings, this.#stop].some((field) => field.hasAttribute("aria-invalid"))) this.#form.querySelector("details").open = true;
    ready(this.#cancel);
  }

  #begin(text) {
    this.#prompt.value = text;
    this.#measure();
    this.#prompt.focus();
    this.#prompt.setSelectionRange(text.length, text.length);
  }

  #measure() {
    const length = [...this.#prompt.value].length;
    const over = length > longest;
    const count = find("count");
    count.textContent = `${length} of ${longest}`;
    count.classList.toggle("over", over);
    this.#prompt.setCustomValidity(over ? `This is ${length - longest} characters too long.` : "");
    this.#prompt.removeAttribute("aria-invalid");
  }

  #checkStop() {
    this.#stop.setCustomValidity(unquote(this.#stop.value) ? "" : 'Write each string in double quotes, with commas between them: "\\n", "The end".');
    this.#stop.removeAttribute("aria-invalid");
  }

  #read() {
    const request = { prompt: this.#prompt.value };
    for (const input of this.#settings) {
      if (input.value !== "") request[input.name] = input.valueAsNumber;
    }
    const stop = unquote(this.#stop.value);
    if (stop.length > 0) request.stop = stop;
    if (this.#watermark.checked) request.watermark = true;
    return request;
  }
}
