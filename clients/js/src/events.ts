import { SHAPES, type InterimEvent, type StatusEvent, type TranscriptEvent } from "./wire.js";

/** What an event that was read from the stream has beside its own members. */
export interface Stored {
  /** `<session_id>:<sequence>`: the same whenever the event is read. */
  id: string;
  /** Where the event is in the stream, as text to store: `since: position` goes on after it. */
  position: string;
}

/**
 * An event that this release does not know: its type, its state or the event of its turn is new in a
 * later release, or a member is missing.
 */
export interface UnknownEvent {
  type: "unknown";
  /** The `type` that the event has on the wire. */
  kind: string;
  session_id: string;
  tenant: string;
  conversation: string;
  speaker: string;
  /** The whole event. */
  raw: Record<string, unknown>;
}

/** A change of a session's state. Its own `position`, of audio, is called `audio_position` here. */
export type Status = Omit<StatusEvent, "position"> & { audio_position?: number | null };

/** An event that is stored. */
export type DurableEvent = (
  Exclude<TranscriptEvent, InterimEvent | StatusEvent> | Status | UnknownEvent
) &
  Stored;

/** An event, as `listen` gives it. */
export type Event = DurableEvent | InterimEvent;

const KEY = ["session_id", "tenant", "conversation", "speaker"] as const;

/** Reads an event's JSON. Returns undefined if it is none. */
function parse(data: string): TranscriptEvent | UnknownEvent | undefined {
  let raw: unknown;
  try {
    raw = JSON.parse(data);
  } catch {
    return undefined;
  }
  if (typeof raw !== "object" || raw === null) return undefined;
  const event = raw as Record<string, unknown>;
  const kind = event["type"];
  if (typeof kind !== "string" || KEY.some((name) => typeof event[name] !== "string")) {
    return undefined;
  }
  const shape = Object.hasOwn(SHAPES, kind) ? SHAPES[kind] : undefined;
  const known =
    shape?.required.every((name) => event[name] !== undefined && event[name] !== null) &&
    Object.entries(shape.enums).every(([name, values]) => values.includes(String(event[name])));
  if (known) return raw as TranscriptEvent;
  const { session_id, tenant, conversation, speaker } = raw as UnknownEvent;
  return { type: "unknown", kind, session_id, tenant, conversation, speaker, raw: event };
}

/** Reads the JSON of a stored event. Returns undefined if it is none. */
export function parseDurable(data: string, position: string): DurableEvent | undefined {
  const event = parse(data);
  if (event === undefined || event.type === "interim") return undefined;
  const sequence = event.type === "unknown" ? event.raw["sequence"] : event.sequence;
  const stored = { id: `${event.session_id}:${String(sequence)}`, position };
  if (event.type === "status" && event.position !== undefined) {
    return Object.assign(event, { audio_position: event.position }, stored);
  }
  return Object.assign(event, stored);
}

/** Reads the JSON of an interim. Returns undefined if it is none. */
export function parseInterim(data: string): InterimEvent | undefined {
  const event = parse(data);
  return event?.type === "interim" ? event : undefined;
}

/** Whether a session ends with the event. */
export function closing(event: Event): boolean {
  if (event.type === "unknown") return event.kind === "status" && event.raw["account"] != null;
  return event.type === "status" && (event.state === "closed" || event.state === "failed");
}
