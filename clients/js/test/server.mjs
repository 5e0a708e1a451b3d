// A real nats-server with the stream of transcripts, and events to put into it.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { connect } from "@nats-io/transport-node";

const BESIDE = fileURLToPath(new URL("../../../.venv/bin/nats-server", import.meta.url));
const BINARY = existsSync(BESIDE) ? BESIDE : "nats-server";

const SECONDS = 60 * Number(process.env.TEST_SLOWDOWN ?? 1);

// What a failed test has left open must not keep the process.
after(() => setTimeout(() => process.exit(), 5_000).unref());

/** Waits until `look` returns something true, and returns it. */
export async function until(look, what, seconds = SECONDS) {
  for (const end = Date.now() + seconds * 1000; Date.now() < end; await sleep(20)) {
    const found = await look();
    if (found) return found;
  }
  throw new Error(`not in ${seconds} s: ${what}`);
}

export class Server {
  #process;
  #connection;
  store;
  port = -1;

  /** Starts a server in a folder of its own. */
  static async started() {
    const server = new Server();
    server.store = await mkdtemp(join(tmpdir(), "natterjack-js-"));
    await server.start();
    await server.makeStream();
    return server;
  }

  get url() {
    return `nats://127.0.0.1:${this.port}`;
  }

  async start() {
    const args = ["-js", "-sd", this.store, "-a", "127.0.0.1", "-p", String(this.port)];
    const ports = join(this.store, "ports");
    await rm(ports, { recursive: true, force: true });
    await mkdir(ports);
    this.#process = spawn(BINARY, [...args, "--ports_file_dir", ports], { stdio: "ignore" });
    const process_ = this.#process;
    process.once("exit", () => process_.kill("SIGKILL"));
    this.port = await until(async () => {
      const [file] = (await readdir(ports)).filter((name) => name.endsWith(".ports"));
      if (!file) return undefined;
      try {
        return Number(
          JSON.parse(await readFile(join(ports, file), "utf8"))
            .nats[0].split(":")
            .at(-1),
        );
      } catch {
        return undefined; // partly written
      }
    }, "the server listens");
    this.#connection = await connect({ servers: this.url });
  }

  /** Ends the server as a crash does. */
  async kill() {
    await this.#connection?.close();
    const ended = once(this.#process, "exit");
    this.#process.kill("SIGKILL");
    await ended;
  }

  /** Sends the process a signal, such as SIGSTOP, which freezes it. */
  signal(name) {
    this.#process.kill(name);
  }

  async restart() {
    await this.kill();
    await this.start();
  }

  async stop() {
    await this.kill();
    await rm(this.store, { recursive: true, force: true });
  }

  async request(subject, body = {}) {
    const answer = (await this.#connection.request(subject, JSON.stringify(body))).json();
    if (answer.error) throw new Error(`${subject}: ${answer.error.description}`);
    return answer;
  }

  async makeStream(name = "STT_TRANSCRIPTS") {
    const subjects = ["final", "turn", "status", "usage", "notice", "later"].map(
      (kind) => `stt.transcript.*.*.*.${kind}`,
    );
    await this.request(`$JS.API.STREAM.CREATE.${name}`, { name, subjects, storage: "file" });
  }

  async removeStream(name = "STT_TRANSCRIPTS") {
    await this.request(`$JS.API.STREAM.DELETE.${name}`);
  }

  /** Stores an event. */
  async put(event) {
    await this.request(subjectOf(event), event);
  }

  /** Publishes an event that is not stored. */
  async live(event) {
    this.#connection.publish(subjectOf(event), JSON.stringify(event));
    await this.#connection.flush();
  }

  /** Waits until all readers have received what is stored. */
  async settled() {
    await until(async () => {
      const { consumers } = await this.request("$JS.API.CONSUMER.LIST.STT_TRANSCRIPTS");
      return (consumers ?? []).every(({ num_pending }) => num_pending === 0);
    }, "all is delivered");
    await this.#connection.flush();
  }

  /** Waits until so many readers read a conversation. */
  async readers(count, { conversation }) {
    await until(async () => {
      const { consumers } = await this.request("$JS.API.CONSUMER.LIST.STT_TRANSCRIPTS");
      const own = (consumers ?? []).filter(({ config }) =>
        config.filter_subject.includes(`.${conversation}.`),
      );
      return own.length === count;
    }, `${count} read ${conversation}`);
  }
}

function subjectOf({ tenant, conversation, speaker, type }) {
  return ["stt.transcript", tenant, conversation, speaker, type].join(".");
}

/** Makes the events of one session. */
export class Session {
  #sequence = 0;
  segment = 0;

  constructor(key = {}, id = `session-${Math.random().toString(36).slice(2)}`) {
    this.common = {
      ...{ tenant: "acme", conversation: "call", speaker: "agent", ...key },
      session_id: id,
      epoch: 1,
    };
  }

  #made(members) {
    return { ...this.common, published_at: new Date().toISOString(), ...members };
  }

  durable(type, members) {
    return this.#made({ type, sequence: this.#sequence++, ...members });
  }

  final(text = `word${this.segment}`, members = {}) {
    const segment = this.segment++;
    const times = { start: segment, end: segment + 0.9 };
    return this.durable("final", { segment, text, ...times, ...members });
  }

  interim(text, members = {}) {
    const times = { start: this.segment, end: this.segment + 0.5 };
    return this.#made({ type: "interim", segment: this.segment, text, ...times, ...members });
  }

  status(state, members = {}) {
    return this.durable("status", { state, worker: "w", ...members });
  }
}
