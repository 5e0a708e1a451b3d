import assert from "node:assert/strict";
import { test } from "node:test";
import { Conversation } from "../../../../gateway/pages/static/model.js";

const ZERO = Date.parse("2026-11-29T12:00:00Z");
const iso = (seconds) => new Date(ZERO + seconds * 1000).toISOString();

/** Makes the events of one session; times are seconds since noon. */
class Maker {
  sequence = 0;
  segment = 0;

  constructor(speaker, more = {}) {
    this.common = { session_id: `of ${speaker}`, speaker, epoch: 1, ...more };
  }

  #durable(at) {
    return { ...this.common, sequence: this.sequence++, published_at: iso(at) };
  }

  final(text, start, end = start + 1, more = {}) {
    return { ...this.#durable(end), type: "final", segment: this.segment++, text, start, end,
      started_at: iso(start), latency: 0.3, ...more };
  }

  interim(text, start, end = start + 1, more = {}) {
    return { ...this.common, type: "interim", segment: this.segment, text, start, end,
      started_at: iso(start), published_at: iso(end), ...more };
  }

  status(state, at, more = {}) {
    return { ...this.#durable(at), type: "status", state, worker: "w", ...more };
  }
}

/** Makes the notice of an edge. */
function notice(maker, code, state, at) {
  return { ...maker.status("", at), type: "notice", notice: 0, code, state, at };
}

/** Lines as `speaker: text`, interims in brackets, notes by their kind. */
function shown(conversation) {
  return conversation.lines.map((line) => {
    if (line.note) return `<${line.note.kind}>`;
    const said = line.parts.map((part) => (part.interim ? `[${part.text}]` : part.text)).join(" ");
    return `${line.speaker}${line.label ? ` (${line.label})` : ""}: ${said}`;
  });
}

function made(...events) {
  const conversation = new Conversation();
  for (const event of events) conversation.add(event);
  return conversation;
}

test("segments of one speaker are one line, until another one speaks or there is a pause", () => {
  const [a, b] = [new Maker("a"), new Maker("b")];
  const conversation = made(
    a.final("one", 0), a.final("two", 1.5), b.final("three", 3), a.final("four", 5),
    a.final("five", 9));
  assert.deepEqual(shown(conversation), ["a: one two", "b: three", "a: four", "a: five"]);
});

test("speakers are merged by time, whatever comes first", () => {
  const [a, b] = [new Maker("a"), new Maker("b")];
  const late = b.final("before", 0);
  const conversation = made(a.final("after", 5), late);
  assert.deepEqual(shown(conversation), ["b: before", "a: after"]);
});

test("an interim is rewritten in place and becomes the final under the same key", () => {
  const a = new Maker("a");
  const conversation = made(a.interim("hell", 0));
  const [{ key }] = conversation.lines;
  assert.deepEqual(shown(conversation), ["a: [hell]"]);
  conversation.add(a.interim("hello wor", 0));
  assert.deepEqual(shown(conversation), ["a: [hello wor]"]);
  conversation.add(a.final("Hello, world.", 0));
  assert.deepEqual(shown(conversation), ["a: Hello, world."]);
  assert.equal(conversation.lines[0].key, key);
  assert.equal(conversation.lines[0].parts[0].key, key);
});

test("an interim goes on with the line of its speaker", () => {
  const a = new Maker("a");
  assert.deepEqual(shown(made(a.final("one", 0), a.interim("two", 1))), ["a: one [two]"]);
});

test("stale interims are not shown: of a segment that is final, of an earlier worker, after the end",
  () => {
    const a = new Maker("a");
    const stale = a.interim("stale", 0);
    const conversation = made(a.final("one", 0));
    assert.equal(conversation.add(stale), false);
    const old = a.interim("old", 2);
    a.common.epoch = 2;
    conversation.add(a.status("streaming", 2));
    assert.equal(conversation.add(old), false);
    conversation.add(a.interim("new", 2));
    conversation.add(a.status("closed", 3, { account: {} }));
    assert.equal(conversation.add(a.interim("late", 3)), false);
    assert.deepEqual(shown(conversation), ["a: one"]);
    assert.equal(conversation.open, false);
  });

test("an event that was added before changes nothing", () => {
  const a = new Maker("a");
  const events = [a.final("one", 0), a.status("recovering", 1), a.final("two", 1.5)];
  const conversation = made(...events);
  const before = shown(conversation);
  for (const event of events) assert.equal(conversation.add(event), false);
  assert.deepEqual(shown(conversation), before);
  assert.equal(conversation.latencies.length, 2);
});

test("a recovery is told with its duration, and a gap where it was", () => {
  const a = new Maker("a");
  const conversation = made(
    a.final("one", 0), a.status("recovering", 1.2, { reason: "dropped" }));
  assert.deepEqual(shown(conversation), ["a: one", "<recovering>"]);
  conversation.add(a.status("streaming", 2));
  assert.equal(conversation.lines[1].note.kind, "recovered");
  assert.ok(Math.abs(conversation.lines[1].note.seconds - 0.8) < 1e-6);
  conversation.add(a.final("two", 6));
  conversation.add(a.status("closed", 8, { account: { gaps: [{ start: 4, end: 5, cause: "edge" }] } }));
  assert.deepEqual(shown(conversation), ["a: one", "<recovered>", "<gap>", "a: two"]);
});

