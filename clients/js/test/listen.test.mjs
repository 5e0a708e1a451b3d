// listen() on a real server: each stored event once, in order, over crashes of the server.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { listen, NatterjackError, UsageError } from "../dist/index.js";
import { Server, Session, until } from "./server.mjs";

let server;
before(async () => {
  server = await Server.started();
});
after(() => server.stop());

/** Reads in the background; `texts` and `events` grow. */
function reading(options) {
  const stop = new AbortController();
  const events = [];
  const settings = { url: server.url };
  const ended = (async () => {
    for await (const event of listen({ settings, signal: stop.signal, ...options })) {
      events.push(event);
    }
  })();
  return {
    events,
    ended,
    get texts() {
      return events.filter(({ type }) => type === "final").map(({ text }) => text);
    },
    async stop() {
      stop.abort();
      await ended;
    },
  };
}

const KEY = { tenant: "acme", conversation: "call" };
let conversations = 0;
function fresh() {
  return { ...KEY, conversation: `call-${conversations++}` };
}

test("stored events, then live ones, then only what comes after a position", async () => {
  const key = fresh();
  const session = new Session(key);
  for (let n = 0; n < 300; n++) await server.put(session.final());
  const reader = reading({ ...key, since: "start" });
  await until(() => reader.events.length === 300, "what is stored arrives");
  await server.put(session.final("live"));
  await until(() => reader.events.length === 301, "what is new arrives");
  await reader.stop();
  const expected = [...Array.from({ length: 300 }, (_, n) => `word${n}`), "live"];
  assert.deepEqual(reader.texts, expected);
  assert.equal(new Set(reader.events.map(({ id }) => id)).size, 301);
  assert.equal(reader.events[7].id, `${session.common.session_id}:7`);

  const rest = [];
  const since = reader.events[290].position;
  for await (const event of listen({
    ...key,
    since,
    until: "stored",
    settings: { url: server.url },
  })) {
    rest.push(event.text);
  }
  assert.deepEqual(rest, expected.slice(291));
});

test("without since, reading begins now; with a time, there", async () => {
  const key = fresh();
  const session = new Session(key);
  await server.put(session.final("before"));
  const middle = new Date(Date.now() + 2);
  await until(() => Date.now() > middle.getTime() + 2, "time passes");
  await server.put(session.final("between"));
  const late = reading({ ...key, since: middle });
  await until(() => late.events.length === 1, "what was stored since then arrives");
  const now = reading(key);
  await server.readers(2, key);
  await server.put(session.final("after"));
  await until(() => now.events.length + late.events.length === 3, "new events arrive");
  assert.deepEqual(now.texts, ["after"]);
  assert.deepEqual(late.texts, ["between", "after"]);
  await Promise.all([late.stop(), now.stop()]);
});

test("nothing is lost or repeated while the server crashes again and again", async () => {
  const key = fresh();
  const session = new Session(key);
  const reader = reading({ ...key, since: "start" });
  const waiting = reading(key); // has read nothing when the server crashes for the first time
  await server.readers(2, key);
  let put = 0;
  for (let crash = 0; crash < 4; crash++) {
    await server.restart();
    for (let n = 0; n < 50; n++, put++) await server.put(session.final());
    // The last crash but one comes while messages are on their way.
    if (crash !== 2) await until(() => reader.events.length === put, "all arrive");
  }
  await until(() => reader.events.length >= put && waiting.events.length >= put, "all arrive");
  await Promise.all([reader.stop(), waiting.stop()]);
  const expected = Array.from({ length: put }, (_, n) => `word${n}`);
  assert.deepEqual(reader.texts, expected);
  assert.deepEqual(waiting.texts, expected);
});

