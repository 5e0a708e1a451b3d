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

/** The CRC-32 of each byte. */
const CRC = Uint32Array.from({ length: 256 }, (_, crc) => {
  for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  return crc;
});

/** The last byte of the CRC-32 of all bytes but the last. */
function checksum(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (let n = 0; n < BYTES - 1; n++) crc = (crc >>> 8) ^ CRC[(crc ^ bytes[n]!) & 0xff]!;
  return ~crc & 0xff;
}

/** Returns the position as text that can be stored, the same as natterjack for Python makes. */
export function format({ sequence, time }: Position): string {
  const bytes = Buffer.allocUnsafe(BYTES);
  bytes.writeUInt8(VERSION);
  bytes.writeUInt32BE(Math.floor(sequence / 2 ** 32), 1);
  bytes.writeUInt32BE(sequence >>> 0, 5);
  bytes.writeBigUInt64BE(time, 9);
  bytes.writeUInt8(checksum(bytes), BYTES - 1);
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
