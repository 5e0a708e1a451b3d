// A conversation as a value that its events change. Pure: no page, no clock, no network.

/** After a pause of more than so many milliseconds, a speaker begins a new line. */
const PAUSE_MS = 2000;
/** From this duration on, the next segment begins a new line. */
const LONG_MS = 60_000;
const LATENCIES = 50;

/**
 * The conversation that the events of `/api/conversations/<c>/events` make.
 *
 * Events of one session are added in order. One that was added before changes nothing, so neither
 * does a connection that begins again somewhat earlier.
 */
export class Conversation {
  #sessions = new Map();
  #notes = [];
  #lines;
  #speakers = new Map();
  /** Latencies of the last finals, in seconds. */
  latencies = [];
  /** Whether the gateway reaches the broker. */
  brokerConnected = true;
  /** Whether everything that is stored has been added. */
  caughtUp = false;

  /** Adds an event or a marker. Returns whether anything that is shown has changed. */
  add(event) {
    const changed = this.#add(event);
    if (changed) this.#lines = undefined;
    return changed;
  }

  #add(event) {
    switch (event.type) {
      case "caught_up":
        this.caughtUp = true;
        return true;
      case "broker":
        this.brokerConnected = event.connected;
        return true;
      case "history_lost":
        this.#note("lost", Date.parse(event.end), "", `lost ${event.start} ${event.end}`, {
          from: Date.parse(event.start),
          until: Date.parse(event.end),
        });
        return true;
      case "stream_replaced":
        for (const session of this.#sessions.values()) session.interim = undefined;
        this.#note("replaced", Date.parse(event.since), "", `replaced ${event.since}`, {});
        return true;
    }
    if (typeof event.session_id !== "string") return false;
    const session = this.#session(event);
    if (event.type === "interim") return session.addInterim(event);
    if (!session.isNew(event)) return false;
    if (event.type === "final") {
      if (typeof event.latency === "number") {
        this.latencies.push(event.latency);
        if (this.latencies.length > LATENCIES) this.latencies.shift();
      }
      this.speaker(event.speaker);
      return session.addFinal(event);
    }
    if (event.type === "status") return this.#status(session, event);
    if (event.type === "usage") {
      session.usage = event;
      return true;
    }
    if (event.type === "notice") {
      const at = session.timeOf(event.at, Date.parse(event.published_at));
      const id = `${event.session_id}:${event.sequence}`;
      this.#note("notice", at, event.speaker, id, { code: event.code, ends: event.state === "ends" });
      return true;
    }
    return false;
  }

  #session(event) {
    let session = this.#sessions.get(event.session_id);
    if (session === undefined) {
      session = new Session(event);
      this.#sessions.set(event.session_id, session);
    }
    return session;
  }

  #status(session, event) {
    const before = session.state;
    const worker = session.worker;
    const at = Date.parse(event.published_at);
    session.status(event, at);
    const id = `${event.session_id}:${event.sequence}`;
    const { reason } = event;
    if (before !== "" && before !== "handed_over" && event.worker !== worker && !session.closed) {
      this.#note("taken_over", at, event.speaker, `${id}:worker`, {});
    }
    if (event.state === "recovering" && before !== "recovering") {
      session.recovery = this.#note("recovering", at, event.speaker, id, { reason });
    } else if (event.state === "streaming" && session.recovery !== undefined) {
      const note = session.recovery;
      note.kind = "recovered";
      note.seconds = Math.max(0, (at - note.at) / 1000);
      session.recovery = undefined;
    } else if (event.state === "handed_over") {
      this.#note("handed_over", at, event.speaker, id, { reason });
    } else if (event.state === "failed") {
      this.#note("failed", at, event.speaker, id, { reason, detail: event.detail });
    }
    if (session.closed) {
      if (session.recovery?.kind === "recovering") session.recovery.kind = "ended";
      session.recovery = undefined;
      for (const [number, gap] of (event.account?.gaps ?? []).entries()) {
        this.#note("gap", session.timeOf(gap.start, at), event.speaker, `${id}:${number}`, {
          seconds: gap.end - gap.start,
          cause: gap.cause,
        });
      }
    }
    return true;
  }

  #note(kind, at, speaker, id, more) {
    const note = { kind, at, speaker, id, ...more };
    this.#notes.push(note);
    return note;
  }

  /** Forgets what is not stored: the connection was lost, and what still holds comes again. */
  forgetInterims() {
    for (const session of this.#sessions.values()) session.interim = undefined;
    this.#lines = undefined;
  }

  /** The number of a speaker, in the order in which they first spoke: for their color. */
  speaker(name) {
    let number = this.#speakers.get(name);
    if (number === undefined) {
      number = this.#speakers.size;
      this.#speakers.set(name, number);
    }
    return number;
  }

  /**
   * The name of a line's speaker: without the digits that the gateway adds for a client that may
   * come back, unless that makes two speakers alike, and with the provider's label.
   */
  nameOf({ speaker, label }) {
    const plain = withoutDigits(speaker);
    const alike = this.speakers.some((one) => one !== speaker && withoutDigits(one) === plain);
    const name = alike ? speaker : plain;
    return label === undefined ? name : `${name} (${label})`;
  }

  /** The names of all who speak. */
  get speakers() {
    return [...this.#speakers.keys()];
  }

  get sessions() {
    return [...this.#sessions.values()];
  }

  get open() {
    return this.sessions.some((session) => !session.closed);
  }

  /** The median latency of the last finals in seconds; undefined before the first. */
  get latency() {
    if (this.latencies.length === 0) return undefined;
    return [...this.latencies].sort((a, b) => a - b)[Math.floor(this.latencies.length / 2)];
  }

  /**
   * What was said, in the order of the times, as lines of one speaker each, with the notes between
   * them. `key` names a line for as long as its first segment is there; `parts` are its segments.
   */
  get lines() {
    this.#lines ??= this.#build();
    return this.#lines;
  }

  #build() {
    const placed = this.#notes.map((note) => ({ at: note.at, order: 1, note }));
    for (const session of this.#sessions.values()) {
      const until = this.#replacedUntil(session);
      for (const part of session.parts) {
        if ((part.start + part.end) / 2 >= until) placed.push({ at: part.at, order: 0, part });
      }
      const interim = session.interimPart();
      if (interim !== undefined) placed.push({ at: interim.at, order: 2, part: interim });
    }
    placed.sort((a, b) => a.at - b.at || a.order - b.order);
    const lines = [];
    let line;
    for (const { part, note } of placed) {
      if (note !== undefined) {
        lines.push({ key: note.id, note });
        line = undefined;
        continue;
      }
      const goesOn =
        line !== undefined &&
        line.speaker === part.speaker &&
        line.label === part.label &&
        part.at - line.until <= PAUSE_MS &&
        part.at - line.at < LONG_MS;
      if (goesOn) {
        line.parts.push(part);
        line.until = Math.max(line.until, part.until);
        line.interim ||= part.interim;
      } else {
        const { key, speaker, label, at, until, interim } = part;
        line = { key, speaker, label, at, until, interim, parts: [part] };
        lines.push(line);
      }
    }
    return lines;
  }

  /** Up to which second of its audio a session's text is replaced by that of one that repeats it. */
  #replacedUntil(session) {
    let until = -Infinity;
    for (const other of this.#sessions.values()) {
      if (other.repeats !== session.id || other === session) continue;
      until = Math.max(until, other.state === "closed" ? Infinity : other.lastEnd);
    }
    return until;
  }
}

