import { UsageError } from "./errors.js";
import { isMarker, Listener, type ListenOptions } from "./listen.js";
import { TranscriptBuilder, type Conversation } from "./transcript.js";

export interface FollowOptions extends Pick<ListenOptions, "signal" | "settings" | "transport"> {
  tenant: string;
  conversation: string;
  /** `"closed"`: end when all sessions of the conversation have closed. Absent: never end. */
  until?: "closed" | undefined;
  /** Whether interims are a change (default). */
  interims?: boolean | undefined;
  /** After a longer pause, a speaker begins a new line. Default: 2. */
  pauseSeconds?: number | undefined;
}

/**
 * Iterates over the transcripts of a conversation: the one that is stored, and then a new one
 * whenever it changes. A program that takes longer than that gets the newest next, and not those in
 * between. What voice sessions have said is not in it.
 *
 * Throws NotAllowed if the user lacks a right, UsageError.
 */
export async function* follow(options: FollowOptions): AsyncGenerator<Conversation, void, void> {
  const { tenant, conversation, interims = true, until, pauseSeconds, ...rest } = options;
  if (!tenant || !conversation) throw new UsageError("follow needs a tenant and a conversation");
  const listener = new Listener({
    ...rest,
    ...{ tenant, conversation, until, since: "start", markers: true },
    interims: interims ? "latest" : null,
  });
  const builder = new TranscriptBuilder(tenant, conversation, pauseSeconds);
  let caughtUp = false;
  let last: Conversation | undefined;
  try {
    for (let next = await listener.next(); next !== undefined; next = await listener.next()) {
      for (let one: typeof next | undefined = next; one !== undefined; one = listener.ready()) {
        if (isMarker(one)) caughtUp ||= one.type === "caught_up";
        else builder.add(one);
      }
      const newest = builder.build();
      if (caughtUp && newest !== last) yield (last = newest);
    }
    if (builder.build() !== last) yield builder.build();
  } finally {
    await listener.close();
  }
}

/** Returns the transcript of a conversation, as far as it is stored. */
export async function transcript(
  options: Omit<FollowOptions, "until" | "interims">,
): Promise<Conversation> {
  const { tenant, conversation, pauseSeconds, ...rest } = options;
  if (!tenant || !conversation)
    throw new UsageError("transcript needs a tenant and a conversation");
  const listener = new Listener({
    ...rest,
    ...{ tenant, conversation, since: "start", until: "stored", interims: null },
  });
  const builder = new TranscriptBuilder(tenant, conversation, pauseSeconds);
  try {
    for (let next = await listener.next(); next !== undefined; next = await listener.next()) {
      if (!isMarker(next)) builder.add(next);
    }
  } finally {
    await listener.close();
  }
  return builder.build();
}