test("another worker that takes over is told, a planned handover once", () => {
  const a = new Maker("a");
  const conversation = made(
    a.status("assigned", 0), a.status("streaming", 0), a.status("assigned", 5, { worker: "w2" }));
  assert.deepEqual(shown(conversation), ["<taken_over>"]);
  conversation.add(a.status("handed_over", 6, { worker: "w2" }));
  conversation.add(a.status("assigned", 7, { worker: "w3" }));
  assert.deepEqual(shown(conversation), ["<taken_over>", "<handed_over>"]);
});

test("a session that failed while it recovered does not recover for ever", () => {
  const a = new Maker("a");
  const conversation = made(a.status("recovering", 1), a.status("failed", 2, { reason: "refused" }));
  assert.deepEqual(shown(conversation), ["<ended>", "<failed>"]);
});

test("the text of a session that is repeated is replaced as far as the new one has come", () => {
  const a = new Maker("a");
  const again = new Maker("a", { session_id: "again", repeats: "of a" });
  const conversation = made(
    a.final("one", 0), a.final("two", 1), a.final("three", 2), a.status("failed", 4));
  conversation.add(again.final("uno", 0));
  assert.deepEqual(shown(conversation).slice(0, 1), ["a: uno two three"]);
  conversation.add(again.status("closed", 9, { account: {} }));
  assert.deepEqual(shown(conversation)[0], "a: uno");
});

test("a final is cut where the provider hears another person", () => {
  const a = new Maker("a");
  const words = [["Yes,", "0"], ["no.", "1"], ["No!", "1"]].map(([text, speaker], n) => ({
    text, speaker, start: n, end: n + 1 }));
  const conversation = made(a.final("Yes, no. No!", 0, 3, { words }));
  assert.deepEqual(shown(conversation), ["a (0): Yes,", "a (1): no. No!"]);
});

test("without a wall-clock time, text is placed by the clock of its session", () => {
  const a = new Maker("a");
  const first = a.final("one", 0);
  const second = { ...a.final("two", 1), started_at: undefined, published_at: iso(500) };
  assert.deepEqual(shown(made(first, second)), ["a: one two"]);
});

test("markers are told, and what may be lost has its times", () => {
  const a = new Maker("a");
  const conversation = made(a.interim("gone", 0));
  conversation.add({ type: "stream_replaced", since: iso(1) });
  conversation.add({ type: "history_lost", start: iso(2), end: iso(3) });
  assert.deepEqual(shown(conversation), ["<replaced>", "<lost>"]);
  assert.equal(conversation.lines[1].note.from, ZERO + 2000);
  conversation.add({ type: "broker", connected: false });
  assert.equal(conversation.brokerConnected, false);
  assert.equal(conversation.add({ type: "of a later release" }), false);
});

test("interims are forgotten when the connection was lost", () => {
  const conversation = made(new Maker("a").interim("maybe", 0));
  conversation.forgetInterims();
  assert.deepEqual(shown(conversation), []);
});

test("speakers have numbers in the order in which they speak", () => {
  const conversation = made(new Maker("b").final("x", 0), new Maker("a").final("y", 1));
  assert.equal(conversation.speaker("b"), 0);
  assert.equal(conversation.speaker("a"), 1);
  assert.deepEqual(conversation.speakers, ["b", "a"]);
});

test("the digits of a client that may come back are not shown, unless two would be alike", () => {
  const one = new Maker("me-0123456789ab");
  const conversation = made(one.final("x", 0));
  assert.equal(conversation.nameOf({ speaker: "me-0123456789ab" }), "me");
  assert.equal(conversation.nameOf({ speaker: "0123456789ab" }), "0123456789ab");
  conversation.add(new Maker("me-ba9876543210").final("y", 1));
  assert.equal(conversation.nameOf({ speaker: "me-0123456789ab", label: "1" }), "me-0123456789ab (1)");
});

test("ten thousand finals are built in good time", () => {
  const makers = [new Maker("a"), new Maker("b")];
  const conversation = new Conversation();
  for (let n = 0; n < 10_000; n++) conversation.add(makers[n % 2].final(`word ${n}`, n));
  const before = performance.now();
  assert.equal(conversation.lines.length, 10_000);
  assert.ok(performance.now() - before < 2000);
});

test("notices of an edge are notes between the lines, and not errors", () => {
  const a = new Maker("a");
  const events = [
    a.final("one", 0), notice(a, "muted", "begins", 2), notice(a, "later_code", "ends", 4),
    a.final("two", 5),
  ];
  const conversation = made(...events, events[1]);
  assert.deepEqual(shown(conversation), ["a: one", "<notice>", "<notice>", "a: two"]);
  const notes = conversation.lines.filter((line) => line.note).map(({ note }) => note);
  assert.deepEqual(notes.map(({ code, ends }) => [code, ends]), [["muted", false], ["later_code", true]]);
});
