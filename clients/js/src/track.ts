import type { Segment, TimedWord, TranscriptSession } from "./document.js";
import type { DurableEvent, Event, Status } from "./events.js";
import { closing } from "./events.js";
import { Stretches, type Stretch } from "./stretches.js";
import { clean } from "./text.js";
import type { FinalEvent, InterimEvent, Word } from "./wire.js";

const CLOCK_STEP_US = 1_000_000; // a wall clock that is later by more was set, and is followed

type Spoken = FinalEvent | InterimEvent;

/** Microseconds since 1970 of a time as events have it. */
function microseconds(time: string): number {
  const [, fraction = ""] = /\.(\d+)/.exec(time) ?? [];
  const whole = Date.parse(time.replace(/\.\d+/, ""));
  return whole * 1000 + Number(fraction.padEnd(6, "0").slice(0, 6));
}

const us = (seconds: number): number => Math.round(seconds * 1_000_000);

/** A segment on the wall clock. */
export interface Placed {
  start: number;
  end: number;
  track: Track;
  number: number;
  part: number;
  label: string | undefined;
  text: string;
  words: Word[];
  /** Wall-clock time of position 0. */
  offset: number;
  event: Spoken;
}

/** The order of segments: by time, then as their session has them. */
export function compare(a: Placed, b: Placed): number {
  return (
    a.start - b.start || a.track.number - b.track.number || a.number - b.number || a.part - b.part
  );
}

/** Returns the segment on the clock of the conversation, which starts at `zero`. */
export function segmentOf(placed: Placed, zero: number): Segment {
  const seconds = (time: number) => Math.max(0, time - zero) / 1_000_000;
  const { confidence, language } = placed.event;
  const words = placed.words.map((word): TimedWord => {
    const made: TimedWord = { text: clean(word.text) };
    if (word.start != null) made.start = seconds(placed.offset + us(word.start));
    if (word.end != null) made.end = seconds(placed.offset + us(word.end));
    if (word.confidence != null) made.confidence = word.confidence;
    return made;
  });
  const segment: Segment = {
    session_id: placed.track.id,
    segment: placed.number,
    text: placed.text,
    start: seconds(placed.start),
    end: seconds(placed.end),
    words,
    interrupted: false,
  };
  if (confidence != null) segment.confidence = confidence;
  if (language != null) segment.language = language;
  return segment;
}

/** One session: its events, and the segments that they make. */
export class Track {
  readonly id: string;
  readonly speaker: string;
  readonly repeats: string | undefined;
  readonly continues: string | undefined;
  readonly finals: (FinalEvent & DurableEvent)[] = []; // in the order of their segments
  interim: InterimEvent | undefined;
  closing: Status | undefined;
  /** Wall-clock time of position 0, as the first final has it. */
  origin: number | undefined;
  #offsets: { from: number; offset: number }[] = [];
  #epoch = 0;
  #state = "open";
  #reason: string | undefined;
  #statusSequence = -1;

  constructor(
    readonly number: number,
    first: Exclude<Event, { type: "unknown" }>,
  ) {
    this.id = first.session_id;
    this.speaker = first.speaker;
    this.repeats = first.repeats ?? undefined;
    this.continues = first.continues ?? undefined;
  }

