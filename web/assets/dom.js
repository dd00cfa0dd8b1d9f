// Helpers for the document. They insert strings as text, and no code of this page turns
// a string into markup.

// find returns the element with the given id.
export const find = (id) => document.getElementById(id);

// make returns a new element, as in make("li", { className: "event" }, "text", child).
export function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

// show makes an element visible, or hides it.
export const show = (element, visible = true) => (element.hidden = !visible);

// ready enables or disables a button by aria-disabled, because the attribute disabled
// would take the keyboard focus away from the button.
export const ready = (button, yes = true) => (yes ? button.removeAttribute("aria-disabled") : button.setAttribute("aria-disabled", "true"));
export const isReady = (button) => button.getAttribute("aria-disabled") !== "true";

// complain shows a problem in an element with role="alert" and marks the fields at
// fault. It returns the number of seconds that users must wait.
export function complain(place, problem, fields = {}) {
  for (const field of Object.values(fields)) field.removeAttribute("aria-invalid");
  if (!problem) {
    place.replaceChildren();
    return 0;
  }
  if (problem.name !== "Problem") {
    console.error(problem);
    problem = { title: "This page has a fault.", detail: "Reload it and try again.", errors: [], retryAfter: 0 };
  }
  const about = problem.errors.map(({ field, message }) => {
    fields[field]?.setAttribute("aria-invalid", "true");
    const label = fields[field]?.labels?.[0]?.textContent ?? field;
    return make("li", {}, label ? `${label}: ${message}` : message);
  });
  const repeated = problem.errors.some(({ message }) => problem.detail.includes(message)); // the list of errors repeats the detail and adds the field
  const detail = problem.detail && !repeated ? ` ${sentence(problem.detail)}` : "";
  const wait = problem.retryAfter > 0 && !/again/i.test(detail) ? ` Try again in ${problem.retryAfter} s.` : "";
  place.replaceChildren(make("strong", {}, problem.title), make("span", {}, detail + wait));
  if (about.length > 0) place.append(make("ul", {}, ...about));
  return problem.retryAfter;
}

// sentence returns the text with a capital at its start and a full stop at its end.
const sentence = (text) => text[0].toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");

// hold disables a button for some seconds and shows the remaining seconds on it.
export function hold(button, seconds) {
  if (seconds <= 0) return;
  const label = button.textContent;
  const until = Date.now() + seconds * 1000;
  ready(button, false);
  const tick = () => {
    const left = Math.ceil((until - Date.now()) / 1000);
    button.textContent = left > 0 ? `Again in ${left} s` : label;
    if (left > 0) setTimeout(tick, 250);
    else ready(button);
  };
  tick();
}
