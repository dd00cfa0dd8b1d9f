// The part of the service's HTTP API that the page uses.

import { Problem } from "./problem.js";

// Client makes requests for one account at a time. Only this object has the access
// token and the refresh token. In the browser's storage, another page, a browser
// extension or the next user of this computer could read them. After a reload, users
// sign in again.
//
// Every method throws a Problem when the service refuses or does not answer. It throws
// the signal's own reason when the signal is aborted.
export class Client {
  #base;
  #accessToken = "";
  #refreshToken = "";
  #renewal = null; // promise of the running renewal; renewals are shared, because a refresh token may be used only once
  #onSignedOut;

  username = ""; // name of the account; "" when no user is signed in

  // onSignedOut is called when the service no longer accepts the session.
  constructor(base, onSignedOut = () => {}) {
    this.#base = base;
    this.#onSignedOut = onSignedOut;
  }

  async register(username, password) {
    await this.#send("/users", { method: "POST", json: { username, password } });
  }

  async signIn(username, password) {
    this.#keep(await this.#token({ grant_type: "password", username, password }));
    this.username = username;
  }

  // signOut forgets the tokens at once, even when the service cannot be reached. It
  // also asks the service to end the session.
  async signOut() {
    const token = this.#refreshToken;
    this.#forget();
    if (token) await this.#send("/revoke", { method: "POST", body: new URLSearchParams({ token }), keepalive: true }).catch(() => {});
  }

  // submit sends a request for a text and returns the new job and its path.
  async submit(request) {
    const response = await this.#signed("/jobs", { method: "POST", json: request });
    const job = await response.json();
    return { job, path: this.#local(response.headers.get("Location") ?? `/jobs/${job.id}`) };
  }

  async job(path) {
    return (await this.#signed(path)).json();
  }

  async cancel(path) {
    await this.#signed(`${path}/cancel`, { method: "POST" });
  }

  // events opens the stream of the job's events after the given version and returns the
  // response body.
  async events(path, after, signal) {
    const headers = { Accept: "text/event-stream" };
    if (after > 0) headers["Last-Event-ID"] = String(after);
    return (await this.#signed(`${path}/events`, { headers, signal })).body;
  }

  // history returns a page of finished jobs, newest first, and the path of the next
  // page, or "" after the last page.
  async history(path = "/history") {
    const response = await this.#signed(path);
    const next = linkTo("next", response.headers.get("Link"));
    return { items: await response.json(), older: next && this.#local(next) };
  }

  // signed sends a request with the access token. If the token has expired, signed
  // renews it and sends the request again.
  async #signed(path, options = {}) {
    const used = this.#accessToken;
    const send = () =>
      this.#send(path, { ...options, headers: { ...options.headers, Authorization: `Bearer ${this.#accessToken}` } });
    try {
      return await send();
    } catch (err) {
      if (!(err instanceof Problem) || err.status !== 401) throw err;
      if (used === this.#accessToken) await this.#renew(err);
      return send();
    }
  }

  #renew(refused) {
    if (!this.#refreshToken) {
      this.#end();
      throw refused;
    }
    const spent = this.#refreshToken;
    this.#renewal ??= this.#token({ grant_type: "refresh_token", refresh_token: spent })
      .then(
        (answer) => {
          if (this.#refreshToken === spent) this.#keep(answer); // unless the user has signed out or in meanwhile
        },
        (err) => {
          if (err.temporary) throw err;
          this.#end();
          throw refused;
        },
      )
      .finally(() => (this.#renewal = null));
    return this.#renewal;
  }

  #end() {
    this.#forget();
    this.#onSignedOut();
  }

  #forget() {
    this.#accessToken = this.#refreshToken = this.username = "";
  }

  #keep({ access_token, refresh_token }) {
    this.#accessToken = access_token;
    this.#refreshToken = refresh_token ?? "";
  }

  async #token(form) {
    return (await this.#send("/token", { method: "POST", body: new URLSearchParams(form) })).json();
  }

  async #send(path, { json, headers, ...options }) {
    if (json !== undefined) {
      options.body = JSON.stringify(json);
      headers = { ...headers, "Content-Type": "application/json" };
    }
    let response;
    try {
      response = await fetch(this.#base + path, { headers, cache: "no-store", credentials: "omit", ...options });
    } catch {
      options.signal?.throwIfAborted();
      throw Problem.unreachable();
    }
    if (!response.ok) throw await Problem.from(response);
    return response;
  }

  // local turns a URL in a response into a path of this service. It refuses other
  // hosts, because the access token must not reach them.
  #local(reference) {
    const base = new URL(this.#base);
    const url = new URL(reference, base);
    if (url.origin !== base.origin) throw new Problem({ title: "Unexpected answer.", detail: "The service pointed to another host." });
    return url.pathname + url.search;
  }
}

const param = String.raw`;\s*([^\s=;,]+)\s*(?:=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;,"]+)))?\s*`;
const params = new RegExp(param, "g");
const links = new RegExp(String.raw`<([^>]*)>\s*((?:${param})*)`, "g");

// linkTo returns the target of the first link with the given relation in a Link header
// (RFC 8288), or "".
export function linkTo(relation, header) {
  for (const [, target, tail] of (header ?? "").matchAll(links)) {
    const rel = [...tail.matchAll(params)].find(([, name]) => name.toLowerCase() === "rel");
    if (rel && (rel[2] ?? rel[3] ?? "").split(/\s+/).includes(relation)) return target;
  }
  return "";
}
