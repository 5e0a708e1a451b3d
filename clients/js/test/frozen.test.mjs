// A server that stands still: its connections stay open, and nothing is answered.
import assert from "node:assert/strict";
import { test } from "node:test";
import { listen } from "../dist/index.js";
import { Server, Session, until } from "./server.mjs";

test("reading goes on when a server that stood still does", async () => {
  const server = await Server.started();
  const session = new Session();
  const key = { tenant: "acme", conversation: "call" };
  const texts = [];
  const stop = new AbortController();
  const warn = console.warn;
  let warned = 0;
  console.warn = () => warned++;
  const reading = (async () => {
    const settings = { url: server.url };
    for await (const event of listen({ ...key, settings, signal: stop.signal })) {
      texts.push(event.text);
    }
  })();
  await server.readers(1, key);
  await server.put(session.final("before"));
  await until(() => texts.length === 1, "the first event");
  server.signal("SIGSTOP");
  await until(() => warned > 0, "the reader notices that it gets no answer");
  server.signal("SIGCONT");
  await server.put(session.final("after"));
  await until(() => texts.length === 2, "the event after it stood still");
  stop.abort();
  await reading;
  console.warn = warn;
  assert.deepEqual(texts, ["before", "after"]);
  await server.stop();
});
