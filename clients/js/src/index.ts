export type * from "./wire.js";
export type { Settings } from "./connection.js";
export { NatterjackError, NotAllowed, UsageError } from "./errors.js";
export {
  closing,
  type DurableEvent,
  type Event,
  type Status,
  type Stored,
  type UnknownEvent,
} from "./events.js";
export {
  isMarker,
  listen,
  type CaughtUp,
  type Kind,
  type ListenOptions,
  type Marker,
} from "./listen.js";
export type * from "./document.js";
export { follow, transcript, type FollowOptions } from "./follow.js";
export { TranscriptBuilder, type Conversation } from "./transcript.js";
export { NatsTransport } from "./nats.js";
export type { Selection } from "./subjects.js";
export type {
  Arrival,
  Feed,
  FeedOptions,
  HistoryLost,
  Since,
  StreamReplaced,
  Transport,
} from "./transport.js";
