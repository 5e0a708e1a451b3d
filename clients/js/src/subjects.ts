import { UsageError } from "./errors.js";

/** What to read; what is absent is not restricted. */
export interface Selection {
  tenant?: string | undefined;
  conversation?: string | undefined;
  speaker?: string | undefined;
}

const TOKEN = /^[A-Za-z0-9_-]{1,64}$/;
const PREFIX = "stt.transcript";
const PARTS = ["tenant", "conversation", "speaker"] as const;

/** Returns the subject of a selection's events, of one kind or of all. Throws UsageError. */
export function subjectOf(selection: Selection, kind = "*"): string {
  const tokens = PARTS.map((name) => {
    const value = selection[name];
    if (value !== undefined && !TOKEN.test(value)) {
      throw new UsageError(
        `${name} ${JSON.stringify(value)} is not valid: use 1 to 64 of the characters A-Z a-z 0-9 _ -`,
      );
    }
    return value ?? "*";
  });
  return [PREFIX, ...tokens, kind].join(".");
}
