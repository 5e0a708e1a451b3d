import type { Selection } from "./subjects.js";

/** A stored message as it arrived. */
export interface Arrival {
  /** The event's JSON. */
  data: string;
  /** Its place, as text from which a later reader can go on. */
  position: string;
}

/** Where to begin. */
export type Since = "start" | Date | string | undefined;

export interface FeedOptions {
  selection: Selection;
  /** The only kind of stored event to read; absent: all. */
  kind?: string | undefined;
  /** The start of what is stored, a time, the position of the last event that was read; absent: now. */
  since: Since;
  /** Receives the JSON of each interim; absent if none are wanted. */
  onInterim?: ((data: string) => void) | undefined;
}

/** The stored messages of a selection in their order, each once, whatever happens to the server. */
export interface Feed {
  /** Returns the next message, if it has arrived. */
  take(): Arrival | undefined;
  /** Whether all that was stored has arrived. */
  readonly caughtUp: boolean;
  /** Resolves when something has happened since the last call. Rejects if reading is not possible. */
  wait(): Promise<void>;
  /** Ends a wait. */
  poke(): void;
  /** Stops reading, and leaves nothing on the server. */
  close(): Promise<void>;
}

/** A way to the events: NATS, or another that keeps the promises of `Feed`. */
export interface Transport {
  open(options: FeedOptions): Feed;
  /** Closes the connection. */
  close(): Promise<void>;
}
