import { parseDurable, parseInterim, type DurableEvent, type Event } from "./events.js";
import { UsageError } from "./errors.js";
import { Interims } from "./interims.js";
import { NatsTransport } from "./nats.js";
import type { Settings } from "./connection.js";
import type { Selection } from "./subjects.js";
import type { Feed, Since, Transport } from "./transport.js";

/** A kind of stored event. A later release may have others. */
export type Kind = "final" | "turn" | "status" | "usage" | (string & {});

export interface ListenOptions extends Selection {
  /**
   * Where to begin: `"start"` of what is stored (7 days), a time, or the `position` of the last event
   * that was processed. Absent: now.
   */
  since?: Since;
  /** `"stored"`: end when all that was stored has been given out. Absent: never end. */
  until?: "stored" | undefined;
  /** Kinds of stored events. Absent: all. */
  kinds?: readonly Kind[] | undefined;
  /** `"latest"` (default): the newest interim of each segment; `"all"`; or `null` for none. */
  interims?: "latest" | "all" | null | undefined;
  /** Ends the iteration when it is aborted. */
  signal?: AbortSignal | undefined;
  /** How to reach NATS; what is absent comes from the environment. */
  settings?: Settings | undefined;
  /** Another way to the events, or one that is shared. It is not closed at the end. */
  transport?: Transport | undefined;
}

/** Reads events one after another. For `listen` and what is built on it. */
export class Listener {
  readonly #feed: Feed;
  readonly #interims: Interims | undefined;
  readonly #kinds: ReadonlySet<string> | undefined;
  readonly #untilStored: boolean;
  readonly #signal: AbortSignal | undefined;
  readonly #own: Transport | undefined;
  readonly #abort = () => this.#feed.poke();

  constructor(options: ListenOptions) {
    const { since, until, kinds, interims = "latest", signal, settings, transport } = options;
    if (until !== undefined && until !== "stored") throw new UsageError(`until: ${String(until)}`);
    if (kinds?.length === 0) throw new UsageError("kinds: none are chosen");
    this.#kinds = kinds && new Set(kinds);
    this.#untilStored = until === "stored";
    const wanted = interims !== null && !this.#untilStored;
    this.#interims = wanted ? new Interims(interims) : undefined;
    this.#signal = signal;
    this.#own = transport === undefined ? new NatsTransport(settings) : undefined;
    this.#feed = (transport ?? this.#own!).open({
      selection: options,
      kind: kinds?.length === 1 ? kinds[0] : undefined,
      since,
      onInterim: wanted ? (data) => this.#offer(data) : undefined,
    });
    signal?.addEventListener("abort", this.#abort);
  }

  /** Returns the next event, undefined at the end. */
  async next(): Promise<Event | undefined> {
    while (!this.#signal?.aborted) {
      const event = this.ready();
      if (event !== undefined) return event;
      if (this.#untilStored && this.#feed.caughtUp) return undefined;
      await this.#feed.wait();
    }
    return undefined;
  }

  /** Returns the next event, if it has arrived. Interims wait until all stored events were read. */
  ready(): Event | undefined {
    for (let next = this.#feed.take(); next !== undefined; next = this.#feed.take()) {
      const event = parseDurable(next.data, next.position);
      if (event === undefined) continue;
      this.#interims?.note(event);
      if (this.#wants(event)) return event;
    }
    return this.#feed.caughtUp ? this.#interims?.take() : undefined;
  }

  async close(): Promise<void> {
    this.#signal?.removeEventListener("abort", this.#abort);
    await this.#feed.close();
    await this.#own?.close();
  }

  #wants(event: DurableEvent): boolean {
    const kind = event.type === "unknown" ? event.kind : event.type;
    return this.#kinds?.has(kind) ?? true;
  }

  #offer(data: string): void {
    const event = parseInterim(data);
    if (event !== undefined) this.#interims?.offer(event);
  }
}

/**
 * Iterates over the events of a tenant, a conversation or a speaker as they arrive.
 *
 * Stored events come once each, in the order of `sequence` within a session, whatever happens to the
 * connection and the broker; interims come live, and never after what has made them stale. The
 * iteration ends with `break`, `signal` or `until`.
 *
 * Throws NotAllowed if the user lacks a right, UsageError.
 */
export async function* listen(options: ListenOptions = {}): AsyncGenerator<Event, void, void> {
  const listener = new Listener(options);
  try {
    for (let next = await listener.next(); next !== undefined; next = await listener.next()) {
      yield next;
    }
  } finally {
    await listener.close();
  }
}