class Session {
  parts = [];
  interim;
  state = "";
  reason;
  provider;
  worker;
  account;
  usage;
  recovery;
  closed = false;
  lastEnd = -Infinity;
  #sequence = -1;
  #segment = -1;
  #epoch = 0;
  #origin;

  constructor(event) {
    this.id = event.session_id;
    this.speaker = event.speaker;
    this.repeats = event.repeats;
  }

  isNew(event) {
    if (typeof event.sequence === "number") {
      if (event.sequence <= this.#sequence) return false;
      this.#sequence = event.sequence;
    }
    this.#epoch = Math.max(this.#epoch, event.epoch ?? 0);
    this.provider = event.provider ?? this.provider;
    return true;
  }

  /** The wall-clock time of a second of the session's audio, in milliseconds. */
  timeOf(second, otherwise) {
    return this.#origin === undefined ? otherwise : this.#origin + second * 1000;
  }

  #place(event) {
    const published = Date.parse(event.published_at);
    const started = event.started_at === undefined ? NaN : Date.parse(event.started_at);
    if (!Number.isNaN(started)) this.#origin ??= started - event.start * 1000;
    const otherwise = published - (event.end - event.start) * 1000;
    return Number.isNaN(started) ? this.timeOf(event.start, otherwise) : started;
  }

