import type { Selection } from "./subjects.js";

/** A stored message as it arrived. */
export interface Arrival {
  type: "arrival";
  /** The event's JSON. */
  data: string;
  /** Its place, as text from which a later reader can go on. */
  position: string;
}

/** Events that were stored between two times may be missing: the broker no longer has them. */
export interface HistoryLost {
  type: "history_lost";
  start: Date;
  end: Date;
}

/**
 * The stream was made again or restored from a backup. Events that were stored after `since` follow;
 * a session that was open may repeat events that are not in the backup.
 */
export interface StreamReplaced {
  type: "stream_replaced";
  since: Date;
}

/** Where to begin. */
export type Since = "start" | Date | string | undefined;

export interface FeedOptions {
  selection: Selection;
  /** The only kind of stored event to read; absent: all. */
  kind?: string | undefined;
  /** The start of what is stored, a time, the position of the last event that was read; absent: now. */
  since: Since;
  /** Whether to wait if nothing was ever stored. */
  waits: boolean;
  /** Receives the JSON of each interim; absent if none are wanted. */
  onInterim?: ((data: string) => void) | undefined;
}

/** The stored messages of a selection in their order, each once, whatever happens to the server. */
export interface Feed {
  /** Returns the next message, if it has arrived. */
  take(): Arrival | HistoryLost | StreamReplaced | undefined;
  /** How many messages are stored and were not taken; infinite as long as that is not known. */
  readonly pending: number;
  /** How often reading has begun: one more after each lost connection. */
  readonly renewals: number;
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
