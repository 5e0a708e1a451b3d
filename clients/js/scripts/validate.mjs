// Validates the AsyncAPI document with the official parser, which also checks the NATS bindings.
import { readFile } from "node:fs/promises";
import asyncapi from "@asyncapi/parser";

const DOCUMENT = new URL("../../../docs/reference/asyncapi.json", import.meta.url);
const WARNING = 1; // severities: 0 is an error, 1 a warning, 2 and 3 are hints

const parser = new asyncapi.Parser();
const { diagnostics } = await parser.parse(await readFile(process.argv[2] ?? DOCUMENT, "utf8"));
const problems = diagnostics.filter(({ severity }) => severity <= WARNING);
for (const { path, message } of problems) {
  console.error(`asyncapi.json: ${path.join(".") || "document"}: ${message}`);
}
process.exitCode = problems.length ? 1 : 0;
