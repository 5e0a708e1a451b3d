import type { Msg, NatsConnection, Subscription } from "@nats-io/transport-node";
import type { Position } from "./position.js";

const EXPIRES_MS = 20_000;
const HEARTBEAT_MS = 1_000;
const SILENT_BEATS = 4; // heartbeats that may be missing before the request counts as lost

/** A message of a consumer. */
export interface Pulled {
  data: string;
  place: Position;
  /** Number of the delivery by this consumer: 1, 2, 3 ... */
  delivery: number;
  /** Messages of the consumer that were not yet delivered. */
  pending: number;
  /** Subject of acknowledgements. */
  reply: string;
}

/** Returns what the reply subject of a stored message says (NATS ADR-15, ADR-35). */
function pulled(message: Msg, reply: string): Pulled {
  // $JS.ACK.<stream>.<consumer>.<attempt>.<sequence>.<delivery>.<time>.<pending>, and in newer
  // servers two tokens (domain, account) after ACK and maybe one at the end.
  const tokens = reply.split(".");
  const at = tokens.length >= 11 ? 7 : 5;
  return {
    data: message.string(),
    place: { sequence: Number(tokens[at]), time: BigInt(tokens[at + 2] ?? 0) },
    delivery: Number(tokens[at + 1]),
    pending: Number(tokens[at + 3]),
    reply,
  };
}

/**
 * Keeps requests for messages of one consumer open at the server, so that a message arrives as soon
 * as it is stored. The next ones are asked for when half of the last were read.
 */
export class Puller {
  readonly #connection: NatsConnection;
  readonly #subject: string;
  readonly #batch: number;
  readonly #inbox: string;
  readonly #unread: () => number;
  readonly #received: (message: Pulled) => void;
  readonly #lost: () => void;
  #subscription: Subscription | undefined;
  #timer: NodeJS.Timeout | undefined;
  #open = 0; // messages that open requests may still deliver
  #silence = 0; // ticks of the timer since something arrived

  /**
   * `unread` tells how many messages wait to be read; `received` gets each one. `lost` is called
   * when requests are no longer answered, or the consumer does not exist: it has to be made again.
   */
  constructor(
    connection: NatsConnection,
    from: { stream: string; consumer: string; batch: number; inbox: string },
    on: { unread: () => number; received: (message: Pulled) => void; lost: () => void },
  ) {
    this.#connection = connection;
    this.#subject = `$JS.API.CONSUMER.MSG.NEXT.${from.stream}.${from.consumer}`;
    this.#batch = from.batch;
    this.#inbox = from.inbox;
    this.#unread = on.unread;
    this.#received = on.received;
    this.#lost = on.lost;
  }

  /** Whether a subject is one that only this puller uses. */
  owns(subject: string): boolean {
    return subject === this.#subject || subject === this.#inbox;
  }

  start(): void {
    this.#subscription = this.#connection.subscribe(this.#inbox, {
      callback: (error, message) => {
        if (error === null) this.#arrived(message);
      },
    });
    this.ask();
    this.#timer = setInterval(() => {
      if (this.#open > 0 && ++this.#silence > SILENT_BEATS) this.#lost();
    }, HEARTBEAT_MS);
  }

  /** Asks for more messages, if fewer than half a batch are asked for or unread. */
  ask(): void {
    const wanted = this.#batch - this.#open - this.#unread();
    if (wanted < this.#batch / 2 || this.#subscription === undefined) return;
    if (this.#open === 0) this.#silence = 0;
    this.#open += wanted;
    const request = {
      batch: wanted,
      expires: EXPIRES_MS * 1e6,
      idle_heartbeat: HEARTBEAT_MS * 1e6,
    };
    this.#connection.publish(this.#subject, JSON.stringify(request), { reply: this.#inbox });
  }

  #arrived(message: Msg): void {
    this.#silence = 0;
    // A stored message has a reply subject for its acknowledgement. Its own headers may contain
    // anything, even a status.
    if (message.reply?.startsWith("$JS.ACK.")) {
      this.#open = Math.max(0, this.#open - 1);
      this.#received(pulled(message, message.reply));
      return;
    }
    const code = message.headers?.code;
    if (code === 100) return; // a heartbeat
    const left = Number(message.headers?.get("Nats-Pending-Messages") || Number.NaN);
    if (code === 404 || code === 408) {
      // The request has ended, with so many messages fewer than it asked for.
      this.#open = Number.isNaN(left) ? 0 : Math.max(0, this.#open - left);
      this.ask();
      return;
    }
    this.#lost(); // 409: the consumer or its server is gone. 503: there is no such consumer.
  }

  /** Stops reading. */
  stop(): void {
    clearInterval(this.#timer);
    this.#subscription?.unsubscribe();
    this.#subscription = undefined;
  }
}
