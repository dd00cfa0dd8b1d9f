// The dialog in which users sign in or create an account.

import { complain, find, hold, isReady, ready } from "./dom.js";

export class Account {
  #client;
  #dialog = find("account");
  #username = find("username");
  #password = find("password");
  #buttons = [...this.#dialog.querySelectorAll("button[type=submit]")];

  constructor(client) {
    this.#client = client;
    this.#dialog.querySelector("form").addEventListener("submit", (event) => {
      event.preventDefault();
      if (isReady(event.submitter ?? this.#buttons[0])) this.#send(event.submitter ?? this.#buttons[0]);
    });
    this.#dialog.addEventListener("close", () => {
      this.#password.value = "";
      this.#complain(null);
    });
    find("account-close").addEventListener("click", () => this.#dialog.close());
  }

  // ask opens the dialog. It resolves, when the dialog closes, to whether the user is
  // signed in. The problem, if any, is shown as the reason why the user must sign in.
  ask(problem = null) {
    this.#complain(problem);
    this.#dialog.showModal();
    if (this.#username.value) this.#password.focus();
    return new Promise((resolve) => {
      this.#dialog.addEventListener("close", () => resolve(this.#client.username !== ""), { once: true });
    });
  }

  async #send(button) {
    const username = this.#username.value;
    const password = this.#password.value;
    for (const each of this.#buttons) ready(each, false);
    let problem = null;
    try {
      if (button.value === "register") await this.#client.register(username, password);
      await this.#client.signIn(username, password);
      this.#dialog.close();
    } catch (err) {
      problem = err;
    }
    for (const each of this.#buttons) ready(each);
    hold(button, this.#complain(problem));
  }

  #complain(problem) {
    return complain(find("account-notice"), problem, { username: this.#username, password: this.#password });
  }
}
