// Connects the form, the sheet, the history and the account of the page.

import { Account } from "./account.js";
import { Client } from "./api.js";
import { Composer } from "./composer.js";
import { find, show } from "./dom.js";
import { follow } from "./follow.js";
import { History } from "./history.js";
import { Problem } from "./problem.js";
import { Sheet } from "./sheet.js";

const client = new Client(location.origin, () => {
  leave();
  account.ask(new Problem({ title: "Your session has ended.", detail: "Sign in again to go on." })).then(enter);
});
const account = new Account(client);
const composer = new Composer(write, cancel);
const sheet = new Sheet((request) => composer.fill(request));
const history = new History(client, reopen);

let current = null; // {path, following} of the job on the sheet, or null

find("sign").addEventListener("click", () => {
  if (!client.username) return account.ask().then(enter);
  client.signOut();
  leave();
  composer.clear(); // when a session expires, the form is kept instead, because the same user goes on
});
show(find("sign"));

// enter shows the account's name and texts after users sign in.
function enter(signedIn) {
  if (!signedIn) return;
  find("who").textContent = client.username;
  show(find("who"));
  find("sign").textContent = "Sign out";
  history.refresh();
}

// leave removes the account's data from the page.
function leave() {
  current?.following.abort();
  current = null;
  composer.busy(false);
  composer.complain(null);
  sheet.clear();
  history.clear();
  show(find("who"), false);
  find("who").textContent = "";
  find("sign").textContent = "Sign in";
}

async function write(request) {
  if (!client.username) {
    const signedIn = await account.ask();
    enter(signedIn);
    if (!signedIn) return;
  }
  composer.busy(true);
  let submitted;
  try {
    submitted = await client.submit(request);
  } catch (problem) {
    composer.busy(false);
    if (client.username) composer.complain(problem);
    return;
  }
  composer.complain(null);
  composer.busy(true, true);
  if (await present(submitted.path, submitted.job)) history.refresh().then(() => history.mark(submitted.job.id));
}

async function cancel() {
  try {
    await client.cancel(current.path);
  } catch (problem) {
    composer.complain(problem);
  }
}

function reopen(id) {
  composer.busy(false);
  return present(`/jobs/${encodeURIComponent(id)}`);
}

// present puts a job on the sheet and follows it to its end, unless another job
// replaces it. It resolves to whether the job was followed to its end. A job that is no
// longer shown continues, and its text appears in the history.
async function present(path, job) {
  current?.following.abort();
  const mine = { path, following: new AbortController() };
  current = mine;
  const { signal } = mine.following;
  try {
    job ??= await client.job(path);
    signal.throwIfAborted();
    if (job.erased_at) {
      history.refresh();
      throw new Error("This text was erased.");
    }
    sheet.begin(job);
    history.mark(job.id);
    const open = (after, signal) => client.events(path, after, signal);
    for await (const event of follow(open, { signal, onCut: (wait) => sheet.interrupted(wait) })) sheet.apply(event);
    return true;
  } catch (problem) {
    if (!signal.aborted) sheet.complain(problem);
    return false;
  } finally {
    if (current === mine) composer.busy(false);
  }
}
