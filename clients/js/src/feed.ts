import {
  errors,
  type NatsConnection,
  type Status,
  type Subscription,
} from "@nats-io/transport-node";
import { explained, refusal } from "./connection.js";
import { Consumers, Interrupted, Later, NO_STREAM, type Consumer } from "./consumers.js";
import { UsageError } from "./errors.js";
import { format, parse, timestamp, type Position } from "./position.js";
import { Puller, type Pulled } from "./puller.js";
import { pause, Signal } from "./signal.js";
import { subjectOf } from "./subjects.js";
import type { Arrival, Feed, FeedOptions, HistoryLost, StreamReplaced } from "./transport.js";

const STREAM = "STT_TRANSCRIPTS";
const BATCH = 256;
const RETRY_MS = 1_000;
const MILLISECOND = 1_000_000n;

/** Tells what the reader should know and need not act on. */
export type Warn = (message: string) => void;

/** The stored events of a selection, through a consumer that is made again when it is gone. */
export class NatsFeed implements Feed {
  readonly #watchers: Set<(status: Status) => void>;
  readonly #inbox: () => string;
  readonly #onInterim: ((data: string) => void) | undefined;
  readonly #waits: boolean;
  readonly #stored: string;
  readonly #live: string;
  readonly #warn: Warn;
  readonly #buffer: (Arrival | HistoryLost | StreamReplaced)[] = [];
  readonly #news = new Signal(); // for the reader
  readonly #renewal = new Signal(); // the consumer has to be made again
  readonly #running: Promise<void>;
  #puller: Puller | undefined;
  #consumers!: Consumers;
  #consumer: Consumer | undefined;
  #renewals = 0;
  #started = false; // there is a connection
  #connected = true; // and now, too
  #closed = false;
  readonly #interrupt = new AbortController(); // of pauses, at the end
  #warned = false;

  /** Where reading begins, as long as no message has arrived. */
  #since: "start" | bigint | undefined;
  /** By the server's clock, when it began; without `since`, also the newest message then. */
  #began: { time: bigint; newest: number } | undefined;
  /** The last message that has arrived. */
  #last: Position | undefined;
  /** A message that is no longer in the stream: what was stored after it comes next. */
  #byTime: Position | undefined;
  /** Messages stored up to this time are left out. */
  #skip = 0n;
  /** The next message has to be the last one that has arrived. */
  #checking = false;
  #nextDelivery = 1;
  /** Messages that were stored and have not arrived; unknown until there is a consumer. */
  #pending = Number.POSITIVE_INFINITY;