  addFinal(event) {
    this.#segment = Math.max(this.#segment, event.segment);
    if (this.interim !== undefined && this.interim.segment <= event.segment) {
      this.interim = undefined;
    }
    this.lastEnd = Math.max(this.lastEnd, event.end);
    const at = this.#place(event);
    const { session_id, segment, speaker, start, end, language } = event;
    for (const [number, piece] of byLabel(event).entries()) {
      const key = `${session_id}:${segment}${number > 0 ? `:${number}` : ""}`;
      const from = piece.start ?? start;
      const until = piece.end ?? end;
      this.parts.push({
        key, speaker, start: from, end: until, language, text: piece.text, label: piece.label,
        at: at + (from - start) * 1000, until: at + (until - start) * 1000, interim: false,
      });
    }
    return true;
  }

  addInterim(event) {
    if (this.closed || event.segment <= this.#segment || event.epoch < this.#epoch) return false;
    this.interim = event;
    this.provider = event.provider ?? this.provider;
    return true;
  }

  interimPart() {
    const event = this.interim;
    if (event === undefined || event.text.trim() === "") return undefined;
    const at = this.#place(event);
    const { session_id, segment, speaker, start, end, text, language } = event;
    const label = event.words?.find((word) => word.speaker !== undefined)?.speaker;
    return {
      key: `${session_id}:${segment}`, speaker, label, start, end, text, language, at,
      until: at + (end - start) * 1000, interim: true,
    };
  }

  status(event, at) {
    this.state = event.state;
    this.reason = event.reason;
    this.worker = event.worker;
    this.changedAt = at;
    if (event.opened_at !== undefined) this.openedAt = Date.parse(event.opened_at);
    if (event.state === "closed" || event.state === "failed") {
      this.closed = true;
      this.interim = undefined;
      this.account = event.account;
    }
  }
}

/** A speaker without the digits that tell a client which may come back from others. */
export const withoutDigits = (speaker) => speaker.replace(/(?<=.)-[0-9a-f]{12}$/, "");

/** The text of a final, cut where the provider hears another person. */
function byLabel(event) {
  if (event.text.trim() === "") return [];
  const words = event.words ?? [];
  const label = words.find((word) => word.speaker !== undefined)?.speaker;
  if (words.every((word) => word.speaker === undefined || word.speaker === label)) {
    return [{ text: event.text, label }];
  }
  const pieces = [];
  let current = label;
  let from = 0;
  let read = 0;
  let start = event.start;
  let end = event.start;
  for (const word of words) {
    const at = event.text.indexOf(word.text, read);
    if (at < 0) continue;
    const other = word.speaker ?? current;
    if (other !== current) {
      pieces.push({ text: event.text.slice(from, at).trim(), label: current, start, end });
      from = at;
      start = word.start ?? end;
      current = other;
    }
    read = at + word.text.length;
    end = word.end ?? end;
  }
  pieces.push({ text: event.text.slice(from).trim(), label: current, start, end: event.end });
  return pieces.filter((piece) => piece.text !== "");
}
