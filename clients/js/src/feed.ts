import {
  createInbox,
  errors,
  type NatsConnection,
  type Status,
  type Subscription,
} from "@nats-io/transport-node";
import { explained, refusal } from "./connection.js";
import { UsageError } from "./errors.js";
import { format, parse, same, timestamp, type Position } from "./position.js";
import { Puller, type Pulled } from "./puller.js";
import { pause, Signal } from "./signal.js";
import { subjectOf } from "./subjects.js";
import type { Arrival, Feed, FeedOptions } from "./transport.js";

const STREAM = "STT_TRANSCRIPTS";
const BATCH = 256;
const CONSUMER_LIFE_MS = 30_000;
const REQUEST_MS = 5_000;
const RETRY_MS = 1_000;
const ROUNDING = 1_000_000n; // nanoseconds: positions of other clients may have rounded times

/** Tells what the reader should know and need not act on. */
export type Warn = (message: string) => void;

/** The part of a server's answer to the request for a consumer that is used here. */
interface ConsumerInfo {
  name: string;
  created: string;
  num_pending: number;
  delivered?: { stream_seq?: number };
}

/** A request failed that may be repeated later. */
class Later extends Error {}

/** A request is not answered, because the connection was lost. */
class Interrupted extends Error {}

/** The stored events of a selection, through a consumer that is made again when it is gone. */
export class NatsFeed implements Feed {
  readonly #watchers: Set<(status: Status) => void>;
  readonly #inbox: () => string;
  readonly #onInterim: ((data: string) => void) | undefined;
  readonly #fromStart: boolean;
  readonly #stored: string;
  readonly #live: string;
  readonly #warn: Warn;
  readonly #buffer: Arrival[] = [];
  readonly #news = new Signal(); // for the reader
  readonly #renewal = new Signal(); // the consumer has to be made again
  readonly #running: Promise<void>;
  #puller: Puller | undefined;
  #started = false; // there is a connection
  #connected = true; // and now, too
  #closed = false;
  #interrupt = new AbortController(); // of what waits for the server
  #warned = false;

  /** The last message that has arrived. */
  #last: Position | undefined;
  /** Messages stored up to this time are left out, because the stream was replaced. */
  #after: bigint | undefined;
  /** The time at which reading begins, if one was given. */
  #time: bigint | undefined;
  /** Where new messages begin, and by the server's clock when. */
  #newest: { sequence: number; created: bigint } | undefined;
  /** The next message has to be the last one that has arrived. */
  #checking = false;
  #nextDelivery = 1;
  /** Messages that were stored and have not arrived; unknown until there is a consumer. */
  #pending = Number.POSITIVE_INFINITY;

  constructor(
    connect: () => Promise<NatsConnection>,
    watchers: Set<(status: Status) => void>,
    inbox: () => string,
    { selection, kind, since, onInterim }: FeedOptions,
    warn: Warn,
  ) {
    this.#watchers = watchers;
    this.#inbox = inbox;
    this.#onInterim = onInterim;
    this.#warn = warn;
    this.#stored = subjectOf(selection, kind);
    this.#live = subjectOf(selection, "interim");
    this.#fromStart = since === "start";
    if (since instanceof Date) {
      if (Number.isNaN(since.getTime())) throw new UsageError("since: not a valid date");
      this.#time = BigInt(since.getTime()) * 1_000_000n;
    } else if (since !== undefined && since !== "start") {
      this.#last = parse(since);
    }
    this.#running = connect()
      .then((made) => this.#run(made))
      .catch((error: unknown) => this.#news.fail(explained(error)));
  }

  // ---- what a reader uses ----------------------------------------------------------------------

  take(): Arrival | undefined {
    const next = this.#buffer.shift();
    this.#puller?.ask();
    return next;
  }

  get caughtUp(): boolean {
    return this.#pending === 0 && this.#buffer.length === 0;
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
    if (this.#started) await this.#running;
  }

  // ---- the consumer, made again whenever it may be gone ----------------------------------------

  async #run(connection: NatsConnection): Promise<void> {
    if (this.#closed) return;
    this.#started = true;
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
      this.#watchers.delete(watcher);
      this.#puller?.stop();
      live?.unsubscribe();
    }
  }

  /** Makes a new consumer. If that fails, it is tried again. */
  async #renewed(connection: NatsConnection): Promise<void> {
    try {
      await this.#renew(connection);
      this.#warned = false;
    } catch (error) {
      if (error instanceof Later) {
        if (!this.#warned) this.#warn(`cannot read ${STREAM} yet: ${error.message}`);
        this.#warned = true;
        this.#interrupt = new AbortController();
        await pause(this.#closed ? 0 : RETRY_MS, this.#interrupt.signal);
      } else if (!(error instanceof Interrupted)) {
        throw error;
      }
      this.#renewal.set();
    }
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
      this.#interrupt.abort(); // no answer will come
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
    this.#puller?.stop();
    this.#puller = undefined;
    this.#checking = false;
    const made = await this.#begin(connection);
    if (made === undefined || this.#closed) return; // the place to go on at has changed
    this.#nextDelivery = 1;
    this.#pending = made.num_pending;
    this.#puller = new Puller(
      connection,
      { stream: STREAM, consumer: made.name, batch: BATCH, inbox: this.#inbox() },
      {
        unread: () => this.#buffer.length,
        received: (message) => this.#received(message),
        lost: () => this.#renewal.set(),
      },
    );
    this.#puller.start();
    this.#news.set();
  }

  async #begin(connection: NatsConnection): Promise<ConsumerInfo | undefined> {
    if (this.#after !== undefined) {
      return this.#consumer(connection, "by_start_time", {
        opt_start_time: timestamp(this.#after - ROUNDING),
      });
    }
    if (this.#last !== undefined) {
      // The last message comes again, which shows that it is still there.
      const info = await this.#consumer(connection, "by_start_sequence", {
        opt_start_seq: this.#last.sequence,
      });
      this.#checking = true;
      if (info.num_pending > 0) return info;
      return this.#goOnAfter(this.#last.time);
    }
    if (this.#fromStart) return this.#consumer(connection, "all");
    if (this.#time !== undefined) {
      return this.#consumer(connection, "by_start_time", { opt_start_time: timestamp(this.#time) });
    }
    const now = await this.#consumer(connection, "new");
    const sequence = now.delivered?.stream_seq ?? 0;
    if (this.#newest === undefined) {
      this.#newest = { sequence, created: BigInt(Date.parse(now.created)) * 1_000_000n };
      return now;
    }
    if (sequence < this.#newest.sequence) return this.#goOnAfter(this.#newest.created);
    return this.#consumer(connection, "by_start_sequence", {
      opt_start_seq: this.#newest.sequence + 1,
    });
  }

