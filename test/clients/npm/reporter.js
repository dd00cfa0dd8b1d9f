// A reporter for Node's test runner. It prints one line of JSON for each test: its name and its
// error, which is null for a test that passed.
export default async function* (events) {
  for await (const { type, data } of events) {
    if (data.details?.type === "suite" || (type !== "test:pass" && type !== "test:fail")) continue;
    const error = data.details.error?.cause ?? data.details.error;
    yield JSON.stringify({ name: data.name, error: type === "test:pass" ? null : String(error?.stack ?? error) }) + "\n";
  }
}
