import { closing, type DurableEvent } from "./events.js";

// How long after a session has closed the one that continues it is waited for. The edge opens it
// within seconds, unless it was lost.
const SUCCESSOR_MS = 60_000;

/** The open sessions of a conversation, from its events in order. Times are in milliseconds. */
export class OpenSessions {
  readonly #open = new Set<string>();
  readonly #closed = new Set<string>();
  /** Sessions that are to continue closed ones, and until when they are waited for. */
  readonly #awaited = new Map<string, number>();

  /** Notes an event that was stored at `at`. */
  note(event: DurableEvent, at: number): void {
    const id = event.session_id;
    this.#awaited.delete(id);
    if (!closing(event)) {
      if (!this.#closed.has(id)) this.#open.add(id);
      return;
    }
    this.#open.delete(id);
    this.#closed.add(id);
    const successor = event.type === "status" ? event.continued_by : undefined;
    if (successor && !this.#open.has(successor) && !this.#closed.has(successor)) {
      this.#awaited.set(successor, at + SUCCESSOR_MS);
    }
  }

  /** Whether there has been a session, and all have closed that have begun or are due. */
  ended(now: number): boolean {
    return this.#closed.size > 0 && this.#open.size === 0 && this.#due(now).length === 0;
  }

  /** Milliseconds after which `ended` may change without an event; undefined if it cannot. */
  wait(now: number): number | undefined {
    const due = this.#due(now);
    return due.length > 0 && this.#open.size === 0 ? Math.min(...due) - now : undefined;
  }

  #due(now: number): number[] {
    return [...this.#awaited.values()].filter((until) => until > now);
  }
}
