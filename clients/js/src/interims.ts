import { closing, type DurableEvent } from "./events.js";
import type { InterimEvent } from "./wire.js";

const MAX_INTERIMS = 1024; // when there are more, the oldest are dropped: newer ones replace them
const MAX_SESSIONS = 10_000; // of which it is remembered how far they were read

interface Progress {
  epoch: number;
  /** Segment of the last final; -1 before the first. */
  segment: number;
  closed: boolean;
}

/**
 * Interims that wait to be given out. One that a final, the end of its session or a later worker
 * has made stale never comes out; with `latest`, only the newest of each segment does.
 */
export class Interims {
  readonly #latest: boolean;
  readonly #waiting = new Map<string, InterimEvent>();
  readonly #sessions = new Map<string, Progress>();
  #count = 0;

  constructor(mode: "latest" | "all") {
    this.#latest = mode === "latest";
  }

  /** Takes an interim that has arrived. */
  offer(event: InterimEvent): void {
    if (this.#stale(event)) return;
    const segment = `${event.session_id}:${event.segment}`;
    const key = this.#latest ? segment : `${segment}:${this.#count++}`;
    this.#waiting.delete(key); // the newest is the last
    this.#waiting.set(key, event);
    if (this.#waiting.size > MAX_INTERIMS) this.#drop(this.#waiting);
  }

  /** Notes an event that was read from the stream. */
  note(event: DurableEvent): void {
    const { session_id } = event;
    const before = this.#sessions.get(session_id);
    const epoch = event.type === "unknown" ? Number(event.raw["epoch"]) || 0 : event.epoch;
    this.#sessions.delete(session_id); // the newest is the last
    this.#sessions.set(session_id, {
      epoch: Math.max(epoch, before?.epoch ?? 0),
      segment: event.type === "final" ? event.segment : (before?.segment ?? -1),
      closed: closing(event) || (before?.closed ?? false),
    });
    if (this.#sessions.size > MAX_SESSIONS) this.#drop(this.#sessions);
  }

  /** Forgets what was read: the stream is another one, and sequences begin again. */
  forget(): void {
    this.#sessions.clear();
  }

  /** Returns the next interim that is not stale. */
  take(): InterimEvent | undefined {
    for (const [key, event] of this.#waiting) {
      this.#waiting.delete(key);
      if (!this.#stale(event)) return event;
    }
    return undefined;
  }

  #stale(event: InterimEvent): boolean {
    const progress = this.#sessions.get(event.session_id);
    if (progress === undefined) return false;
    return progress.closed || event.epoch < progress.epoch || event.segment <= progress.segment;
  }

  #drop(map: Map<string, unknown>): void {
    for (const key of map.keys()) {
      map.delete(key);
      return;
    }
  }
}
