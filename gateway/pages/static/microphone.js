// Speaks into the gateway's own door for Deepgram clients.

import { ROOT } from "./api.js";

const RATE = 16_000;
const MOST_WAITING = 30 * 16_000 * 2; // bytes that wait for a connection
const CLOSE_MS = 10_000;
const WAIT_MS = [300, 1000, 2000, 5000];

/** The microphone of this browser, as one speaker of a conversation. */
export class Microphone {
  #access;
  #media;
  #context;
  #node;
  #socket;
  #url;
  #protocols;
  #waiting = [];
  #waitingBytes = 0;
  #failures = 0;
  #stopping = false;
  #retry;
  /** Called with the peak level, from 0 to 1, several times a second. */
  onLevel = () => {};
  /** Called when it has ended, with the reason if that was an error. */
  onEnd = () => {};

  constructor(access) {
    this.#access = access;
  }

  /** Throws an Error that says why there is no microphone. */
  async start(conversation, speaker) {
    if (navigator.mediaDevices === undefined) {
      throw new Error("A browser lets a page use the microphone only over HTTPS or on this machine");
    }
    try {
      this.#media = await navigator.mediaDevices.getUserMedia({
        audio: { channelCount: 1, echoCancellation: true, noiseSuppression: true, autoGainControl: true },
      });
    } catch (error) {
      throw new Error(error.name === "NotFoundError" ? "This machine has no microphone"
        : "The browser does not allow this page to use the microphone");
    }
    let source;
    try {
      this.#context = new AudioContext({ sampleRate: RATE });
      source = this.#context.createMediaStreamSource(this.#media);
    } catch {
      this.#context?.close();
      this.#context = new AudioContext(); // a browser that does not resample: the worker does
      source = this.#context.createMediaStreamSource(this.#media);
    }
    await this.#context.audioWorklet.addModule(new URL("microphone-worklet.js", import.meta.url));
    this.#node = new AudioWorkletNode(this.#context, "collector", { numberOfOutputs: 0 });
    this.#node.port.onmessage = ({ data }) => this.#collected(data);
    this.#media.getAudioTracks()[0].onended = () => this.stop();
    this.#open(conversation, speaker);
    source.connect(this.#node);
  }

  #open(conversation, speaker) {
    this.#url = new URL("v1/listen", ROOT);
    this.#url.protocol = this.#url.protocol.replace("http", "ws");
    this.#url.search = new URLSearchParams({
      encoding: "linear16", sample_rate: String(this.#context.sampleRate), channels: "1",
      interim_results: "true", punctuate: "true", smart_format: "true", conversation, speaker,
    });
    // The ID joins a connection to the session of the one that was lost.
    this.#protocols = ["x-deepgram-session-id", crypto.randomUUID()];
    if (this.#access.secret !== undefined) {
      this.#protocols = ["token", this.#access.secret, ...this.#protocols];
    }
    this.#connect();
  }

  #connect() {
    const socket = new WebSocket(this.#url, this.#protocols);
    let opened = false;
    this.#socket = socket;
    socket.onopen = () => {
      opened = true;
      for (const chunk of this.#waiting) socket.send(chunk);
      this.#waiting = [];
      this.#waitingBytes = 0;
      if (this.#stopping) socket.send(JSON.stringify({ type: "CloseStream" }));
    };
    socket.onmessage = () => (this.#failures = 0);
    socket.onclose = ({ code, reason }) => {
      if (this.#stopping || code === 1000) return this.#end();
      if (!opened && this.#failures >= WAIT_MS.length) {
        return this.#end(reason || "the gateway does not take audio");
      }
      const wait = WAIT_MS[Math.min(this.#failures++, WAIT_MS.length - 1)];
      this.#retry = setTimeout(() => this.#connect(), wait);
    };
  }

  #collected({ samples, peak, ended }) {
    if (ended) return this.#finish();
    this.onLevel(peak);
    if (this.#socket?.readyState === WebSocket.OPEN) return this.#socket.send(samples);
    this.#waiting.push(samples);
    this.#waitingBytes += samples.byteLength;
    while (this.#waitingBytes > MOST_WAITING) this.#waitingBytes -= this.#waiting.shift().byteLength;
  }

  /** Ends, once the last words are there. Idempotent. */
  stop() {
    if (this.#stopping) return;
    this.#stopping = true;
    for (const track of this.#media?.getTracks() ?? []) track.stop();
    if (this.#node === undefined) this.#end();
    else this.#node.port.postMessage("end");
  }

  #finish() {
    if (this.#socket?.readyState === WebSocket.OPEN) {
      this.#socket.send(JSON.stringify({ type: "CloseStream" }));
    }
    setTimeout(() => this.#end(), CLOSE_MS);
  }

  #end(problem) {
    if (this.#context === undefined) return;
    this.#stopping = true;
    clearTimeout(this.#retry);
    for (const track of this.#media?.getTracks() ?? []) track.stop();
    this.#context.close();
    this.#context = undefined;
    this.#socket?.close();
    this.onEnd(problem);
  }
}
