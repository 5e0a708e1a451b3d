// The gateway's API: requests with the right secret, and a stream of events that never ends.

import { Parser } from "./sse.js";

/** The address of the gateway, which may be below a path. */
export const ROOT = new URL("../", import.meta.url);

const STORED = "natterjack.token";
const ALL_DOORS = ["api", "deepgram"];
const RENEW_AT = 0.8; // of a token's life
const SILENCE_MS = 40_000; // the gateway sends something every 15 s
const WAIT_MS = [500, 1000, 2000, 5000];

/** The gateway refused a request, or did not answer. */
export class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }

  /** Whether another secret may help, and nothing else does. */
  get refused() {
    return this.status === 401 || this.status === 403;
  }
}

/**
 * What a client may do, and its secret.
 *
 * A key is exchanged for a token that ends soon. The token is kept for this tab, so that it survives
 * a reload; the key, which renews it, only in memory.
 */
export class Access {
  #key;
  #token;
  #renewal;
  /** The answer of `/api/me`. */
  me;
  /** Called when there is no valid secret any more. */
  onExpired = () => {};

  constructor(secret) {
    this.#token = secret ?? stored();
  }

  get secret() {
    return this.#token;
  }

  /** Asks what the client may do. Throws ApiError. */
  async enter() {
    this.me = await this.json("api/me");
    return this.me;
  }

  /** Exchanges a key for a token. Throws ApiError. */
  async login(key) {
    this.#key = key;
    this.#token = key;
    const me = await this.enter();
    await this.#renew(ALL_DOORS.filter((door) => me.doors.includes(door)));
    return me;
  }

  async #renew(doors) {
    try {
      this.#token = this.#key;
      const { token, expires_at } = await this.json("api/tokens", { body: { doors } });
      this.#token = token;
      store(token);
      const life = Date.parse(expires_at) - Date.now();
      clearTimeout(this.#renewal);
      this.#renewal = setTimeout(() => {
        this.#renew(doors).catch(() => this.onExpired());
      }, Math.max(1000, life * RENEW_AT));
    } catch (error) {
      // A gateway that makes no tokens: the key itself, until the tab is closed or loaded again.
      if (error.status !== 400) throw error;
    }
  }

  /** A token for one conversation. Throws ApiError. */
  async tokenFor(conversation, kinds) {
    const before = this.#token;
    if (this.#key === undefined) throw new ApiError("sign in again with the key", 401);
    try {
      this.#token = this.#key;
      return await this.json("api/tokens", { body: { conversation, kinds } });
    } finally {
      this.#token = before;
    }
  }

  logout() {
    clearTimeout(this.#renewal);
    this.#key = this.#token = this.me = undefined;
    store(undefined);
  }

  /** Sends a request. Throws ApiError. */
  async fetch(path, { body, ...options } = {}) {
    const headers = { ...options.headers };
    if (this.#token !== undefined) headers["Authorization"] = `Bearer ${this.#token}`;
    if (body !== undefined) {
      headers["Content-Type"] = "application/json";
      options = { ...options, method: "POST", body: JSON.stringify(body) };
    }
    let response;
    try {
      response = await fetch(new URL(path, ROOT), { cache: "no-store", ...options, headers });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError("the gateway does not answer", 0);
    }
    if (response.ok) return response;
    let message = `the gateway answered ${response.status}`;
    try {
      message = (await response.json()).error ?? message;
    } catch {
      // no JSON: a proxy answers
    }
    throw new ApiError(message, response.status);
  }

  async json(path, options) {
    return (await this.fetch(path, options)).json();
  }
}

function stored() {
  try {
    return sessionStorage.getItem(STORED) ?? undefined;
  } catch {
    return undefined; // storage is switched off
  }
}

function store(token) {
  try {
    if (token === undefined) sessionStorage.removeItem(STORED);
    else sessionStorage.setItem(STORED, token);
  } catch {
    // the token is kept in memory alone
  }
}

/**
 * Follows a conversation until `stop`, over any number of lost connections.
 *
 * EventSource can set no header, so a secret would have to be in the address, and addresses end up
 * in logs. This reads the same stream with `fetch`.
 */
export class Stream {
  #access;
  #path;
  #since;
  #parser = new Parser();
  #abort;
  #stopped = false;
  #failures = 0;
  #wake = () => {};
  /** Called with each event. */
  onEvent = () => {};
  /** Called with `connecting`, `open`, `lost` or `refused`, and a reason. */
  onState = () => {};

  constructor(access, conversation, { since = "start", kinds } = {}) {
    this.#access = access;
    this.#since = since;
    const query = kinds === undefined ? "" : `&kinds=${kinds.join(",")}`;
    this.#path = `api/conversations/${encodeURIComponent(conversation)}/events?since=`;
    this.query = query;
  }

  start() {
    addEventListener("online", this.#online);
    this.#run();
    return this;
  }

  stop() {
    this.#stopped = true;
    removeEventListener("online", this.#online);
    this.#abort?.abort();
    this.#wake();
  }

  #online = () => this.#wake();

  async #run() {
    while (!this.#stopped) {
      this.onState(this.#failures === 0 ? "connecting" : "lost");
      let reason = "";
      try {
        await this.#once();
      } catch (error) {
        reason = error.message;
        if (error.refused || error.status === 404 || error.status === 400) {
          if (!this.#stopped) this.onState("refused", reason, error.status);
          return;
        }
      }
      if (this.#stopped) return;
      const wait = WAIT_MS[Math.min(this.#failures, WAIT_MS.length - 1)];
      this.#failures += 1;
      this.onState("lost", reason);
      await this.#pause(wait * (0.75 + Math.random() / 2));
    }
  }

  #pause(milliseconds) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, milliseconds);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  async #once() {
    this.#abort = new AbortController();
    this.#parser.reset();
    const last = this.#parser.lastId;
    const secret = this.#access.secret;
    const response = await this.#access.fetch(this.#path + this.#since + this.query, {
      headers: { Accept: "text/event-stream", ...(last ? { "Last-Event-ID": last } : {}) },
      signal: this.#abort.signal,
    });
    this.onState("open");
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let watchdog;
    const silence = () => this.#abort.abort();
    try {
      for (;;) {
        clearTimeout(watchdog);
        watchdog = setTimeout(silence, SILENCE_MS);
        const { value, done } = await reader.read();
        if (done) return;
        this.#failures = 0;
        for (const event of this.#parser.push(value)) {
          if (event.type === "expired") {
            if (secret !== this.#access.secret) return; // it was renewed
            throw new ApiError("the token has expired", 401);
          }
          this.onEvent(event);
        }
      }
    } finally {
      clearTimeout(watchdog);
      this.#abort.abort();
    }
  }
}
