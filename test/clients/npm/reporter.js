// A reporter for Node's test runner. It prints one line of JSON for each test: its name, its error,
// which is null for a test that passed, and whether it was skipped.
export default async function* (events) {
  for await (const { type, data } of events) {
    if (data.details?.type === "suite" || (type !== "test:pass" && type !== "test:fail")) continue;
    const error = data.details.error?.cause ?? data.details.error;
    yield JSON.stringify({ name: data.name, error: type === "test:pass" ? null : String(error?.stack ?? error), skipped: data.skip !== undefined }) + "\n";
  }
}
