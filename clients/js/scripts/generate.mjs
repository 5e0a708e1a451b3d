// Writes src/wire.ts, the types of everything on the wire, from the AsyncAPI document.
import { readFile, writeFile } from "node:fs/promises";
import { compile } from "json-schema-to-typescript";

const DOCUMENT = new URL("../../../docs/reference/asyncapi.json", import.meta.url);
const OUTPUT = new URL("../src/wire.ts", import.meta.url);
const BANNER = "// Generated from docs/reference/asyncapi.json by `npm run build`.\n";

/** What has to be in an event so that its type is true: required members, and enumerations. */
function shapeOf({ properties, required }) {
  const enums = Object.entries(properties).filter(([, { enum: values }]) => values?.length > 1);
  return { required, enums: Object.fromEntries(enums.map(([name, p]) => [name, p.enum])) };
}

const { channels, components } = JSON.parse(await readFile(DOCUMENT, "utf8"));
const definitions = JSON.parse(
  JSON.stringify(components.schemas).replaceAll("#/components/schemas/", "#/definitions/"),
);
const types = await compile({ title: "Wire", type: "object", definitions }, "Wire", {
  additionalProperties: false,
  bannerComment: "",
  format: true,
  style: { printWidth: 100 },
  unreachableDefinitions: true,
});
const rows = [];
const kinds = [];
for (const [kind, { address }] of Object.entries(channels)) {
  if (address?.startsWith("stt.transcript.")) {
    const name = components.messages[kind].payload.$ref.split("/").at(-1);
    kinds.push(name);
    rows.push(`  ${kind}: ${JSON.stringify(shapeOf(components.schemas[name]))},\n`);
  }
}
await writeFile(
  OUTPUT,
  BANNER +
    types
      .replaceAll(/ \*\n \* This interface was referenced by [^\n]*\n[^\n]*definition[^\n]*\n/g, "")
      .replace("export interface Wire {}\n", "") +
    "\n/** Any event of a transcript. */\n" +
    `export type TranscriptEvent = ${kinds.join(" | ")};\n` +
    "\n/** For each kind of these events: required members, and members with fixed values. */\n" +
    "export const SHAPES: Record<\n  string,\n" +
    "  { required: string[]; enums: Record<string, string[]> }\n" +
    `> = {\n${rows.join("")}};\n`,
);
