import { createInbox, errors, type NatsConnection } from "@nats-io/transport-node";
import { explained, refusal } from "./connection.js";

const LIFE_MS = 30_000;
const NO_LIFE_MS = 1;
const REQUEST_MS = 5_000;
const RELEASE_MS = 2_000;

/** The code of the server's error for a stream that does not exist. */
export const NO_STREAM = 10059;

/** A consumer, as the server has made it. */
export interface Consumer {
  config: { name: string };
  /** The sequence of the stream at which it begins to look for messages. */
  first: number;
  pending: number;
  /** By the server's clock, in nanoseconds since 1970. */
  created: bigint;
}

/** A request failed that may be repeated later. */
export class Later extends Error {
  constructor(
    message: string,
    readonly code = 0,
  ) {
    super(message);
  }
}

/** A request is not answered, because the connection was lost. */
export class Interrupted extends Error {}

/** Makes consumers of one stream with one filter, which least-privilege subscribers may. */
export class Consumers {
  readonly #connection: NatsConnection;
  readonly #stream: string;
  readonly #filter: string;
  #interrupted = new AbortController();

  constructor(connection: NatsConnection, stream: string, filter: string) {
    this.#connection = connection;
    this.#stream = stream;
    this.#filter = filter;
  }

  /** Makes a consumer. Throws Later, Interrupted, NotAllowed. */
  readonly make = (policy: string, start: object = {}): Promise<Consumer> =>
    this.#make(policy, start, LIFE_MS);

  /** Makes a consumer of new messages that is only looked at, and is gone at once. */
  readonly probe = (): Promise<Consumer> => this.#make("new", {}, NO_LIFE_MS);

  /** Has the server drop a consumer. */
  async release({ config }: Consumer): Promise<void> {
    // Users may make consumers, and not delete them. This changes one to end by itself.
    const ending = { ...config, inactive_threshold: NO_LIFE_MS * 1e6 };
    await this.#create(ending, RELEASE_MS).catch(() => undefined);
  }

  /** Makes the request that waits for an answer fail. */
  interrupt(): void {
    this.#interrupted.abort();
  }

  async #make(policy: string, start: object, lifeMs: number): Promise<Consumer> {
    const config = {
      name: `listen_${createInbox("x").slice(2)}`,
      ack_policy: "none",
      deliver_policy: policy,
      filter_subject: this.#filter,
      inactive_threshold: lifeMs * 1e6,
      mem_storage: true,
      num_replicas: 1,
      ...start,
    };
    const answer = (await this.#create(config, REQUEST_MS)) as {
      created: string;
      num_pending: number;
      delivered: { stream_seq: number };
    };
    return {
      config,
      first: answer.delivered.stream_seq + 1,
      pending: answer.num_pending,
      created: BigInt(Date.parse(answer.created)) * 1_000_000n,
    };
  }

  async #create(config: { name: string }, timeout: number): Promise<unknown> {
    const subject = `$JS.API.CONSUMER.CREATE.${this.#stream}.${config.name}.${this.#filter}`;
    const answer = (await this.#request(
      subject,
      { stream_name: this.#stream, config },
      timeout,
    )) as { error?: { err_code?: number; description?: string } };
    // The server may still be starting, have no leader, or no stream yet.
    const { error } = answer;
    if (error) throw new Later(error.description ?? "refused", error.err_code);
    return answer;
  }

  async #request(subject: string, body: object, timeout: number): Promise<unknown> {
    if (this.#connection.isClosed()) throw explained(new Error("the connection is closed"));
    this.#interrupted = new AbortController();
    const { signal } = this.#interrupted;
    const interrupted = new Promise<never>((_, reject) => {
      signal.addEventListener("abort", () => reject(new Interrupted()));
    });
    const request = this.#connection.request(subject, JSON.stringify(body), { timeout });
    request.catch(() => undefined); // it may fail after the interruption
    try {
      return (await Promise.race([request, interrupted])).json();
    } catch (error) {
      const { cause } = error as Error; // of a RequestError
      if (cause instanceof errors.PermissionViolationError) throw refusal(cause);
      throw error instanceof Interrupted ? error : new Later((error as Error).message);
    }
  }
}
