import { UsageError } from "./errors.js";

/**
 * The place of a message in a stream. The sequence is not enough, because a stream that was lost or
 * restored uses sequences again.
 */
export interface Position {
  sequence: number;
  /** Time of storage, nanoseconds since 1970. */
  time: bigint;
}

const TEXT = /^(\d{1,15})@(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(?:\+00:00|Z)$/;
const MILLISECOND = 1_000_000n;
const SECOND = 1_000_000_000n;

/** Returns the position as text that can be stored. */
export function format({ sequence, time }: Position): string {
  const seconds = new Date(Number(time / SECOND) * 1000).toISOString().slice(0, 19);
  const micros = String((time % SECOND) / 1000n).padStart(6, "0");
  return `${sequence}@${seconds}.${micros}+00:00`;
}

/** Reads what `format` made. Throws UsageError. */
export function parse(text: string): Position {
  const [, sequence, seconds, fraction = ""] = TEXT.exec(text) ?? [];
  const milliseconds = Date.parse(`${seconds}Z`);
  if (!Number(sequence) || Number.isNaN(milliseconds)) {
    throw new UsageError(`${JSON.stringify(text)} is not a position of an event`);
  }
  const time = BigInt(milliseconds) * MILLISECOND + BigInt(fraction.padEnd(9, "0"));
  return { sequence: Number(sequence), time };
}

/** Whether two positions are those of one message. Texts of other clients have rounded times. */
export function same(one: Position, other: Position): boolean {
  const apart = one.time - other.time;
  return one.sequence === other.sequence && apart < MILLISECOND && -apart < MILLISECOND;
}

/** Returns the time as the broker's requests have it, RFC 3339. */
export function timestamp(time: bigint): string {
  const seconds = new Date(Number(time / SECOND) * 1000).toISOString().slice(0, 19);
  return `${seconds}.${String(time % SECOND).padStart(9, "0")}Z`;
}
