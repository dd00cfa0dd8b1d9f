// Reads text/event-stream as the HTML standard defines it:
// https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
//
// The browser's own EventSource cannot send an Authorization header. So the page
// fetches the stream like any other response and parses it here.

// Parser turns the pieces of a stream into messages {id, type, data}. The pieces may be
// cut anywhere.
export class Parser {
  #rest = ""; // a line that has not ended yet
  #afterCR = false; // true if the last piece ended in CR; an LF at the start of the next piece belongs to it
  #id = "";
  #type = "";
  #data = null;

  // feed takes a piece of the stream and returns the messages that it completes.
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

  // The id stays valid for the messages that follow. The type and the data do not.
  #dispatch() {
    const message = this.#data === null ? null : { id: this.#id, type: this.#type || "message", data: this.#data };
    this.#type = "";
    this.#data = null;
    return message;
  }
}

// read yields the messages of a response body (a ReadableStream of bytes) until the
// body ends. It drops a message without its blank line. It calls onBytes for everything
// that arrives, comments included.
export async function* read(body, onBytes = () => {}) {
  const parser = new Parser();
  const utf8 = new TextDecoder(); // keeps the start of a character until its end arrives; drops a byte order mark
  const reader = body.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      onBytes();
      yield* parser.feed(utf8.decode(value, { stream: true }));
    }
  } finally {
    reader.cancel().catch(() => {}); // the error does not matter, because the stream may have failed already
  }
}
