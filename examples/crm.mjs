// Puts the text of each call into a CRM as soon as one of its sessions has ended, and goes on where
// it was after a restart: no call is left out. Needs `npm install @natterjack/client`.
// Usage: node crm.mjs TENANT URL-OF-CRM FILE
import { readFile, rename, writeFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { closing, listen, NatsTransport, transcript } from "@natterjack/client";

const [tenant, crm, file] = process.argv.slice(2);
const transport = new NatsTransport(); // NATS_URL, NATS_NKEY ...

/** Puts a call's text. It may do so again after a crash, which changes nothing. */
async function put(conversation, body) {
  for (let pause = 100; ; pause = Math.min(pause * 2, 10_000)) {
    const url = `${crm}/calls/${conversation}`;
    const headers = { "Content-Type": "application/json" };
    const answer = await fetch(url, { method: "PUT", headers, body }).catch(
      (error) => error,
    );
    if (answer.ok) return;
    console.error(`${url}: ${answer.status ?? answer.message}; trying again`);
    await sleep(pause);
  }
}

const since = await readFile(file, "utf8").catch(() => "start");
for await (const event of listen({
  tenant,
  since,
  interims: null,
  transport,
})) {
  if (!closing(event)) continue;
  const { conversation, labels } = event;
  const { lines, open } = await transcript({ tenant, conversation, transport });
  const text = lines.map((line) => `${line.speaker}: ${line.text}`).join("\n");
  await put(conversation, JSON.stringify({ text, open, labels }));
  await writeFile(`${file}.new`, event.position);
  await rename(`${file}.new`, file); // only now is the event done
}