  constructor(
    connect: () => Promise<NatsConnection>,
    watchers: Set<(status: Status) => void>,
    inbox: () => string,
    { selection, kind, since, waits, onInterim }: FeedOptions,
    warn: Warn,
  ) {
    this.#watchers = watchers;
    this.#inbox = inbox;
    this.#onInterim = onInterim;
    this.#warn = warn;
    this.#stored = subjectOf(selection, kind);
    this.#live = subjectOf(selection, "interim");
    this.#waits = waits;
    if (since instanceof Date) {
      if (Number.isNaN(since.getTime())) throw new UsageError("since: not a valid date");
      this.#since = BigInt(since.getTime()) * MILLISECOND;
    } else if (since === undefined || since === "start") {
      this.#since = since;
    } else {
      this.#last = parse(since);
    }
    this.#running = connect()
      .then((made) => this.#run(made))
      .catch((error: unknown) => this.#news.fail(explained(error)));
  }

  // ---- what a reader uses ----------------------------------------------------------------------

  take(): Arrival | HistoryLost | StreamReplaced | undefined {
    const next = this.#buffer.shift();
    this.#puller?.ask();
    return next;
  }

  get pending(): number {
    return this.#pending + this.#buffer.length;
  }

  get renewals(): number {
    return this.#renewals;
  }

  wait(): Promise<void> {
    return this.#news.wait();
  }

  poke(): void {
    this.#news.set();
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#renewal.set();
    this.#interrupt.abort();
    this.#consumers?.interrupt();
    if (this.#started) await this.#running;
  }

  // ---- the consumer, made again whenever it may be gone ----------------------------------------

  async #run(connection: NatsConnection): Promise<void> {
    if (this.#closed) return;
    this.#started = true;
    this.#consumers = new Consumers(connection, STREAM, this.#stored);
    const watcher = (status: Status) => this.#watch(status);
    this.#watchers.add(watcher);
    let live: Subscription | undefined;
    try {
      if (this.#onInterim !== undefined) live = this.#subscribe(connection, this.#onInterim);
      while (!this.#closed) {
        if (this.#connected) await this.#renewed(connection);
        await this.#renewal.wait();
      }
    } finally {
      live?.unsubscribe();
      await this.#release();
      this.#watchers.delete(watcher);
    }
  }

  /** Makes a new consumer. If that fails, it is tried again. */
  async #renewed(connection: NatsConnection): Promise<void> {
    try {
      await this.#renew(connection);
      this.#warned = false;
    } catch (error) {
      if (error instanceof Later) await this.#later(error);
      else if (!(error instanceof Interrupted)) throw error;
    }
  }

  async #later(error: Later): Promise<void> {
    if (error.code === NO_STREAM && this.#renewals === 0) {
      if (!this.#waits) {
        this.#begun(0); // nothing is stored
        return;
      }
      this.#since ??= "start"; // all that the stream will have is new
    }
    if (!this.#warned) this.#warn(`cannot read ${STREAM} yet: ${error.message}`);
    this.#warned = true;
    await pause(this.#closed ? 0 : RETRY_MS, this.#interrupt.signal);
    this.#renewal.set();
  }

  #subscribe(connection: NatsConnection, onInterim: (data: string) => void): Subscription {
    return connection.subscribe(this.#live, {
      callback: (error, message) => {
        if (error !== null) return; // #watch hears of it too
        onInterim(message.string());
        this.#news.set();
      },
    });
  }

  #watch(status: Status): void {
    if (status.type === "disconnect" || status.type === "reconnect") {
      this.#connected = status.type === "reconnect";
      if (!this.#connected) this.#puller?.stop(); // what it still gets is not all
      this.#consumers.interrupt(); // no answer will come
      this.#renewal.set();
    } else if (status.type === "close") {
      this.#news.fail(explained(new Error("the connection was closed")));
    } else if (status.type === "error") {
      const { error } = status;
      if (error instanceof errors.PermissionViolationError) {
        if (error.subject === this.#live || this.#puller?.owns(error.subject)) {
          this.#news.fail(refusal(error));
        }
      } else if (error instanceof errors.AuthorizationError) {
        this.#warn(`the server refuses the credentials: ${error.message}`);
      }
    }
  }

  /** Makes a new consumer, which goes on after the last message that has arrived. */
  async #renew(connection: NatsConnection): Promise<void> {
    await this.#release();
    this.#checking = false;
    const made = await this.#begin();
    if (made === undefined || this.#closed) return; // the place to go on at has changed
    this.#consumer = made;
    this.#began ??= { time: made.created, newest: made.first - 1 };
    this.#nextDelivery = 1;
    this.#puller = new Puller(
      connection,
      { stream: STREAM, consumer: made.config.name, batch: BATCH, inbox: this.#inbox() },
      {
        unread: () => this.#buffer.length,
        received: (message) => this.#received(message),
        lost: () => this.#renewal.set(),
      },
    );
    this.#begun(made.pending);
    this.#puller.start();
  }

  /** Notes that reading has begun, and how many messages are there. */
  #begun(pending: number): void {
    this.#pending = pending;
    this.#renewals += 1;
    this.#news.set();
  }

  async #begin(): Promise<Consumer | undefined> {
    const { probe, make } = this.#consumers;
    if (this.#byTime !== undefined) return this.#continueByTime(this.#byTime);
    if (this.#last !== undefined) return this.#continueAfter(this.#last);
    if (this.#since === "start") return make("all");
    if (this.#since !== undefined) {
      return make("by_start_time", { opt_start_time: timestamp(this.#since) });
    }
    if (this.#began === undefined) return make("new");
    const { newest, time } = this.#began;
    if ((await probe()).first <= newest) {
      this.#replaced(time);
      this.#since = time;
      this.#renewal.set();
      return undefined;
    }
    return make("by_start_sequence", { opt_start_seq: newest + 1 });
  }

  /** The last message is read again, which shows whether it is still there. */
  async #continueAfter(last: Position): Promise<Consumer | undefined> {
    const start = { opt_start_seq: last.sequence };
    const made = await this.#consumers.make("by_start_sequence", start);
    if (made.first > last.sequence) {
      // It has expired. The stream could be another one, so the time counts as well.
      this.#skip = last.time > this.#skip ? last.time : this.#skip;
      if (made.first > last.sequence + 1) this.#lost(last.time, made.created);
    } else if (made.pending > 0) {
      this.#checking = true;
    } else {
      this.#goByTime(last);
      return undefined;
    }
    return made;
  }

  /**
   * Goes on with what was stored after a message that is not in the stream: it was erased, or the
   * stream was made again or restored from a backup, so that sequences have a new meaning.
   */
  async #continueByTime(last: Position): Promise<Consumer> {
    const start = { opt_start_time: timestamp(last.time + 1n) };
    const made = await this.#consumers.make("by_start_time", start);
    if (made.first <= last.sequence) this.#replaced(last.time);
    this.#skip = last.time > this.#skip ? last.time : this.#skip;
    this.#byTime = this.#last = undefined;
    this.#since = last.time;
    return made;
  }

  #goByTime(last: Position): void {
    this.#byTime = last;
    this.#renewal.set();
  }

  #replaced(time: bigint): void {
    const since = dateOf(time);
    this.#warn(
      `stream ${STREAM} was made again or restored from a backup: going on with events after ` +
        since.toISOString(),
    );
    this.#buffer.push({ type: "stream_replaced", since });
  }

  #lost(from: bigint, until: bigint): void {
    const start = dateOf(from);
    this.#warn(`events of ${STREAM} stored after ${start.toISOString()} have expired unread`);
    this.#buffer.push({ type: "history_lost", start, end: dateOf(until) });
  }

  /** Stops reading, and has the server drop the consumer. */
  async #release(): Promise<void> {
    this.#puller?.stop();
    const consumer = this.#consumer;
    this.#puller = this.#consumer = undefined;
    if (consumer !== undefined && this.#connected) await this.#consumers.release(consumer);
  }

  #received(message: Pulled): void {
    if (message.delivery !== this.#nextDelivery) {
      this.#puller?.stop(); // messages were lost on the way: they are read again
      this.#renewal.set();
      return;
    }
    this.#nextDelivery += 1;
    this.#pending = message.pending;
    const { place } = message;
    if (this.#checking && this.#last !== undefined) {
      const { sequence, time } = this.#last;
      this.#checking = false;
      if (place.sequence !== sequence || place.time !== time) {
        this.#puller?.stop();
        this.#pending = Number.POSITIVE_INFINITY;
        this.#goByTime(this.#last);
        return;
      }
    } else if (place.time > this.#skip) {
      this.#last = place;
      this.#buffer.push({ type: "arrival", data: message.data, position: format(place) });
    }
    this.#puller?.ask();
    this.#news.set();
  }
}

function dateOf(time: bigint): Date {
  return new Date(Number(time / MILLISECOND));
}
