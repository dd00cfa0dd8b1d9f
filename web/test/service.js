// An HTTP server for tests. Each test has its own server on a loopback port.

import http from "node:http";

// serve starts a server that calls answer(request, response, body) for each request
// until the test is over. It returns the origin of the server.
export async function serve(t, answer) {
  const server = http.createServer(async (request, response) => {
    let body = "";
    for await (const chunk of request.setEncoding("utf8")) body += chunk;
    await answer(request, response, body);
  });
  await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
  t.after(() => {
    server.closeAllConnections();
    return new Promise((closed) => server.close(closed));
  });
  return `http://127.0.0.1:${server.address().port}`;
}

// json sends a response with a status and a value as JSON.
export function json(response, status, value, headers = {}) {
  response.writeHead(status, { "Content-Type": "application/json", ...headers }).end(JSON.stringify(value));
}
