export type * from "./wire.js";
export type { Settings } from "./connection.js";
export { NatterjackError, NotAllowed, UsageError } from "./errors.js";
export {
  closing,
  type DurableEvent,
  type Event,
  type Stored,
  type UnknownEvent,
} from "./events.js";
export { listen, type Kind, type ListenOptions } from "./listen.js";
export { NatsTransport } from "./nats.js";
export type { Selection } from "./subjects.js";
export type { Arrival, Feed, FeedOptions, Since, Transport } from "./transport.js";
