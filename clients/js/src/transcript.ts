import type { Line, Transcript, TranscriptGap } from "./document.js";
import type { Event } from "./events.js";
import { Stretches } from "./stretches.js";
import { join } from "./text.js";
import { compare, segmentOf, Track, type Placed } from "./track.js";

const PAUSE_SECONDS = 2;

/** A transcript in which no list is absent. */
export type Conversation = Transcript &
  Required<Pick<Transcript, "version" | "open" | "lines" | "interims" | "gaps" | "sessions">>;

/**
 * Makes the transcript of one conversation from its events. Those of one session are added in the
 * order of their `sequence`; one that was added before changes nothing.
 */
export class TranscriptBuilder {
  readonly #tracks = new Map<string, Track>();
  readonly #pause: number;
  #tenant: string;
  #conversation: string;
  #built: Conversation | undefined;

  /** After a pause of more than `pauseSeconds`, a speaker begins a new line. */
  constructor(tenant = "", conversation = "", pauseSeconds = PAUSE_SECONDS) {
    this.#tenant = tenant;
    this.#conversation = conversation;
    this.#pause = pauseSeconds * 1_000_000;
  }

  /** Adds an event. Returns whether it changes the transcript. */
  add(event: Event): boolean {
    if (event.type !== "final" && event.type !== "interim" && event.type !== "status") return false;
    this.#tenant ||= event.tenant;
    this.#conversation ||= event.conversation;
    let track = this.#tracks.get(event.session_id);
    if (track === undefined) {
      track = new Track(this.#tracks.size, event);
      this.#tracks.set(event.session_id, track);
    }
    const changed = track.add(event);
    if (changed) this.#built = undefined;
    return changed;
  }

  /** The transcript of all events that were added. Without a change, the same value again. */
  build(): Conversation {
    this.#built ??= this.#build();
    return this.#built;
  }

  #build(): Conversation {
    const tracks = [...this.#tracks.values()];
    for (const track of tracks) track.startClock();
    const placed: Placed[] = [];
    for (const group of this.#groups(tracks)) {
      let replaced = group.length > 1 ? new Stretches() : undefined;
      for (const track of group) {
        for (const final of track.finals) placed.push(...track.place(final, replaced));
        replaced = replaced?.and(track.coverage(this.#gapsOf(track)));
      }
    }
    placed.sort(compare);
    const interims = tracks.flatMap((track) => track.placeInterim()).sort(compare);
    const origins = tracks.filter((track) => this.#begins(track)).map(({ origin }) => origin!);
    if (placed[0] !== undefined) origins.push(placed[0].start);
    const zero = origins.length > 0 ? Math.min(...origins) : undefined;
    const made: Conversation = {
      version: 1,
      tenant: this.#tenant,
      conversation: this.#conversation,
      open: tracks.some((track) => track.closing === undefined),
      lines: this.#lines(placed, zero ?? 0),
      interims: interims.map((one) => lineOf([one], zero ?? interims[0]!.offset)),
      gaps: this.#gaps(tracks, zero),
      sessions: tracks.map((track) => track.summary()),
    };
    if (zero !== undefined) made.started_at = iso(zero);
    return made;
  }

  /** Whether the audio of a track may be where the conversation starts. */
  #begins(track: Track): boolean {
    const before = this.#tracks.get(track.continues ?? "");
    return track.origin !== undefined && before?.origin === undefined;
  }

  /** Sessions that transcribe the same audio, the newest first: its text replaces that of others. */
  #groups(tracks: Track[]): Track[][] {
    const groups = new Map<string, { depth: number; track: Track }[]>();
    for (const track of tracks) {
      const chain = [track.id];
      for (let known: Track | undefined = track; known?.repeats;) {
        if (chain.includes(known.repeats)) break;
        chain.push(known.repeats);
        known = this.#tracks.get(known.repeats);
      }
      const first = chain.at(-1)!;
      groups.set(first, [...(groups.get(first) ?? []), { depth: chain.length, track }]);
    }
    return [...groups.values()].map((group) =>
      group
        .sort((a, b) => b.depth - a.depth || b.track.number - a.track.number)
        .map(({ track }) => track),
    );
  }

  #lines(placed: Placed[], zero: number): Line[] {
    const lines: Placed[][] = [];
    let until = 0;
    for (const one of placed) {
      const line = lines.at(-1);
      const first = line?.[0];
      const goesOn =
        first?.track.speaker === one.track.speaker &&
        first.label === one.label &&
        one.start - until <= this.#pause;
      if (line !== undefined && goesOn) {
        line.push(one);
        until = Math.max(until, one.end);
      } else {
        lines.push([one]);
        until = one.end;
      }
    }
    return lines.map((line) => lineOf(line, zero));
  }

  #gapsOf(track: Track): ReturnType<Track["gaps"]> {
    return track.gaps(this.#tracks.has(track.closing?.continued_by ?? ""));
  }

  #gaps(tracks: Track[], zero: number | undefined): TranscriptGap[] {
    const found: TranscriptGap[] = [];
    for (const group of this.#groups(tracks)) {
      const gaps = group.map((track) => ({ track, its: this.#gapsOf(track) }));
      let covered = new Stretches();
      for (const { track, its } of gaps) covered = covered.and(track.coverage(its));
      for (const { track, its } of gaps) {
        for (const { stretch, cause } of its) {
          const left = new Stretches([stretch]).without(covered);
          covered = covered.and(left);
          for (const [from, to] of left.all) {
            const offset = track.offsetAt(from);
            const shift = offset === undefined || zero === undefined ? 0 : (offset - zero) / 1e6;
            const [start, end] = [from, to].map((at) => Math.max(0, round(at + shift)));
            const { speaker, id } = track;
            found.push({ speaker, session_id: id, start: start!, end: end!, cause });
          }
        }
      }
    }
    return found.sort(
      (a, b) => a.start - b.start || a.end - b.end || (a.speaker < b.speaker ? -1 : 1),
    );
  }
}

const round = (seconds: number): number => Math.round(seconds * 1e6) / 1e6;

function lineOf(placed: Placed[], zero: number): Line {
  const segments = placed.map((one) => segmentOf(one, zero));
  const line: Line = {
    speaker: placed[0]!.track.speaker,
    start: segments[0]!.start,
    end: Math.max(...segments.map(({ end }) => end)),
    text: join(segments.map(({ text }) => text)),
    kind: "transcribed",
    segments,
  };
  if (placed[0]!.label !== undefined) line.label = placed[0]!.label;
  return line;
}

function iso(time: number): string {
  const seconds = new Date(Math.floor(time / 1_000_000) * 1000).toISOString().slice(0, 19);
  const micros = String(time % 1_000_000).padStart(6, "0");
  return micros === "000000" ? `${seconds}Z` : `${seconds}.${micros}Z`;
}
