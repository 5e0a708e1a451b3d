// Reads lines of JSON, each a list of the events of one conversation, and writes their transcripts.
import { createInterface } from "node:readline";
import { TranscriptBuilder } from "@natterjack/client";

for await (const line of createInterface({ input: process.stdin })) {
  const builder = new TranscriptBuilder();
  for (const event of JSON.parse(line)) {
    if (event.type === "status") event.audio_position = event.position;
    builder.add(event);
  }
  console.log(JSON.stringify(builder.build()));
}
