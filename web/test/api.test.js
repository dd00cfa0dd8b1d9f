import assert from "node:assert/strict";
import { test } from "node:test";
import { Client, linkTo } from "../assets/api.js";
import { Problem, retryAfter } from "../assets/problem.js";
import { json, serve } from "./service.js";

// renewing returns the handler of a service that refuses the first access token and
// accepts each refresh token once.
function renewing(log) {
  let n = 0;
  return (request, response, body) => {
    log.push(`${request.method} ${request.url} ${request.headers.authorization ?? body}`);
    if (request.url === "/token") {
      const form = new URLSearchParams(body);
      if (form.get("grant_type") === "refresh_token" && form.get("refresh_token") !== `r${n}`) return json(response, 401, { title: "Unauthorized" });
      n++;
      return json(response, 200, { access_token: `a${n}`, refresh_token: `r${n}`, token_type: "bearer", expires_in: 1 });
    }
    if (request.headers.authorization !== `Bearer a${n}` || n < 2) return json(response, 401, { title: "Unauthorized" });
    json(response, 200, []);
  };
}

test("signing in sends the form that OAuth2 asks for", async (t) => {
  const seen = [];
  const origin = await serve(t, (request, response, body) => {
    seen.push([request.url, request.headers["content-type"], body]);
    json(response, 200, { access_token: "a" });
  });
  const client = new Client(origin);
  await client.register("reader", "pass & word");
  await client.signIn("reader", "pass & word");
  assert.deepEqual(seen, [
    ["/users", "application/json", '{"username":"reader","password":"pass & word"}'],
    ["/token", "application/x-www-form-urlencoded;charset=UTF-8", "grant_type=password&username=reader&password=pass+%26+word"],
  ]);
  assert.equal(client.username, "reader");
});

test("an expired access token is renewed once for any number of requests", async (t) => {
  const log = [];
  const client = new Client(await serve(t, renewing(log)));
  await client.signIn("reader", "securepassword");
  const pages = await Promise.all([client.history(), client.history(), client.history()]);
  assert.deepEqual(pages, Array(3).fill({ items: [], older: "" }));
  assert.equal(log.filter((line) => line.includes("grant_type=refresh_token")).length, 1);
});

test("a session that cannot be renewed ends and calls onSignedOut", async (t) => {
  const origin = await serve(t, (request, response, body) => {
    if (body.includes("grant_type=password")) return json(response, 200, { access_token: "a", refresh_token: "r" });
    json(response, 401, { title: "Unauthorized", detail: "no" });
  });
  let ended = 0;
  const client = new Client(origin, () => ended++);
  await client.signIn("reader", "securepassword");
  const results = await Promise.allSettled([client.history(), client.history()]);
  assert.deepEqual(results.map(({ reason }) => reason?.status), [401, 401]);
  assert.equal(ended, 1);
  assert.equal(client.username, "");
});

test("a renewal answered with 503 does not end the session", async (t) => {
  const origin = await serve(t, (request, response, body) => {
    if (body.includes("grant_type=password")) return json(response, 200, { access_token: "a", refresh_token: "r" });
    json(response, body.includes("refresh_token") ? 503 : 401, {});
  });
  const client = new Client(origin, () => assert.fail("ended"));
  await client.signIn("reader", "securepassword");
  await assert.rejects(client.history(), { status: 503 });
  assert.equal(client.username, "reader");
});

test("signing out ends the session, and drops the tokens even if the service fails", async (t) => {
  const seen = [];
  const origin = await serve(t, (request, response, body) => {
    seen.push(`${request.url} ${body}`);
    if (request.url === "/revoke") return json(response, 503, {});
    json(response, 200, { access_token: "a", refresh_token: "r" });
  });
  const client = new Client(origin);
  await client.signOut(); // signing out without a session must not fail
  await client.signIn("reader", "securepassword");
  const gone = client.signOut();
  assert.equal(client.username, ""); // the name must be empty at once
  await gone;
  assert.deepEqual(seen.slice(1), ["/revoke token=r"]);
});

