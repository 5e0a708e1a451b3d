import { readFile } from "node:fs/promises";
import {
  connect as dial,
  credsAuthenticator,
  errors,
  nkeyAuthenticator,
  usernamePasswordAuthenticator,
  type Authenticator,
  type NatsConnection,
  type NodeConnectionOptions,
  type TlsOptions,
} from "@nats-io/transport-node";
import { NatterjackError, NotAllowed, UsageError } from "./errors.js";

/** How to reach NATS. What is absent comes from the environment, as for natterjack's commands. */
export interface Settings {
  /** `NATS_URL`: server, or several separated by commas. Default: `nats://127.0.0.1:4222`. */
  url?: string;
  /** `NATS_CREDS`: credentials file (JWT and seed). */
  creds?: string;
  /** `NATS_NKEY`: file with an NKey seed. */
  nkey?: string;
  /** `NATS_USER` and `NATS_PASSWORD`. */
  user?: string;
  password?: string;
  /** `NATS_CA`: file with the CA of the server's certificate. */
  ca?: string;
  /** `NATS_CERT` and `NATS_KEY`: files of the client certificate. */
  cert?: string;
  key?: string;
  /** `NATS_INBOX_PREFIX`: each least-privilege user has its own. Default: `_INBOX`. */
  inboxPrefix?: string;
  /** Name of the connection, for the operators of the broker. */
  name?: string;
}

const VARIABLES = {
  url: "NATS_URL",
  creds: "NATS_CREDS",
  nkey: "NATS_NKEY",
  user: "NATS_USER",
  password: "NATS_PASSWORD",
  ca: "NATS_CA",
  cert: "NATS_CERT",
  key: "NATS_KEY",
  inboxPrefix: "NATS_INBOX_PREFIX",
} as const;

const PING_MS = 10_000; // two that are not answered: the connection is lost
const RECONNECT_MS = 1_000;
const DIAL_MS = 5_000;

function fromEnvironment(settings: Settings): Settings {
  const found: Settings = {};
  for (const [name, variable] of Object.entries(VARIABLES)) {
    const value = process.env[variable];
    if (value) found[name as keyof Settings] = value;
  }
  return { ...found, ...settings };
}

async function content(path: string, variable: string): Promise<Uint8Array> {
  try {
    return await readFile(path);
  } catch (error) {
    throw new UsageError(`${variable}: ${(error as Error).message}`);
  }
}

/**
 * Makes a connection to NATS, which is made again whenever it is lost.
 *
 * Throws UsageError for a wrong setting, NotAllowed if the server refuses the user, NatterjackError
 * if no server can be reached.
 */
export async function connect(given: Settings = {}): Promise<NatsConnection> {
  const settings = fromEnvironment(given);
  const authenticators: Authenticator[] = [];
  if (settings.creds) {
    authenticators.push(credsAuthenticator(await content(settings.creds, "NATS_CREDS")));
  }
  if (settings.nkey) {
    const seed = Buffer.from(await content(settings.nkey, "NATS_NKEY"))
      .toString()
      .trim();
    authenticators.push(nkeyAuthenticator(new TextEncoder().encode(seed)));
  }
  if (settings.user) {
    authenticators.push(usernamePasswordAuthenticator(settings.user, settings.password ?? ""));
  }
  const tls: TlsOptions = {};
  if (settings.ca) tls.caFile = settings.ca;
  if (settings.cert) tls.certFile = settings.cert;
  if (settings.key) tls.keyFile = settings.key;
  const options: NodeConnectionOptions = {
    servers: (settings.url ?? "nats://127.0.0.1:4222").split(",").map((server) => server.trim()),
    authenticator: authenticators,
    name: settings.name ?? "natterjack-client",
    maxReconnectAttempts: -1,
    reconnectTimeWait: RECONNECT_MS,
    pingInterval: PING_MS,
    timeout: DIAL_MS,
  };
  if (settings.inboxPrefix) options.inboxPrefix = settings.inboxPrefix;
  if (Object.keys(tls).length > 0) options.tls = tls;
  try {
    return await dial(options);
  } catch (error) {
    throw explained(error);
  }
}

/** Returns the error with which a connection ended, or could not be made, in our words. */
export function explained(error: unknown): Error {
  if (error instanceof NatterjackError) return error;
  if (
    error instanceof errors.AuthorizationError ||
    error instanceof errors.UserAuthenticationExpiredError
  ) {
    return new NotAllowed(
      `the server refuses the credentials: ${error.message} (NATS_CREDS, NATS_NKEY, NATS_USER)`,
    );
  }
  if (error instanceof errors.PermissionViolationError) return refusal(error);
  const cause = error instanceof Error ? error : new Error(String(error));
  return new NatterjackError(`no connection to NATS: ${cause.message || cause.name}`, { cause });
}

/** Returns the error of a user that lacks a right. */
export function refusal(error: InstanceType<typeof errors.PermissionViolationError>): NotAllowed {
  const inbox = error.operation === "subscription" && !error.subject.startsWith("stt.");
  return new NotAllowed(
    `the user may not ${error.operation === "publish" ? "publish to" : "subscribe to"} ` +
      `${error.subject}: ` +
      (inbox
        ? "set NATS_INBOX_PREFIX to the user's own, which `natterjack users list` shows"
        : "the administrator of the broker grants it with `natterjack users`"),
  );
}