  /** Segment of the last final; -1 before the first. */
  get #last(): number {
    return this.finals.at(-1)?.segment ?? -1;
  }

  /** Adds an event. Returns whether it changes the transcript. */
  add(event: Event): boolean {
    if (event.type === "interim") {
      const stale = event.epoch < this.#epoch || event.segment <= this.#last;
      if (this.closing !== undefined || stale) return false;
      this.interim = event;
      return true;
    }
    if (event.type !== "final" && event.type !== "status") return false;
    this.#epoch = Math.max(this.#epoch, event.epoch);
    if (event.type === "final") {
      if (this.finals.some(({ segment }) => segment === event.segment)) return false;
      const at = this.finals.findIndex(({ segment }) => segment > event.segment);
      this.finals.splice(at < 0 ? this.finals.length : at, 0, event);
      if (this.interim !== undefined && this.interim.segment <= this.#last)
        this.interim = undefined;
      return true;
    }
    if (event.sequence <= this.#statusSequence) return false;
    this.#statusSequence = event.sequence;
    this.#state = event.state;
    this.#reason = event.reason ?? undefined;
    if (closing(event)) {
      this.closing = event;
      this.interim = undefined;
    }
    return true;
  }

  /** The session as the transcript lists it. */
  summary(): TranscriptSession {
    const { id, speaker, repeats, continues } = this;
    const summary: TranscriptSession = {
      session_id: id,
      speaker,
      kind: "transcribed",
      state: this.#state,
      open: this.closing === undefined,
    };
    if (this.#reason !== undefined) summary.reason = this.#reason;
    if (repeats !== undefined) summary.repeats = repeats;
    if (continues !== undefined) summary.continues = continues;
    return summary;
  }

  // ---- clock -----------------------------------------------------------------------------------

  /** Sets the wall-clock time of position 0, before the first final is placed. */
  startClock(): void {
    const [first] = this.finals;
    const timed = this.finals.find(({ started_at }) => started_at != null);
    this.origin = timed ? seenOffset(timed) : first && estimatedOffset(first);
    this.#offsets = this.origin === undefined ? [] : [{ from: 0, offset: this.origin }];
  }

  /** The wall-clock time of position 0 that is valid at a position. */
  offsetAt(seconds: number): number | undefined {
    const before = this.#offsets.filter(({ from }) => from <= seconds);
    return (before.at(-1) ?? this.#offsets[0])?.offset ?? this.origin;
  }

  /** Follows a clock that is set forward, but not back: the order of finals must stay. */
  #offset(event: Spoken): number {
    const seen = seenOffset(event);
    const offset = this.#offsets.at(-1)?.offset;
    if (offset === undefined) return seen ?? estimatedOffset(event);
    return seen !== undefined && seen - offset > CLOCK_STEP_US ? seen : offset;
  }

  // ---- segments --------------------------------------------------------------------------------

  /** The segments of a final, which follows those that were placed before. */
  place(final: FinalEvent, replaced: Stretches | undefined): Placed[] {
    const offset = this.#offset(final);
    if (offset !== this.#offsets.at(-1)?.offset) this.#offsets.push({ from: final.start, offset });
    return this.#place(final, offset, replaced);
  }

  /** The segments of the newest interim. */
  placeInterim(): Placed[] {
    if (this.interim === undefined) return [];
    return this.#place(this.interim, this.#offset(this.interim), undefined);
  }

  #place(event: Spoken, offset: number, replaced: Stretches | undefined): Placed[] {
    return partsOf(event, replaced)
      .map(({ text, start, end, words }, part) => ({
        start: offset + us(start),
        end: offset + us(Math.max(start, end)),
        track: this,
        number: event.segment,
        part,
        label: words[0]?.speaker ?? undefined,
        text: clean(text),
        words,
        offset,
        event,
      }))
      .filter(({ text }) => text !== "");
  }

  // ---- coverage --------------------------------------------------------------------------------

  /** The rate of positions in hertz, and the request, as far as the closing event tells. */
  get #request(): { rate: number; start: unknown } | undefined {
    const request = this.closing?.request;
    const rate = request?.["sample_rate"];
    if (!request || !Number.isInteger(rate) || Number(rate) <= 0) return undefined;
    return { rate: Number(rate), start: request["start_position"] ?? 0 };
  }

  /** Where the session's audio begins, in seconds, if that is known. */
  get #start(): number | undefined {
    const known = this.#request;
    if (known !== undefined)
      return Number.isInteger(known.start) ? Number(known.start) / known.rate : 0;
    return this.continues === undefined ? 0 : undefined;
  }

  /** Where the session has ended, in seconds, if that is known. */
  get #end(): number | undefined {
    const position = this.closing?.audio_position;
    const known = this.#request;
    return known === undefined || position == null ? undefined : position / known.rate;
  }

  /** Stretches without a transcript, and why. `continued`: another session has the rest. */
  gaps(continued: boolean): { stretch: Stretch; cause: string }[] {
    const found: { stretch: Stretch; cause: string }[] = [];
    const account = this.closing?.account;
    const [begin, end] = [this.#start, this.#end];
    if (account != null) {
      for (const { start, end, cause } of account.gaps ?? [])
        found.push({ stretch: [start, end], cause });
      const failed = this.closing?.state === "failed" && !continued;
      if (failed && begin !== undefined && end !== undefined) {
        found.push({ stretch: [end, begin + (account.captured_seconds ?? 0)], cause: "failed" });
      }
    }
    let expected = 0;
    let at = begin;
    for (const final of this.finals) {
      if (final.segment > expected && at !== undefined) {
        found.push({ stretch: [at, final.start], cause: "expired" });
      }
      expected = final.segment + 1;
      at = final.end;
    }
    return found.filter(({ stretch: [from, to] }) => from < to);
  }

  /** What the session has transcribed. */
  coverage(gaps: { stretch: Stretch }[]): Stretches {
    const last = this.finals.at(-1)?.end ?? 0;
    let end = last;
    if (this.closing !== undefined) {
      end = this.#end ?? (this.closing.state === "failed" ? last : Number.POSITIVE_INFINITY);
    }
    const whole = new Stretches([[this.#start ?? 0, end]]);
    return whole.without(new Stretches(gaps.map(({ stretch }) => stretch)));
  }
}

function seenOffset(event: Spoken): number | undefined {
  return event.started_at == null ? undefined : microseconds(event.started_at) - us(event.start);
}

/** The wall-clock time of position 0, as far as the time of publication tells it. */
function estimatedOffset(event: Spoken): number {
  return microseconds(event.published_at) - us(event.end + (event.latency ?? 0));
}

interface Part {
  text: string;
  start: number;
  end: number;
  words: Word[];
}

/** The parts of an event: each of one person, and without what lies in `replaced`. */
function partsOf(event: Spoken, replaced: Stretches | undefined): Part[] {
  const { text, start, end, words = [] } = event;
  const whole = [{ text, start, end, words }];
  const people = new Set(words.map(({ speaker }) => speaker ?? undefined));
  if (replaced === undefined && people.size <= 1) return whole;
  const slices = slicesOf(text, words);
  if (slices === undefined) return replaced?.has((start + end) / 2) ? [] : whole;
  const runs: number[][] = [[]];
  words.forEach((word, n) => {
    const middle = ((word.start ?? start) + (word.end ?? end)) / 2;
    const before = words[runs.at(-1)?.at(-1) ?? -1];
    if (replaced?.has(middle)) runs.push([]);
    else if (before && (before.speaker ?? undefined) !== (word.speaker ?? undefined))
      runs.push([n]);
    else runs.at(-1)?.push(n);
  });
  return runs
    .filter((run) => run.length > 0)
    .map((run) => {
      const [first, last] = [run[0]!, run.at(-1)!];
      return {
        text: run.map((n) => slices[n]).join(""),
        start: first === 0 ? start : (words[first]?.start ?? start),
        end: last === words.length - 1 ? end : (words[last]?.end ?? end),
        words: run.map((n) => words[n]!),
      };
    });
}

/** The part of `text` that each word has, up to the next one; undefined if they do not match. */
function slicesOf(text: string, words: Word[]): string[] | undefined {
  const starts: number[] = [];
  let at = 0;
  for (const word of words) {
    const found = word.text ? text.indexOf(word.text, at) : -1;
    if (found < 0) return undefined;
    starts.push(found);
    at = found + word.text.length;
  }
  if (starts.length === 0) return undefined;
  starts[0] = 0;
  return starts.map((start, n) => text.slice(start, starts[n + 1] ?? text.length));
}
