// Collects what the microphone hears, as 16-bit samples, off the page's own thread.

const CHUNK_MS = 80;

class Collector extends AudioWorkletProcessor {
  #chunk = new Int16Array(Math.round((sampleRate * CHUNK_MS) / 1000));
  #filled = 0;
  #peak = 0;
  #ended = false;

  constructor() {
    super();
    this.port.onmessage = () => {
      this.#send();
      this.#ended = true;
      this.port.postMessage({ ended: true });
    };
  }

  process([input]) {
    const samples = input?.[0];
    for (let index = 0; samples !== undefined && index < samples.length; index++) {
      const sample = Math.max(-1, Math.min(1, samples[index]));
      this.#peak = Math.max(this.#peak, Math.abs(sample));
      this.#chunk[this.#filled++] = Math.round(sample * 32767);
      if (this.#filled === this.#chunk.length) this.#send();
    }
    return !this.#ended;
  }

  #send() {
    if (this.#filled === 0) return;
    const samples = this.#chunk.slice(0, this.#filled);
    this.port.postMessage({ samples: samples.buffer, peak: this.#peak }, [samples.buffer]);
    this.#filled = 0;
    this.#peak = 0;
  }
}

registerProcessor("collector", Collector);
