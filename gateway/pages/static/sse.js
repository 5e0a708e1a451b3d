// Server-sent events as a pure parser: text in, messages out.
// https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream

/** Takes the text of a stream, in pieces of any size, and gives its messages. */
export class Parser {
  #rest = "";
  #data = [];
  #id;
  #skipLineFeed = false;
  /** The ID of the last message that had one: where to continue. */
  lastId;
  /** How long to wait before connecting again, in milliseconds, if the server says so. */
  retry;

  /** Returns the JSON values of the messages that end in `text`. */
  push(text) {
    const found = [];
    let buffer = this.#rest + text;
    let from = 0;
    if (this.#skipLineFeed && buffer.length > 0) {
      this.#skipLineFeed = false;
      if (buffer[0] === "\n") from = 1;
    }
    for (;;) {
      const end = lineEnd(buffer, from);
      if (end < 0) break;
      this.#line(buffer.slice(from, end), found);
      from = end + 1;
      if (buffer[end] === "\r") {
        if (from < buffer.length) from += buffer[from] === "\n" ? 1 : 0;
        else this.#skipLineFeed = true;
      }
    }
    this.#rest = buffer.slice(from);
    return found;
  }

  /** Forgets an unfinished message: the connection was lost. */
  reset() {
    this.#rest = "";
    this.#data = [];
    this.#id = undefined;
    this.#skipLineFeed = false;
  }

  #line(line, found) {
    if (line === "") {
      if (this.#data.length > 0) {
        if (this.#id !== undefined) this.lastId = this.#id;
        found.push(JSON.parse(this.#data.join("\n")));
      }
      this.#data = [];
      this.#id = undefined;
      return;
    }
    const colon = line.indexOf(":");
    if (colon === 0) return; // a comment
    const field = colon < 0 ? line : line.slice(0, colon);
    let value = colon < 0 ? "" : line.slice(colon + 1);
    if (value.startsWith(" ")) value = value.slice(1);
    if (field === "data") this.#data.push(value);
    else if (field === "id") this.#id = value;
    else if (field === "retry" && /^\d+$/.test(value)) this.retry = Number(value);
  }
}

function lineEnd(text, from) {
  for (let at = from; at < text.length; at++) {
    if (text[at] === "\n" || text[at] === "\r") return at;
  }
  return -1;
}
