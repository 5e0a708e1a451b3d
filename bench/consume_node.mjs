// Reads all stored events in Node: node consume_node.mjs WHO URL COUNT. Prints its times as JSON.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const client = new URL("../clients/js/", import.meta.url);
const modules = createRequire(new URL("package.json", client));
const load = (name) => import(pathToFileURL(modules.resolve(name)).href);

async function bare(url, count) {
  const { connect } = await load("@nats-io/transport-node");
  const { jetstream, jetstreamManager } = await load("@nats-io/jetstream");
  const connection = await connect({ servers: url });
  const manager = await jetstreamManager(connection);
  const { name } = await manager.consumers.add("STT_TRANSCRIPTS", { ack_policy: "none" });
  const consumer = await jetstream(connection).consumers.get("STT_TRANSCRIPTS", name);
  let found = 0;
  const messages = await consumer.consume({ max_messages: 512 });
  for await (const message of messages) {
    message.json();
    if (++found === count) break;
  }
  await connection.close();
  return found;
}

async function ours(url) {
  const { listen } = await import(new URL("dist/index.js", client).href);
  let found = 0;
  for await (const _ of listen({ since: "start", until: "stored", settings: { url } })) found++;
  return found;
}

const [who, url, count] = process.argv.slice(2);
const began = performance.now();
const before = process.cpuUsage();
const found = await (who === "bare" ? bare(url, Number(count)) : ours(url));
const { user, system } = process.cpuUsage(before);
if (found !== Number(count)) throw new Error(`${found} of ${count} events`);
console.log(
  JSON.stringify({ seconds: (performance.now() - began) / 1e3, cpu_seconds: (user + system) / 1e6 }),
);
process.exit(0);
