// Streams raw audio through @speechmatics/real-time-client, and prints what comes back.
//
//   node speechmatics.mjs <address> <key> <file> <seconds of audio a second>
//
// Each line is a JSON object: a message of the server, or {"failed": text}.

import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { RealtimeClient } from "@speechmatics/real-time-client";

const [address, key, file, speed] = process.argv.slice(2);
const print = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);
const client = new RealtimeClient({ url: `${address.replace("http", "ws")}/v2`, appId: "test" });
client.addEventListener("receiveMessage", ({ data }) => print(data));
try {
  await client.start(key, {
    audio_format: { type: "raw", encoding: "pcm_s16le", sample_rate: 16000 },
    transcription_config: { language: "en", enable_partials: true },
  });
  const audio = readFileSync(file);
  for (let at = 0; at < audio.length; at += 2560) {
    client.sendAudio(audio.subarray(at, at + 2560));
    await sleep(80 / Number(speed));
  }
  await client.stopRecognition();
} catch (error) {
  print({ failed: String(error?.message ?? error) });
  process.exit(1);
}
process.exit(0);
