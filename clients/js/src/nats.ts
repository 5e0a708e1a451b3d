import { createInbox, type NatsConnection, type Status } from "@nats-io/transport-node";
import { connect, type Settings } from "./connection.js";
import { NotAllowed, UsageError } from "./errors.js";
import { NatsFeed, type Warn } from "./feed.js";
import { pause } from "./signal.js";
import type { Feed, FeedOptions, Transport } from "./transport.js";

const RETRY_MS = 1_000;

/** Events over NATS. A least-privilege subscriber has all the rights that are needed. */
export class NatsTransport implements Transport {
  readonly #settings: Settings;
  readonly #warn: Warn;
  readonly #watchers = new Set<(status: Status) => void>();
  readonly #closing = new AbortController();
  #connection: Promise<NatsConnection> | undefined;

  constructor(settings: Settings = {}, warn: Warn = (text) => console.warn(`natterjack: ${text}`)) {
    this.#settings = settings;
    this.#warn = warn;
  }

  open(options: FeedOptions): Feed {
    const connection = () => (this.#connection ??= this.#connect());
    const prefix = this.#settings.inboxPrefix ?? process.env["NATS_INBOX_PREFIX"];
    const inbox = () => createInbox(prefix);
    return new NatsFeed(connection, this.#watchers, inbox, options, this.#warn);
  }

  async close(): Promise<void> {
    this.#closing.abort();
    const connection = await this.#connection?.catch(() => undefined);
    await connection?.close();
  }

  /** Connects; waits while no server answers. */
  async #connect(): Promise<NatsConnection> {
    for (let warned = false; ; warned = true) {
      try {
        const connection = await connect(this.#settings);
        void this.#watch(connection);
        return connection;
      } catch (error) {
        if (error instanceof UsageError || error instanceof NotAllowed) throw error;
        if (this.#closing.signal.aborted) throw error;
        if (!warned) this.#warn(`${(error as Error).message}; trying again`);
      }
      await pause(RETRY_MS, this.#closing.signal);
    }
  }

  async #watch(connection: NatsConnection): Promise<void> {
    for await (const status of connection.status()) {
      for (const watcher of this.#watchers) watcher(status);
    }
  }
}
