// Submits a job with the types that openapi-typescript makes from the description, and reads
// its first event by its type.
import createClient from "openapi-fetch";
import type { components, paths } from "./api.js";

const client = createClient<paths>({
  baseUrl: process.env.URL,
  headers: { Authorization: `Bearer ${process.env.TOKEN}` },
});

// Only the prompt is mandatory.
const request: components["schemas"]["GenerateRequest"] = { prompt: "The nature of light" };
const { data: job, error } = await client.POST("/generate", { body: { ...request, max_new_tokens: 5 } });
if (!job) throw new Error(JSON.stringify(error));

const { data: events } = await client.GET("/jobs/{id}/events", { params: { path: { id: job.id } } });
const first = (events as components["schemas"]["EventBody"][])[0]!;
if (first.type !== "job.accepted") throw new Error(first.type);
if (first.prompt !== request.prompt) throw new Error("another prompt");
console.log(job.state, first.type);
