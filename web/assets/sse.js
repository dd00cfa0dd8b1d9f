// Reads text/event-stream as the HTML standard defines it:
// https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
//
// The browser's own EventSource cannot send an Authorization header, so the
// stream is fetched like any other answer and parsed here.

// Parser turns pieces of a stream, cut anywhere, into messages {id, type, data}.
export class Parser {
  #rest = ""; // a line that has not ended yet
  #afterCR = false; // the last piece ended in CR: a LF that comes next belongs to it
  #id = "";
  #type = "";
  #data = null;

  // feed returns the messages that text completes.
  feed(text) {
    const messages = [];
    if (text === "") return messages;
    let start = this.#afterCR && text[0] === "\n" ? 1 : 0;
    const lineEnd = /\r\n|\n|\r/g;
    lineEnd.lastIndex = start;
    for (let end; (end = lineEnd.exec(text)); start = lineEnd.lastIndex) {
      const message = this.#line(this.#rest + text.slice(start, end.index));
      this.#rest = "";
      if (message) messages.push(message);
    }
    this.#rest += text.slice(start);
    this.#afterCR = text.endsWith("\r");
    return messages;
  }

  #line(line) {
    if (line === "") return this.#dispatch();
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    let value = colon < 0 ? "" : line.slice(colon + 1);
    if (value.startsWith(" ")) value = value.slice(1);
    switch (field) {
      case "id":
        if (!value.includes("\0")) this.#id = value;
        break;
      case "event":
        this.#type = value;
        break;
      case "data":
        this.#data = this.#data === null ? value : this.#data + "\n" + value;
        break;
      default: // a comment (empty field name) or an unused field
    }
    return null;
  }

  // The id stays for the messages that follow; type and data do not.
  #dispatch() {
    const message = this.#data === null ? null : { id: this.#id, type: this.#type || "message", data: this.#data };
    this.#type = "";
    this.#data = null;
    return message;
  }
}

// read yields the messages of a response body (a ReadableStream of bytes) and
// ends with it. A message without its blank line is dropped. onBytes is
// called for everything that arrives, comments included.
export async function* read(body, onBytes = () => {}) {
  const parser = new Parser();
  const utf8 = new TextDecoder(); // holds back a character that is cut in two; drops a byte order mark
  const reader = body.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      onBytes();
      yield* parser.feed(utf8.decode(value, { stream: true }));
    }
  } finally {
    reader.cancel().catch(() => {}); // the stream may have failed already
  }
}
