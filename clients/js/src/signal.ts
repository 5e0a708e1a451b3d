/** A wait for the next of several occasions; one that comes before the wait is not lost. */
export class Signal {
  #happened = false;
  #failure: Error | undefined;
  #waiting: { resolve: () => void; reject: (error: Error) => void } | undefined;

  /** Ends the wait. */
  set(): void {
    this.#happened = true;
    this.#waiting?.resolve();
    this.#waiting = undefined;
  }

  /** Makes this wait and all later ones fail. */
  fail(error: Error): void {
    this.#failure ??= error;
    this.#waiting?.reject(this.#failure);
    this.#waiting = undefined;
  }

  /** Resolves at once if something has happened since the last call, else when it does. */
  wait(): Promise<void> {
    if (this.#failure !== undefined) return Promise.reject(this.#failure);
    if (this.#happened) {
      this.#happened = false;
      return Promise.resolve();
    }
    return new Promise<void>((resolve, reject) => {
      this.#waiting = { resolve, reject };
    }).then(() => {
      this.#happened = false;
    });
  }
}

/** Waits so long, or until `signal` is aborted. */
export function pause(milliseconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const end = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", end);
      resolve();
    };
    const timer = setTimeout(end, milliseconds);
    signal.addEventListener("abort", end);
    if (signal.aborted) end();
  });
}
