// The list of conversations, and the sessions of one.

import { colorOf, make, reconcile, set, text } from "./dom.js";
import { ago, duration, money, short, words } from "./format.js";
import { withoutDigits } from "./model.js";

const ATTENTION = new Set(["recovering", "queued", "waiting", "gone?", "handed over", "no audio"]);
const BAD = new Set(["failed", "lost"]);
const BEHIND_S = 2; // of lag, from which it is shown

/** The class of the dot for a state. */
export function dotOf(open, state) {
  if (BAD.has(state)) return "dot bad";
  if (!open) return "dot";
  return ATTENTION.has(state) ? "dot attention" : "dot open";
}

/** Shows the conversations of `/api/conversations`; `current` is the one that is open. */
export function showConversations(list, conversations, current) {
  reconcile(
    list,
    conversations,
    (one) => one.conversation,
    (one) =>
      make(
        "li",
        {},
        make(
          "a",
          { class: "card", href: `#/c/${encodeURIComponent(one.conversation)}` },
          make("div", { class: "card-head" },
            make("span", { class: "dot" }),
            make("bdi", { class: "card-name" }),
            make("span", { class: "card-time" })),
          make("p", { class: "card-words", dir: "auto" }),
          make("div", { class: "card-facts" }),
        ),
      ),
    (element, one) => {
      const card = element.firstElementChild;
      set(card, "aria-current", one.conversation === current ? "page" : undefined);
      const [head, said, facts] = card.children;
      const [dot, name, time] = head.children;
      dot.className = dotOf(one.open, one.state);
      text(name, one.conversation);
      const when = Date.parse((one.open ? one.opened_at : one.last_at) ?? one.last_at);
      text(time, Number.isNaN(when) ? "" : one.open ? duration((Date.now() - when) / 1000)
        : ago(Date.now() - when));
      text(said, one.last_words ?? "");
      said.hidden = !one.last_words;
      const speakers = new Set(one.sessions.map((session) => session.speaker));
      const providers = new Set(one.sessions.map((each) => each.provider).filter(Boolean));
      const parts = [
        speakers.size === 1 ? withoutDigits([...speakers][0]) : `${speakers.size} speakers`,
        one.open && one.state !== "streaming" ? words(one.state) : !one.open && BAD.has(one.state)
          ? words(one.state) : "",
        [...providers].join(", "),
        one.open && one.lag_seconds > BEHIND_S ? `${short(one.lag_seconds)} behind` : "",
        money(one.cost),
      ];
      text(facts, parts.filter((part) => part !== "").join("  ·  "));
    },
  );
}

/** Shows the sessions of a conversation: as their events tell, and as the worker reports. */
export function showSessions(list, conversation, reported) {
  const byId = new Map((reported?.sessions ?? []).map((each) => [each.session_id, each]));
  const known = conversation.sessions.map((session) => ({ session, row: byId.get(session.id) }));
  const ids = new Set(conversation.sessions.map((session) => session.id));
  for (const row of reported?.sessions ?? []) {
    if (!ids.has(row.session_id)) known.push({ row });
  }
  const open = ({ session, row }) => (session ? !session.closed : row.open);
  known.sort((a, b) => Number(open(b)) - Number(open(a)));
  reconcile(
    list,
    known.slice(0, 50),
    ({ session, row }) => session?.id ?? row.session_id ?? row.speaker,
    () =>
      make("li", { class: "session" },
        make("div", { class: "session-head" },
          make("span", { class: "dot" }),
          make("bdi", { class: "session-name" }),
          make("span", { class: "session-state" })),
        make("dl")),
    (element, { session, row }) => {
      const speaker = session?.speaker ?? row.speaker;
      const state = session?.closed ? session.state : (row?.state ?? session?.state ?? "");
      element.className = `session ${colorOf(conversation.speaker(speaker))}`;
      const [head, facts] = element.children;
      const [dot, name, shown] = head.children;
      dot.className = dotOf(open({ session, row }), words(state));
      text(name, conversation.nameOf({ speaker }));
      text(shown, words(state));
      const rows = factsOf(session, row);
      reconcile(facts, rows.flatMap(([label, value]) => [[label, label], [`${label}=`, value]]),
        ([key]) => key,
        ([key]) => make(key.endsWith("=") ? "dd" : "dt"),
        (cell, [, value]) => text(cell, value));
    },
  );
}

/** The account of a session, as rows of a label and a value. */
export function factsOf(session, row) {
  const account = session?.account;
  const reason = session?.closed ? session.reason : (row?.reason ?? session?.reason);
  const captured = account?.captured_seconds ?? row?.captured_seconds;
  const covered = account?.transcribed_seconds ?? row?.transcribed_seconds;
  const gaps = Object.values(account?.gap_seconds ?? {}).reduce((sum, each) => sum + each, 0);
  const recoveries = Object.entries(account?.recoveries ?? {});
  return [
    ["Kind", row?.kind === "speak" ? "voice" : ""],
    ["Provider", session?.provider ?? row?.provider ?? ""],
    ["Worker", session?.closed ? "" : (row?.worker ?? session?.worker ?? "")],
    ["Behind live", !session?.closed && row?.lag_seconds > 0.5 ? short(row.lag_seconds) : ""],
    ["Audio", captured ? duration(captured) : ""],
    ["Transcribed", covered ? duration(covered) : ""],
    ["Gaps", gaps > 0 ? short(gaps) : account !== undefined ? "none" : ""],
    ["Recoveries", recoveries.map(([cause, n]) => `${n} × ${words(cause)}`).join(", ")],
    ["Cost", costOf(session, row)],
    ["Reason", reason ? words(reason) : ""],
  ].filter(([, value]) => value !== "");
}

function costOf(session, row) {
  const sums = {};
  for (const usage of Object.values(session?.account?.providers ?? {})) {
    sums[usage.currency] = (sums[usage.currency] ?? 0) + usage.cost;
  }
  const last = session?.usage;
  if (Object.keys(sums).length > 0) return money(sums);
  if (Object.keys(row?.cost ?? {}).length > 0) return money(row.cost);
  return last?.cost ? money({ [last.currency ?? "USD"]: last.cost }) : "";
}
