import type { Settings } from "./connection.js";
import { UsageError } from "./errors.js";
import { parseDurable, parseInterim, type DurableEvent, type Event } from "./events.js";
import { Interims } from "./interims.js";
import { NatsTransport } from "./nats.js";
import { parse } from "./position.js";
import { OpenSessions } from "./sessions.js";
import type { Selection } from "./subjects.js";
import type { Feed, HistoryLost, Since, StreamReplaced, Transport } from "./transport.js";

const KINDS = ["interim", "final", "turn", "status", "usage", "notice"] as const;
const INTERIMS = ["latest", "all", null];
const UNTIL = ["stored", "closed", undefined];

/** A kind of event. */
export type Kind = (typeof KINDS)[number];

/** Everything that was stored has been read. It comes again after each lost connection. */
export interface CaughtUp {
  type: "caught_up";
  /** The position of the last event that was read; undefined before the first. */
  position: string | undefined;
}

/** What `listen({ markers: true })` gives beside events. */
export type Marker = CaughtUp | HistoryLost | StreamReplaced;

export interface ListenOptions extends Selection {
  /** Kinds of event. Absent: all, those of later releases included. */
  kinds?: readonly Kind[] | undefined;
  /**
   * Where reading begins: `"start"`, with everything that is stored (7 days); a time; the `position`
   * of an event, after which it goes on. Absent: with what is stored from now on.
   */
  since?: Since;
  /**
   * `"stored"`: end when everything has been read that was stored when reading began; `"closed"`:
   * when all sessions of a conversation have closed that have begun. Absent: never end.
   */
  until?: "stored" | "closed" | undefined;
  /** `"latest"` (default): the newest interim of each segment; `"all"`; or `null` for none. */
  interims?: "latest" | "all" | null | undefined;
  /** Gives markers, too. */
  markers?: boolean | undefined;
  /** Ends the iteration when it is aborted. */
  signal?: AbortSignal | undefined;
  /** How to reach NATS; what is absent comes from the environment. */
  settings?: Settings | undefined;
  /** Another way to the events, or one that is shared. It is not closed at the end. */
  transport?: Transport | undefined;
}

/** Throws UsageError. */
function check({ kinds, until, interims = null, conversation }: ListenOptions): void {
  for (const kind of kinds ?? []) {
    if (!KINDS.includes(kind)) {
      throw new UsageError(`kinds: ${JSON.stringify(kind)} is not one of ${KINDS.join(", ")}`);
    }
  }
  if (kinds?.length === 0) throw new UsageError(`kinds: name at least one of ${KINDS.join(", ")}`);
  if (!UNTIL.includes(until)) throw new UsageError('until: is neither "stored" nor "closed"');
  if (!INTERIMS.includes(interims))
    throw new UsageError('interims: is not "latest", "all" or null');
  if (until === "closed" && conversation === undefined) {
    throw new UsageError('until: "closed" needs a conversation: a tenant has no end');
  }
}

/** Reads events one after another. For `listen` and what is built on it. */
export class Listener {
  readonly #feed: Feed;
  readonly #interims: Interims | undefined;
  readonly #sessions: OpenSessions | undefined;
  readonly #kinds: ReadonlySet<string> | undefined;
  readonly #untilStored: boolean;
  readonly #signal: AbortSignal | undefined;
  readonly #own: Transport | undefined;
  readonly #lookBack: (() => Feed) | undefined;
  readonly #abort = () => this.#feed.poke();
  #renewals = 0;
  #behind = true; // what was stored before the last renewal has not all been read
  #left: number | undefined; // until stored: messages that are still to be read
  #position: string | undefined;

