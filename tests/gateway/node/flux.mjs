// Streams raw audio through @deepgram/sdk to a listen v2 server, and prints what comes back.
//
//   node flux.mjs <address> <key> <file> <seconds of audio a second>
//
// Each line is a JSON object: a message of the server, {"closed": code} or {"failed": text}.

import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { DeepgramClient } from "@deepgram/sdk";

const [address, key, file, speed] = process.argv.slice(2);
const socketAddress = address.replace("http", "ws");
const print = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);
const client = new DeepgramClient({
  apiKey: key,
  environment: {
    base: address, production: socketAddress, agent: socketAddress, agentRest: address,
  },
});
const connection = await client.listen.v2.connect({
  model: "flux-general-en", encoding: "linear16", sample_rate: 16000, reconnectAttempts: 2,
});
const closed = new Promise((resolve) => {
  connection.on("close", (event) => {
    print({ closed: event?.code ?? null });
    resolve();
  });
});
connection.on("message", print);
connection.on("error", (error) => print({ failed: String(error?.message ?? error) }));
connection.connect();
try {
  await connection.waitForOpen();
  const audio = readFileSync(file);
  for (let at = 0; at < audio.length; at += 2560) {
    connection.sendMedia(audio.subarray(at, at + 2560));
    await sleep(80 / Number(speed));
  }
  connection.sendCloseStream({ type: "CloseStream" });
} catch (error) {
  print({ failed: String(error?.message ?? error) });
  process.exit(1);
}
await closed;
process.exit(0);
