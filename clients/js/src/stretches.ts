/** A stretch of audio: start and end in seconds. */
export type Stretch = readonly [number, number];

/** Stretches that do not overlap, in order: which parts of audio a session has transcribed. */
export class Stretches {
  readonly all: readonly Stretch[];

  constructor(stretches: Iterable<Stretch> = []) {
    const merged: [number, number][] = [];
    const sorted = [...stretches].filter(([start, end]) => start < end);
    sorted.sort((a, b) => a[0] - b[0] || a[1] - b[1]);
    for (const [start, end] of sorted) {
      const last = merged.at(-1);
      if (last !== undefined && start <= last[1]) last[1] = Math.max(last[1], end);
      else merged.push([start, end]);
    }
    this.all = merged;
  }

  has(at: number): boolean {
    return this.all.some(([start, end]) => start <= at && at < end);
  }

  and(other: Stretches): Stretches {
    return new Stretches([...this.all, ...other.all]);
  }

  without(other: Stretches): Stretches {
    const left: Stretch[] = [];
    for (const [start, end] of this.all) {
      let from = start;
      for (const [gone, until] of other.all) {
        if (gone >= end || until <= start) continue;
        left.push([from, Math.max(gone, start)]);
        from = Math.min(until, end);
      }
      left.push([from, end]);
    }
    return new Stretches(left);
  }
}
