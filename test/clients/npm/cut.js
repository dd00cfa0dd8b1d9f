// Follows responses with OpenAI's SDK in parallel, through a proxy that cuts connections, and
// prints their events.
import OpenAI from "openai";

const { PROXY: proxy, TOKEN: apiKey, JOBS: jobs } = process.env;
const client = new OpenAI({ baseURL: `${proxy}/v1`, apiKey });
const last = ["response.completed", "response.incomplete", "response.failed"];

async function follow(job) {
  const events = [];
  while (!last.includes(events.at(-1)?.type)) {
    try {
      const after = events.length > 0 ? { starting_after: events.at(-1).sequence_number } : {};
      for await (const event of await client.responses.retrieve(`resp_${job}`, { stream: true, ...after })) events.push(event);
    } catch (err) {
      if (err instanceof OpenAI.APIError && err.status) throw err; // an answer, and no cut
    }
  }
  return { data: events.map((event) => JSON.stringify(event)) };
}

const all = await Promise.all(jobs.split(",").map(async (job) => [job, await follow(job)]));
process.stdout.write(JSON.stringify(Object.fromEntries(all)), () => process.exit());
