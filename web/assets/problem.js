// A failure of a request. Its text comes from the service (RFC 9457 problem details).
// If the service sent no text, the page has one of its own.

// Some titles are only the name of an HTTP status, which says little to most people.
// These texts replace them.
const plain = {
  400: "This request cannot be read.",
  401: "You are not signed in.",
  403: "This is not allowed.",
  404: "There is no such thing here.",
  409: "This is taken.",
  413: "This is too long.",
  422: "This cannot be used as it is.",
  429: "Too much at once.",
  500: "The service has a fault.",
  502: "The service is not there just now.",
  503: "The service is busy just now.",
};
const names = new Set(["Bad Request", "Unauthorized", "Forbidden", "Not Found", "Conflict", "Request Entity Too Large", "Content Too Large",
  "Unprocessable Entity", "Unprocessable Content", "Too Many Requests", "Internal Server Error", "Bad Gateway", "Service Unavailable"]);

export class Problem extends Error {
  constructor({ status = 0, title = "", detail = "", errors = [], retryAfter = 0 } = {}) {
    super(detail || title);
    this.name = "Problem";
    this.status = status; // HTTP status; 0 when there was no response
    this.title = title;
    this.detail = detail;
    this.errors = errors; // list of {field, message}; field is "" if no single field is wrong
    this.retryAfter = retryAfter; // seconds until a retry makes sense; 0 when the service did not say
  }

  // temporary reports whether a retry of the same request may succeed.
  get temporary() {
    return this.status === 0 || this.status === 429 || this.status >= 500;
  }

  // from makes a Problem from the response to a refused request.
  static async from(response) {
    let body = {};
    try {
      body = (await response.json()) ?? {};
    } catch {
      // The body is not JSON if a proxy answered.
    }
    return new Problem({
      status: response.status,
      title: names.has(body.title) || !text(body.title) ? plain[response.status] ?? `The service answered with status ${response.status}.` : body.title,
      detail: text(body.detail),
      errors: (Array.isArray(body.errors) ? body.errors : []).filter((e) => text(e?.message)).map((e) => ({
        field: text(e.location).replace(/^(body|query|header|path)\.?/, ""),
        message: e.message,
      })),
      retryAfter: retryAfter(response.headers.get("Retry-After")),
    });
  }

  static unreachable() {
    return new Problem({ title: "No answer.", detail: "The service cannot be reached. Is it running?" });
  }
}

// retryAfter returns the value of a Retry-After header in seconds from now. The header
// has a number of seconds or a date.
export function retryAfter(header, now = Date.now()) {
  if (!header) return 0;
  const seconds = /^\s*\d+\s*$/.test(header) ? Number(header) : (Date.parse(header) - now) / 1000;
  return Number.isFinite(seconds) ? Math.max(0, Math.ceil(seconds)) : 0;
}

const text = (value) => (typeof value === "string" ? value : "");
