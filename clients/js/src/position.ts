import { UsageError } from "./errors.js";

/**
 * The place of a message in a stream. The sequence alone is not enough, because a stream that was
 * made again, or restored from a backup, uses sequences again.
 */
export interface Position {
  sequence: number;
  /** When the server stored it, in nanoseconds since 1970. */
  time: bigint;
}

const VERSION = 1;
const BYTES = 18; // version, sequence and time (big-endian, 8 bytes each), checksum
const SECOND = 1_000_000_000n;

/** The last byte of the CRC-32 of `bytes`. */
function checksum(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc & 0xff;
}

/** Returns the position as text that can be stored, the same as natterjack for Python makes. */
export function format({ sequence, time }: Position): string {
  const bytes = Buffer.alloc(BYTES);
  bytes.writeUInt8(VERSION);
  bytes.writeBigUInt64BE(BigInt(sequence), 1);
  bytes.writeBigUInt64BE(time, 9);
  bytes.writeUInt8(checksum(bytes.subarray(0, -1)), BYTES - 1);
  return bytes.toString("base64url");
}

/** Reads what `format` made. Throws UsageError for anything else. */
export function parse(text: string): Position {
  const bytes = Buffer.from(text, "base64url");
  if (bytes.length === BYTES) {
    const sequence = Number(bytes.readBigUInt64BE(1));
    const position = { sequence, time: bytes.readBigUInt64BE(9) };
    if (sequence > 0 && format(position) === text) return position;
  }
  throw new UsageError(
    `${JSON.stringify(text)} is not a position: use the position of an event, unchanged`,
  );
}

/** Returns the time as the broker's requests have it, RFC 3339. */
export function timestamp(time: bigint): string {
  const seconds = new Date(Number(time / SECOND) * 1000).toISOString().slice(0, 19);
  return `${seconds}.${String(time % SECOND).padStart(9, "0")}Z`;
}
