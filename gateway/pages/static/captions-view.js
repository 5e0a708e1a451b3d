// The live captions of a conversation: lines of speakers, rewritten in place.

import { colorOf, make, reconcile, set, space, text } from "./dom.js";
import { clock, short, words } from "./format.js";

const NEAR_PX = 40; // from the end: then the view follows
const MOST_LINES = 2000; // shown at once
const ANNOUNCE_MS = 1500;
const MOST_ANNOUNCED = 600; // characters at once

/** Shows a `Conversation` in `root`, which scrolls. */
export class CaptionsView {
  #root;
  #list;
  #log;
  #jump;
  #empty;
  #conversation;
  #frame;
  #following = true;
  #query = "";
  #announced = new Set();
  #primed = false;
  #announceTimer;
  #lastAnnounced = "";
  #unseen = 0;
  #shownKeys = new Set();
  #announces = true;
  onMatches = () => {};

  constructor({ root, list, log, jump, empty }) {
    this.#root = root;
    this.#list = list;
    this.#log = log;
    this.#jump = jump;
    this.#empty = empty;
    root.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    jump.addEventListener("click", () => {
      this.follow();
      root.focus({ preventScroll: true });
    });
    new ResizeObserver(() => this.#following && this.#toEnd()).observe(root);
  }

  /** Shows another conversation. */
  show(conversation) {
    this.#conversation = conversation;
    this.#list.known?.clear();
    this.#list.replaceChildren();
    this.#log.replaceChildren();
    this.#announced.clear();
    this.#primed = false;
    this.#shownKeys.clear();
    this.#lastAnnounced = "";
    this.#following = true;
    this.draw();
  }

  /** Draws what has changed, once for each picture of the screen. */
  changed() {
    this.#frame ??= requestAnimationFrame(() => {
      this.#frame = undefined;
      this.draw();
    });
    // A page in the background gets no pictures, but a screen reader may listen.
    if (document.hidden) this.#announceSoon();
  }

  /** Whether finals are read out by screen readers. */
  get announces() {
    return this.#announces;
  }

  set announces(value) {
    this.#announce(); // what is there already, as it was until now
    this.#announces = value;
  }

  /** Scrolls to the end, and stays there. */
  follow() {
    this.#following = true;
    this.#toEnd();
    this.#count();
  }

  /** Shows only lines that have `query`, and marks it. */
  search(query) {
    this.#query = query.trim().toLocaleLowerCase();
    this.draw();
    if (this.#query === "") this.follow();
  }

  draw() {
    const conversation = this.#conversation;
    if (conversation === undefined) return;
    let lines = conversation.lines;
    if (this.#query !== "") lines = lines.filter((line) => this.#matches(line));
    const shown = lines.slice(-MOST_LINES);
    reconcile(
      this.#list,
      shown,
      (line) => line.key,
      (line) => (line.note ? createNote(line) : createLine()),
      (element, line) => (line.note ? updateNote(element, line.note, conversation) : this.#update(element, line)),
    );
    this.#empty.hidden = lines.length > 0;
    if (!this.#following) {
      for (const { key } of lines) if (!this.#shownKeys.has(key)) this.#unseen += 1;
    }
    this.#shownKeys = new Set(lines.map(({ key }) => key));
    if (this.#following && this.#query === "") this.#toEnd();
    this.#count();
    this.#highlight();
    this.#announceSoon();
  }

  #matches(line) {
    if (line.note) return false;
    const all = `${this.#conversation.nameOf(line)} ${line.parts.map((part) => part.text).join(" ")}`;
    return all.toLocaleLowerCase().includes(this.#query);
  }

  #update(element, line) {
    const [head, body] = element.children;
    const number = this.#conversation.speaker(line.speaker);
    const color = colorOf(number);
    if (element.dataset.color !== color) {
      element.classList.remove(element.dataset.color);
      element.classList.add(color);
      element.dataset.color = color;
    }
    element.classList.toggle("interim", line.parts.every((part) => part.interim));
    text(head.firstElementChild, this.#conversation.nameOf(line));
    const time = head.lastElementChild;
    text(time, clock(line.at));
    set(time, "datetime", new Date(line.at).toISOString());
    reconcile(
      body,
      line.parts,
      (part) => part.key,
      () => make("span"),
      (span, part) => {
        text(span, part.text);
        span.className = part.interim ? "part interim" : "part";
        set(span, "lang", part.language);
      },
    );
    space(body);
  }

  // ---- scrolling ---------------------------------------------------------------------------------

  #scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.#root;
    this.#following = scrollHeight - scrollTop - clientHeight <= NEAR_PX;
    this.#count();
  }

  #toEnd() {
    this.#root.scrollTop = this.#root.scrollHeight;
  }

  #count() {
    if (this.#following) this.#unseen = 0;
    this.#jump.hidden = this.#following;
    const more = this.#unseen > 0 ? ` (${this.#unseen} new)` : "";
    text(this.#jump.firstElementChild, `Newest${more}`);
  }

  // ---- search ------------------------------------------------------------------------------------

  #highlight() {
    const marks = [];
    const able = globalThis.CSS?.highlights !== undefined;
    if (able && this.#query !== "") {
      const walker = document.createTreeWalker(this.#list, NodeFilter.SHOW_TEXT);
      for (let node = walker.nextNode(); node !== null; node = walker.nextNode()) {
        const content = node.data.toLocaleLowerCase();
        if (content.length !== node.data.length) continue;
        for (let at = content.indexOf(this.#query); at >= 0;) {
          const range = new Range();
          range.setStart(node, at);
          range.setEnd(node, at + this.#query.length);
          marks.push(range);
          at = content.indexOf(this.#query, at + this.#query.length);
        }
      }
    }
    if (able) CSS.highlights.set("found", new Highlight(...marks));
    this.onMatches(this.#query === "" ? undefined : this.#list.childElementCount);
  }

  // ---- screen readers ----------------------------------------------------------------------------

  /** Only finals, several at once, with the speaker where that changes: interims are unbearable. */
  #announceSoon() {
    const conversation = this.#conversation;
    if (!conversation?.caughtUp) return;
    if (!this.#primed) {
      // What was said before is not read out.
      this.#primed = true;
      for (const { parts } of conversation.lines) {
        for (const part of parts ?? []) if (!part.interim) this.#announced.add(part.key);
      }
    }
    this.#announceTimer ??= setTimeout(() => {
      this.#announceTimer = undefined;
      this.#announce();
    }, ANNOUNCE_MS);
  }

  #announce() {
    const conversation = this.#conversation;
    if (conversation === undefined || !this.#primed) return;
    let said = "";
    for (const line of conversation.lines.slice(-50)) {
      if (line.note) continue;
      const fresh = line.parts.filter((part) => !part.interim && !this.#announced.has(part.key));
      for (const part of fresh) this.#announced.add(part.key);
      if (fresh.length === 0) continue;
      const name = conversation.nameOf(line);
      said += name === this.#lastAnnounced ? " " : ` ${name}: `;
      said += fresh.map((part) => part.text).join(" ");
      this.#lastAnnounced = name;
    }
    if (said === "" || !this.#announces) return;
    this.#log.append(make("p", {}, said.trim().slice(-MOST_ANNOUNCED)));
    while (this.#log.childElementCount > 20) this.#log.firstElementChild.remove();
  }
}

function createLine() {
  return make(
    "li",
    { class: "line" },
    make("div", { class: "head" }, make("bdi", { class: "name" }), make("time")),
    make("p", { class: "said", dir: "auto" }),
  );
}

function createNote({ note }) {
  return make("li", { class: `note ${note.kind}` }, make("span", { class: "note-text" }));
}

function updateNote(element, note, conversation) {
  element.className = `note ${note.kind}`;
  const who = note.speaker ? `${conversation.nameOf({ speaker: note.speaker })}: ` : "";
  text(element.firstElementChild, noteText(note, who));
}

/** What codes of notices mean when they begin and when they end; natterjack/notices.py has all. */
const NOTICES = {
  device_lost: ["the microphone is away", "the microphone is back"],
  input_clipping: ["the input is clipped", "the input is no longer clipped"],
  input_dead: ["the input has zeros only", "the input has audio again"],
  input_low: ["the input is silent but for noise", "the input is loud enough again"],
  muted: ["the input is muted", "the input is no longer muted"],
};

function noteText(note, who) {
  const why = note.reason ? ` (${words(note.reason)})` : "";
  switch (note.kind) {
    case "gap":
      return `${who}${short(note.seconds)} of audio are missing (${words(note.cause)})`;
    case "notice":
      return `${who}${NOTICES[note.code]?.[note.ends ? 1 : 0] ?? `${words(note.code)} ${note.ends ? "ended" : "began"}`}`;
    case "recovering":
      return `${who}recovering${why} …`;
    case "recovered":
      return `${who}recovered in ${short(note.seconds)}${why}`;
    case "handed_over":
      return `${who}handed over to another worker${why}`;
    case "taken_over":
      return `${who}another worker took over`;
    case "failed":
      return `${who}ended${why}${note.detail ? `: ${note.detail}` : ""}`;
    case "lost":
      return `Events from ${clock(note.from)} to ${clock(note.until)} have expired unread`;
    case "replaced":
      return "The broker's stream was restored from a backup";
    default:
      return `${who}${words(note.kind)}${why}`;
  }
}