  constructor(options: ListenOptions) {
    check(options);
    const { kinds, since, until, interims = "latest", signal, settings, transport } = options;
    this.#kinds = kinds && new Set(kinds);
    this.#untilStored = until === "stored";
    this.#sessions = until === "closed" ? new OpenSessions() : undefined;
    const wanted = interims !== null && !this.#untilStored && (kinds?.includes("interim") ?? true);
    this.#interims = wanted ? new Interims(interims) : undefined;
    this.#signal = signal;
    this.#own = transport === undefined ? new NatsTransport(settings) : undefined;
    const way = transport ?? this.#own!;
    const back = { selection: options, kind: "status", since: "start", waits: false } as const;
    const needed = until === "closed" && since !== "start";
    this.#lookBack = needed ? () => way.open(back) : undefined;
    this.#feed = way.open({
      selection: options,
      kind: kinds?.length === 1 && !wanted && until !== "closed" ? kinds[0] : undefined,
      since,
      waits: !this.#untilStored,
      onInterim: wanted ? (data) => this.#offer(data) : undefined,
    });
    signal?.addEventListener("abort", this.#abort);
  }

  /** Returns the next event or marker, undefined at the end. */
  async next(): Promise<Event | Marker | undefined> {
    while (!this.#signal?.aborted) {
      if (this.#lookBack && this.#renewals === 0 && this.#feed.renewals > 0) {
        await this.#findOpen(this.#lookBack());
      }
      const next = this.ready();
      if (next !== undefined) return next;
      if (this.#ended()) return undefined;
      const patience = this.#sessions?.wait(Date.now());
      const timer = patience === undefined ? undefined : setTimeout(this.#abort, patience);
      await this.#feed.wait().finally(() => clearTimeout(timer));
    }
    return undefined;
  }

  /** Returns the next event or marker, if it has arrived. */
  ready(): Event | Marker | undefined {
    this.#renew();
    while (!this.#ended()) {
      const next = this.#feed.take();
      if (next === undefined) break;
      if (next.type !== "arrival") {
        if (next.type === "stream_replaced") this.#interims?.forget();
        return next;
      }
      this.#position = next.position;
      if (this.#left !== undefined) this.#left -= 1;
      const event = parseDurable(next.data, next.position);
      if (event === undefined) continue;
      this.#interims?.note(event);
      this.#noteSession(event);
      if (this.#wants(event)) return event;
    }
    if (this.#behind && this.#renewals > 0 && this.#feed.pending === 0) {
      this.#behind = false;
      return { type: "caught_up", position: this.#position };
    }
    return this.#behind ? undefined : this.#interims?.take();
  }

  /** Finds the sessions of the conversation that are open already. */
  async #findOpen(feed: Feed): Promise<void> {
    try {
      while (feed.pending > 0) {
        for (let next = feed.take(); next !== undefined; next = feed.take()) {
          if (next.type === "arrival") this.#noteSession(parseDurable(next.data, next.position));
        }
        if (feed.pending > 0) await feed.wait();
      }
    } finally {
      await feed.close();
    }
  }

  #noteSession(event: DurableEvent | undefined): void {
    if (event === undefined) return;
    this.#sessions?.note(event, Number(parse(event.position).time / 1_000_000n));
  }

  async close(): Promise<void> {
    this.#signal?.removeEventListener("abort", this.#abort);
    await this.#feed.close();
    await this.#own?.close();
  }

  #renew(): void {
    if (this.#feed.renewals === this.#renewals) return;
    this.#renewals = this.#feed.renewals;
    this.#behind = true;
    if (this.#untilStored) this.#left ??= this.#feed.pending;
  }

  #ended(): boolean {
    if (this.#left !== undefined) return this.#left <= 0 || this.#feed.pending === 0;
    return this.#feed.pending === 0 && (this.#sessions?.ended(Date.now()) ?? false);
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
 * connection and the broker; interims come live, and never after the final of their segment or the
 * end of their session. The iteration ends with `break`, `signal` or `until`, and then leaves nothing
 * on the broker. It waits for the broker, and for a stream that no worker has made yet.
 *
 * With `markers`, a `caught_up` comes when everything that is stored has been read, a `history_lost`
 * if events have expired unread, and a `stream_replaced` if the broker comes back with another
 * stream.
 *
 * Throws NotAllowed if the user lacks a right, UsageError.
 */
export function listen(
  options: ListenOptions & { markers: true },
): AsyncGenerator<Event | Marker, void, void>;
export function listen(options?: ListenOptions): AsyncGenerator<Event, void, void>;
export async function* listen(
  options: ListenOptions = {},
): AsyncGenerator<Event | Marker, void, void> {
  const listener = new Listener(options);
  try {
    for (let next = await listener.next(); next !== undefined; next = await listener.next()) {
      if (options.markers || !isMarker(next)) yield next;
    }
  } finally {
    await listener.close();
  }
}

/** Whether what `listen` gives is a marker, not an event. */
export function isMarker(next: Event | Marker): next is Marker {
  return (
    next.type === "caught_up" || next.type === "history_lost" || next.type === "stream_replaced"
  );
}
