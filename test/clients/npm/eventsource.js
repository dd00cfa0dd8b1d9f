// Follows jobs with tickets in parallel, as a page does with EventSource, through a proxy that
// cuts connections. Prints the data of all messages of each job. A page has to get another ticket
// if the connection was cut before the first message. Prints the answers for which it had to get
// one although its ticket had brought events.
import { EventSource } from "eventsource";

const { URL: url, PROXY: proxy, TOKEN: token, JOBS: jobs } = process.env;
const types = ["accepted", "reassigned", "started", "advanced", "completed", "failed", "cancelled", "erased"].map((t) => `job.${t}`);

async function follow(job) {
  const got = { data: [], refused: [] };
  for (let version = 0, ended = false; !ended; ) {
    const answer = await fetch(`${url}/jobs/${job}/ticket`, { method: "POST", headers: { Authorization: `Bearer ${token}` } });
    if (answer.status === 503) {
      await new Promise((next) => setTimeout(next, 1000 * answer.headers.get("Retry-After")));
      continue;
    }
    if (!answer.ok) throw new Error(`ticket: ${answer.status} ${await answer.text()}`);
    const ticket = await answer.json();
    ended = await new Promise((resolve) => {
      let brought = false;
      const source = new EventSource(`${proxy}${ticket.url}&after=${version}`);
      for (const type of types) {
        source.addEventListener(type, (message) => {
          brought = true;
          got.data.push(message.data);
          version = JSON.parse(message.data).version;
        });
      }
      source.addEventListener("error", ({ code }) => {
        if (source.readyState !== EventSource.CLOSED) return;
        if (code !== 204 && brought) got.refused.push(code);
        resolve(code === 204);
      });
    });
  }
  return got;
}

const all = await Promise.all(jobs.split(",").map(async (job) => [job, await follow(job)]));
process.stdout.write(JSON.stringify(Object.fromEntries(all)), () => process.exit());