test("a stream that was made again is read from its start on", async () => {
  const other = await Server.started();
  try {
    const settings = { url: other.url };
    const session = new Session();
    const warnings = [];
    const warn = console.warn;
    console.warn = (text) => warnings.push(text);
    const reader = reading({ since: "start", settings, markers: true });
    for (let n = 0; n < 5; n++) await other.put(session.final());
    await until(() => reader.texts.length === 5, "all arrive");
    await other.removeStream();
    await other.makeStream();
    const next = new Session();
    for (let n = 0; n < 3; n++) await other.put(next.final(`new${n}`));
    await until(() => reader.texts.length === 8, "new events arrive");
    await reader.stop();
    console.warn = warn;
    assert.deepEqual(reader.texts.slice(5), ["new0", "new1", "new2"]);
    assert.match(warnings.join(), /was made again/);
    const kinds = reader.events.map(({ type }) => type);
    assert.equal(kinds.filter((type) => type === "stream_replaced").length, 1);
  } finally {
    await other.stop();
  }
});

test("reading waits for a stream that is not there yet", async () => {
  const other = await Server.started();
  await other.removeStream();
  const warn = console.warn;
  const warnings = [];
  console.warn = (text) => warnings.push(text);
  const reader = reading({ since: "start", settings: { url: other.url } });
  await until(() => warnings.length > 0, "the reader says that it waits");
  await other.makeStream();
  await other.put(new Session().final("first"));
  await until(() => reader.texts.includes("first"), "the event arrives");
  await reader.stop();
  console.warn = warn;
  await other.stop();
});

test("a slow reader gets the newest interim, and none after the final or the end", async () => {
  const key = fresh();
  const session = new Session(key);
  const stop = new AbortController();
  const seen = [];
  const slow = (async () => {
    for await (const event of listen({
      ...key,
      settings: { url: server.url },
      signal: stop.signal,
    })) {
      seen.push(event);
      if (event.text === "hold") await until(() => seen.released, "the reader goes on");
    }
  })();
  await until(async () => {
    await server.live(session.interim("hold"));
    return seen.length > 0;
  }, "an interim arrives");
  for (const text of ["a", "a b", "a b c"]) await server.live(session.interim(text));
  seen.released = true;
  await until(() => seen.at(-1)?.text === "a b c", "the newest interim arrives");
  seen.released = false;
  await server.live(session.interim("hold"));
  await until(() => seen.at(-1)?.text === "hold", "the reader stands still");
  const stale = session.interim("stale");
  await server.live(stale);
  await server.put(session.final("a b c d"));
  await server.live(stale);
  await server.put(session.status("closed"));
  await server.live(session.interim("after the end"));
  seen.released = true;
  await until(() => seen.at(-1)?.state === "closed", "the end arrives");
  const other = new Session(key);
  await until(async () => {
    await server.live(other.interim("next"));
    return seen.at(-1)?.text === "next";
  }, "the next session's interim arrives");
  stop.abort();
  await slow;
  const texts = seen.map(({ text }) => text);
  assert.ok(!texts.includes("stale") && !texts.includes("after the end"), texts.join());
  assert.ok(!texts.includes("a b"), "interims between are left out");
});

test("what a later release writes is kept", async () => {
  const key = fresh();
  const session = new Session(key);
  await server.put(session.durable("later", { code: "muted" }));
  await server.put(session.status("resting"));
  await server.put(session.final("known", { mood: "cheerful" }));
  const events = [];
  for await (const event of listen({
    ...key,
    since: "start",
    until: "stored",
    settings: { url: server.url },
  })) {
    events.push(event);
  }
  assert.deepEqual(
    events.map(({ type, kind }) => [type, kind]),
    [
      ["unknown", "later"],
      ["unknown", "status"],
      ["final", undefined],
    ],
  );
  assert.equal(events[0].raw.code, "muted");
  assert.equal(events[1].conversation, key.conversation);
  assert.equal(events[2].mood, "cheerful");
  assert.ok(events.every(({ id, position }) => id && position));
});

test("notices of an edge are events of their own", async () => {
  const key = fresh();
  const session = new Session(key);
  const notice = { notice: 0, code: "muted", state: "begins", at: 1, audio_position: 16000 };
  await server.put(session.durable("notice", notice));
  await server.put(session.final("known"));
  const options = { ...key, since: "start", until: "stored", settings: { url: server.url } };
  const events = [];
  for await (const event of listen({ ...options, kinds: ["notice"] })) events.push(event);
  assert.equal(events.length, 1);
  const { type, code, state, at, audio_position } = events[0];
  assert.deepEqual(
    [type, code, state, at, audio_position],
    ["notice", "muted", "begins", 1, 16000],
  );
});

