// A client of Deepgram listen v1 with one of its own SDKs, as a program:
//
//   node listen.mjs 5|4 HTTP_BASE KEY QUERY_JSON
//
// Standard input is audio, sent as it comes; its end is CloseStream. Standard output has a line of
// JSON for each thing that happens: {"on": "open"|"message"|"close"|"error"|"sent", ...}.
import { DeepgramClient } from "@deepgram/sdk";
import { createClient, LiveTranscriptionEvents } from "deepgram-sdk-4";

const [release, base, key, query] = process.argv.slice(2);
const say = (on, more = {}) => process.stdout.write(`${JSON.stringify({ on, ...more })}\n`);

async function connect5() {
  const ws = base.replace(/^http/, "ws");
  const client = new DeepgramClient({
    apiKey: key,
    environment: { base, production: ws, agent: ws, agentRest: base },
  });
  const connection = await client.listen.v1.connect(JSON.parse(query));
  connection.on("open", () => say("open"));
  connection.on("message", (message) => say("message", { message }));
  connection.on("close", (event) => {
    say("close", { code: event.code, reason: event.reason });
    if (event.code === 1000) process.exit(0);
  });
  connection.on("error", (error) => say("error", { text: String(error.message) }));
  connection.connect();
  await connection.waitForOpen();
  return {
    send: (audio) => connection.sendMedia(audio),
    finalize: () => connection.sendFinalize({ type: "Finalize" }),
    close: () => connection.sendCloseStream({ type: "CloseStream" }),
  };
}

function connect4() {
  const client = createClient(key, { global: { url: base } });
  const connection = client.listen.live(JSON.parse(query));
  for (const [name, kind] of Object.entries({
    Transcript: "message",
    Metadata: "message",
    SpeechStarted: "message",
    UtteranceEnd: "message",
  })) {
    connection.on(LiveTranscriptionEvents[name], (message) => say(kind, { message }));
  }
  connection.on(LiveTranscriptionEvents.Error, (error) => say("error", { text: String(error.message) }));
  connection.on(LiveTranscriptionEvents.Close, (event) => {
    say("close", { code: event.code, reason: event.reason });
    process.exit(0);
  });
  return new Promise((resolve) => {
    connection.on(LiveTranscriptionEvents.Open, () => {
      say("open");
      resolve({
        send: (audio) => connection.send(audio),
        finalize: () => connection.finalize(),
        close: () => connection.requestClose(),
      });
    });
  });
}

const connection = await (release === "5" ? connect5() : connect4());
let sent = 0;
let waiting = [];

// Release 5 throws while it connects again, so that its users must keep the audio meanwhile.
function flush() {
  while (waiting.length) {
    try {
      connection.send(waiting[0]);
    } catch {
      return false;
    }
    waiting.shift();
  }
  return true;
}

for await (const audio of process.stdin) {
  waiting.push(audio);
  flush();
  sent += audio.length;
}
while (!flush()) await new Promise((resolve) => setTimeout(resolve, 50));
say("sent", { bytes: sent });
connection.close();