  async #consumer(
    connection: NatsConnection,
    policy: string,
    start: { opt_start_seq?: number; opt_start_time?: string } = {},
  ): Promise<ConsumerInfo> {
    const name = `listen_${createInbox("x").slice(2)}`;
    const config = {
      name,
      ack_policy: "none",
      deliver_policy: policy,
      filter_subject: this.#stored,
      inactive_threshold: CONSUMER_LIFE_MS * 1e6,
      mem_storage: true,
      num_replicas: 1,
      ...start,
    };
    const answer = (await this.#request(
      connection,
      `$JS.API.CONSUMER.CREATE.${STREAM}.${name}.${this.#stored}`,
      { stream_name: STREAM, config, action: "create" },
    )) as ConsumerInfo & { error?: { description?: string } };
    // The server may still be starting, have no leader, or no stream yet.
    if (answer.error) throw new Later(answer.error.description ?? "refused");
    return answer;
  }

  async #request(connection: NatsConnection, subject: string, body: object): Promise<unknown> {
    this.#interrupt = new AbortController();
    const { signal } = this.#interrupt;
    if (connection.isClosed()) throw explained(new Error("the connection is closed"));
    const interrupted = new Promise<never>((_, reject) => {
      signal.addEventListener("abort", () => reject(new Interrupted()));
    });
    const request = connection.request(subject, JSON.stringify(body), { timeout: REQUEST_MS });
    request.catch(() => undefined); // it may fail after the interruption
    try {
      return (await Promise.race([request, interrupted])).json();
    } catch (error) {
      if (error instanceof errors.PermissionViolationError) throw refusal(error);
      throw error instanceof Interrupted ? error : new Later((error as Error).message);
    }
  }

  #received(message: Pulled): void {
    if (message.delivery !== this.#nextDelivery) {
      this.#puller?.stop(); // messages were lost on the way: they are read again
      this.#renewal.set();
      return;
    }
    this.#nextDelivery += 1;
    this.#pending = message.pending;
    if (this.#checking) {
      this.#checking = false;
      if (this.#last !== undefined && !same(message.place, this.#last)) {
        this.#puller?.stop();
        this.#goOnAfter(this.#last.time);
        this.#renewal.set();
      }
      this.#puller?.ask();
      this.#news.set();
      return;
    }
    if (this.#after !== undefined) {
      if (message.place.time <= this.#after) {
        this.#puller?.ask();
        this.#news.set();
        return;
      }
      this.#after = undefined;
    }
    this.#last = message.place;
    this.#buffer.push({ data: message.data, position: format(message.place) });
    this.#news.set();
  }

  /**
   * Goes on by time, because the last message that has arrived is no longer in the stream: it was
   * made again or restored from a backup, so that sequences have a new meaning; or the message was
   * erased or has expired.
   */
  #goOnAfter(time: bigint): undefined {
    this.#warn(
      `the last event read from ${STREAM} is no longer there: going on with events after ` +
        timestamp(time),
    );
    this.#after = time;
    this.#pending = Number.POSITIVE_INFINITY;
    this.#renewal.set();
    return undefined;
  }
}
