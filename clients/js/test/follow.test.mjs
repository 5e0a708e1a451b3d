// follow() and transcript() on a real server.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { follow, transcript } from "../dist/index.js";
import { Server, Session, until } from "./server.mjs";

let server;
before(async () => {
  server = await Server.started();
});
after(() => server.stop());

const BEGIN = Date.parse("2026-11-30T12:00:00Z");
const at = (seconds) => new Date(BEGIN + seconds * 1000).toISOString();
const spoken = (session, text, start) =>
  session.final(text, { start, end: start + 0.9, started_at: at(start) });

test("a conversation is followed over crashes of the server until it is closed", async () => {
  const key = { tenant: "acme", conversation: "call" };
  const [agent, caller] = ["agent", "caller"].map((speaker) => new Session({ ...key, speaker }));
  const settings = { url: server.url };
  await server.put(spoken(agent, "How can I help?", 0));
  await server.put(spoken(caller, "My order is late.", 1.5));
  const seen = [];
  const following = (async () => {
    for await (const value of follow({ ...key, until: "closed", settings })) seen.push(value);
  })();
  const texts = () => seen.at(-1)?.lines.map(({ speaker, text }) => `${speaker}: ${text}`) ?? [];
  await until(() => texts().length === 2, "what is stored");
  assert.equal(seen.length, 1, "the first value has all that is stored");
  await server.live(agent.interim("Let me", { start: 3, started_at: at(3) }));
  await until(() => seen.at(-1).interims[0]?.text === "Let me", "what is said now");
  await server.restart();
  await server.put(spoken(agent, "Let me look.", 3));
  await server.put(spoken(agent, "It comes today.", 4));
  await until(() => texts().length === 3, "what came while the server crashed");
  assert.deepEqual(seen.at(-1).interims, [], "a final replaces its interim");
  await server.put(agent.status("closed"));
  await server.restart();
  await server.put(caller.status("closed"));
  await following;
  const expected = [
    "agent: How can I help?",
    "caller: My order is late.",
    "agent: Let me look. It comes today.",
  ];
  assert.deepEqual(texts(), expected);
  assert.deepEqual([seen[0].open, seen.at(-1).open], [true, false]);
  assert.equal(seen.at(-1).started_at, "2026-11-30T12:00:00Z");
  const stored = await transcript({ ...key, settings });
  assert.deepEqual(stored, seen.at(-1));
});

test("a slow program gets the newest transcript next", async () => {
  const key = { tenant: "acme", conversation: "slow" };
  const session = new Session(key);
  const seen = [];
  let released = false;
  const following = (async () => {
    for await (const value of follow({ ...key, until: "closed", settings: { url: server.url } })) {
      seen.push(value);
      if (value.lines.length > 0) await until(() => released, "the program goes on");
    }
  })();
  await server.readers(1, key);
  await until(() => seen.length === 1, "the empty transcript");
  await server.put(session.final("one"));
  await until(() => seen.length === 2, "the first change");
  for (const text of ["two", "three", "four"]) await server.put(session.final(text));
  await server.put(session.status("closed"));
  await server.settled();
  released = true;
  await following;
  assert.ok(seen.length < 6, `${seen.length} transcripts for 6 changes`);
  assert.match(
    seen
      .at(-1)
      .lines.map(({ text }) => text)
      .join(" "),
    /one two three four/,
  );
});