test("a user who signs out during a renewal stays signed out", async (t) => {
  let renewal;
  const asked = new Promise((resolve) => (renewal = resolve));
  const origin = await serve(t, (request, response, body) => {
    if (body.includes("grant_type=password")) return json(response, 200, { access_token: "a", refresh_token: "r" });
    if (body.includes("refresh_token")) return renewal(() => json(response, 200, { access_token: "b", refresh_token: "s" }));
    json(response, request.headers.authorization === "Bearer b" ? 200 : 401, []);
  });
  const client = new Client(origin);
  await client.signIn("reader", "securepassword");
  const page = client.history();
  const answer = await asked;
  client.signOut();
  answer();
  await assert.rejects(page, { status: 401 });
});

test("a job's path comes from Location and must be on this service", async (t) => {
  let location = "/jobs/7";
  const origin = await serve(t, (request, response) => json(response, 202, { id: "7" }, { Location: location }));
  const client = new Client(origin);
  assert.deepEqual(await client.submit({ prompt: "x" }), { job: { id: "7" }, path: "/jobs/7" });
  location = `${origin}/jobs/8`;
  assert.equal((await client.submit({ prompt: "x" })).path, "/jobs/8");
  location = "https://elsewhere.example/jobs/7";
  await assert.rejects(client.submit({ prompt: "x" }), Problem);
});

test("the Link header has the path of the older page", async (t) => {
  const origin = await serve(t, (request, response) => json(response, 200, [1], { Link: '</history?cursor=a%2Cb>; rel="next"' }));
  assert.deepEqual(await new Client(origin).history(), { items: [1], older: "/history?cursor=a%2Cb" });
});

test("linkTo finds a relation in any Link header", () => {
  for (const [header, want] of [
    [null, ""],
    ["", ""],
    ["</a>; rel=next", "/a"],
    ['</a>; rel="prev", </b>; rel="next"', "/b"],
    ['</a,b;c>; title="x, y; rel=\\"next"; rel="next last"', "/a,b;c"],
    ['</a>; rel="nextish"', ""],
    ['</a>; title="rel=next"', ""],
    ['</a>; title="; rel=next"', ""],
    ['</a>;rel="last" ; rel="next"', ""],
    ["</a> ; REL = next", "/a"],
    ["</a>", ""],
  ]) {
    assert.equal(linkTo("next", header), want, header);
  }
});

test("problem details become a Problem", async () => {
  const answer = (status, body, headers) => Problem.from(new Response(body, { status, headers }));
  const details = { title: "Prompt refused", detail: "Why.", errors: [{ message: "too big", location: "body.max_length", value: 9 }, { location: "body" }, null] };
  const problem = await answer(422, JSON.stringify(details));
  assert.deepEqual({ ...problem }, { name: "Problem", status: 422, title: "Prompt refused", detail: "Why.", errors: [{ field: "max_length", message: "too big" }], retryAfter: 0 });
  assert.ok(!problem.temporary);

  const limited = await answer(429, '{"title":"Too Many Requests"}', { "Retry-After": "12" });
  assert.deepEqual([limited.title, limited.retryAfter, limited.temporary], ["Too much at once.", 12, true]);

  for (const body of ["", "null", "<html>", '{"errors":"none","title":5}']) {
    const problem = await answer(502, body);
    assert.deepEqual([problem.title, problem.detail, problem.errors, problem.temporary], ["The service is not there just now.", "", [], true], body);
  }
});

test("a service that does not answer gives a Problem, and an abort does not", async (t) => {
  const origin = await serve(t, (request) => request.socket.destroy());
  await assert.rejects(new Client(origin).history(), { name: "Problem", status: 0 });
  await assert.rejects(new Client(origin).events("/jobs/1", 0, AbortSignal.abort()), { name: "AbortError" });
});

test("Retry-After is seconds or a date", () => {
  const now = Date.parse("Fri, 01 Aug 2025 12:00:00 GMT");
  for (const [header, want] of [[null, 0], ["", 0], ["7", 7], ["0", 0], ["soon", 0], ["Fri, 01 Aug 2025 12:00:30 GMT", 30], ["Fri, 01 Aug 2025 11:00:00 GMT", 0]]) {
    assert.equal(retryAfter(header, now), want, header);
  }
});
