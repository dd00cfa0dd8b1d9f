// A failure, with the text of the service (RFC 9457 problem details), or with the
// page's own text if the service sent none.

// A title that is only the name of the status says little to most people.
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
    this.status = status; // of HTTP; 0 when there was no answer
    this.title = title;
    this.detail = detail;
    this.errors = errors; // [{field, message}]; field is "" if no single field is wrong
    this.retryAfter = retryAfter; // seconds; 0 when the service did not say
  }

  // temporary reports whether a retry of the same request may succeed.
  get temporary() {
    return this.status === 0 || this.status === 429 || this.status >= 500;
  }

  // from reads the problem from a refused request's answer.
  static async from(response) {
    let body = {};
    try {
      body = (await response.json()) ?? {};
    } catch {
      // A proxy answered, in its own format.
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

// retryAfter reads the header of that name, seconds or a date, as seconds from now.
export function retryAfter(header, now = Date.now()) {
  if (!header) return 0;
  const seconds = /^\s*\d+\s*$/.test(header) ? Number(header) : (Date.parse(header) - now) / 1000;
  return Number.isFinite(seconds) ? Math.max(0, Math.ceil(seconds)) : 0;
}

const text = (value) => (typeof value === "string" ? value : "");
