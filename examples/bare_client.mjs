// Finals of a tenant with NATS' own client, @nats-io/jetstream, and a durable consumer: at least
// once, over restarts of this program and of the broker. Needs a user of its own:
//   natterjack users add subscriber --tenant acme --name crm --durable crm --dir DIR
// Usage: node bare_client.mjs TENANT DURABLE
import { readFileSync } from "node:fs";
import { jetstream, jetstreamManager } from "@nats-io/jetstream";
import { connect, nanos, nkeyAuthenticator } from "@nats-io/transport-node";

const [tenant, durable] = process.argv.slice(2);
const { NATS_URL, NATS_NKEY, NATS_CA, NATS_INBOX_PREFIX } = process.env;
const seed =
  NATS_NKEY && new TextEncoder().encode(readFileSync(NATS_NKEY, "utf8").trim());
const nc = await connect({
  servers: NATS_URL,
  tls: NATS_CA && { caFile: NATS_CA },
  authenticator: seed && nkeyAuthenticator(seed),
  inboxPrefix: NATS_INBOX_PREFIX ?? "_INBOX",
  maxReconnectAttempts: -1,
});
const manager = await jetstreamManager(nc, { checkAPI: false }); // else it asks for what it may not
const info = await manager.consumers.add("STT_TRANSCRIPTS", {
  durable_name: durable,
  filter_subject: `stt.transcript.${tenant}.>`,
  ack_policy: "explicit",
  ack_wait: nanos(10_000),
  max_ack_pending: 1, // one after another: else an event that was lost comes after later ones
  deliver_policy: "all",
});
const consumer = jetstream(nc).consumers.getConsumerFromInfo(info);
const done = new Map(); // sequence of the last event of each session: keep it beside your data

for await (const message of await consumer.consume()) {
  const event = message.json();
  const fresh = event.sequence > (done.get(event.session_id) ?? -1); // else it came before
  if (fresh && event.type === "final") {
    console.log(`${event.conversation} ${event.speaker}: ${event.text}`);
  }
  if (fresh) done.set(event.session_id, event.sequence);
  message.ack();
}