test("a status keeps its own position under another name", async () => {
  const key = fresh();
  const closed = new Session(key).status("closed", { position: 16_000 });
  await server.put(closed);
  const options = { ...key, since: "start", until: "stored", settings: { url: server.url } };
  for await (const event of listen(options)) {
    assert.equal(event.audio_position, 16_000);
    assert.match(event.position, /^[\w-]{24}$/);
  }
});

test("until stored ends, also where there is nothing; markers tell when all was read", async () => {
  const key = fresh();
  const read = async (options) => {
    const found = [];
    const settings = { url: server.url };
    for await (const { type } of listen({ ...key, settings, ...options })) found.push(type);
    return found;
  };
  assert.deepEqual(await read({ since: "start", until: "stored" }), []);
  assert.deepEqual(await read({ until: "stored", markers: true }), ["caught_up"]);
  const session = new Session(key);
  await server.put(session.final());
  await server.put(session.status("recovering"));
  assert.deepEqual(await read({ since: "start", until: "stored", markers: true }), [
    "final",
    "status",
    "caught_up",
  ]);
});

test("until closed waits for the session that continues a closed one", async () => {
  const key = fresh();
  const [first, second] = [new Session(key), new Session(key)];
  const reader = reading({ ...key, since: "start", until: "closed" });
  await server.put(first.status("assigned"));
  const continued_by = second.common.session_id;
  await server.put(first.status("closed", { continued_by }));
  await until(() => reader.events.length === 2, "the first session ends");
  await server.put(second.final("rest", { continues: first.common.session_id }));
  await server.put(second.status("closed"));
  await reader.ended;
  assert.deepEqual(
    reader.events.map(({ type }) => type),
    ["status", "status", "final", "status"],
  );
});

test("until closed also waits for a session that was open before", async () => {
  const key = fresh();
  const [early, late] = [new Session(key), new Session(key)];
  await server.put(early.status("assigned"));
  const reader = reading({ ...key, until: "closed" });
  await server.readers(1, key);
  await server.put(late.final("one"));
  await server.put(late.status("closed"));
  await until(() => reader.events.length === 2, "the later session ends");
  await server.put(early.final("two"));
  await server.put(early.status("closed"));
  await reader.ended;
  assert.deepEqual(reader.texts, ["one", "two"]);
});

test("the server drops the consumer of a reader that has ended", async () => {
  const key = fresh();
  const reader = reading(key);
  await server.readers(1, key);
  await reader.stop();
  await server.readers(0, key);
});

test("kinds are chosen, one or several", async () => {
  const key = fresh();
  const session = new Session(key);
  await server.put(session.status("assigned"));
  await server.put(session.final());
  await server.put(session.status("closed"));
  for (const [kinds, expected] of [
    [["final"], ["final"]],
    [
      ["status", "turn"],
      ["status", "status"],
    ],
  ]) {
    const found = [];
    const options = { ...key, kinds, since: "start", until: "stored" };
    for await (const { type } of listen({ ...options, settings: { url: server.url } }))
      found.push(type);
    assert.deepEqual(found, expected);
  }
});

test("mistakes are told", async () => {
  const first = (options) => listen({ settings: { url: server.url }, ...options }).next();
  await assert.rejects(first({ tenant: "a.b" }), UsageError);
  await assert.rejects(first({ since: "yesterday" }), /"yesterday" is not a position/);
  await assert.rejects(first({ settings: { nkey: "/nowhere" } }), /NATS_NKEY/);
  await assert.rejects(first({ kinds: [] }), NatterjackError);
});

test("a reader that was never connected can be stopped", async () => {
  const warn = console.warn;
  let warned = 0;
  console.warn = () => warned++;
  const reader = reading({ settings: { url: "nats://127.0.0.1:1" } });
  await until(() => warned, "the reader says that it cannot connect");
  await reader.stop();
  console.warn = warn;
});
