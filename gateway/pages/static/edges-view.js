// Edges: who captures what, how loud it is, and what is wrong with it.

import { make, reconcile, set, space, svg, text } from "./dom.js";
import { ago, decibels, duration, words } from "./format.js";

const FLOOR_DBFS = -60; // the left end of a level
const LOUD_DBFS = -1; // from which a peak is shown as too loud
const OFFSET_S = 1; // of a clock, from which it is shown
const SPOOL_S = 5; // of audio that the broker does not have, from which it is shown
const LIVE = new Set(["running", "ending"]);
const HEARD = new Set(["capturing", "muted"]); // others have no level any more
const WELL = new Set(["capturing", "stopped"]);

/** Where on a level a value is, from 0 to 1. Pure. */
export function place(dbfs) {
  return Math.max(0, Math.min(1, (dbfs - FLOOR_DBFS) / -FLOOR_DBFS));
}

/** Whether somebody should look at an edge: "bad", "attention" or "". Pure. */
export function concern(edge) {
  if (edge.state === "stopped") return "";
  if (edge.state === "absent") return "bad";
  const sources = edge.sources.map(concernOf);
  return sources.includes("bad") ? "bad" : sources.includes("attention") ? "attention" : "";
}

/** The same of one of its sources. Pure. */
export function concernOf(source) {
  if (source.state === "failed") return "bad";
  return !WELL.has(source.state) || source.findings.length > 0 ? "attention" : "";
}

/** Edges in the order in which they are shown: those that need somebody first. Pure. */
export function sorted(edges) {
  const rank = (edge) =>
    edge.state === "stopped" ? 3 : ["bad", "attention", ""].indexOf(concern(edge));
  return [...edges].sort((a, b) => rank(a) - rank(b) || (a.agent < b.agent ? -1 : 1));
}

/** How many there are of what, in words. Pure. */
export function summary(edges) {
  if (edges.length === 0) return "";
  const absent = edges.filter((edge) => edge.state === "absent").length;
  const stopped = edges.filter((edge) => edge.state === "stopped").length;
  const others = edges.filter((edge) => edge.state !== "absent" && concern(edge) !== "").length;
  return [
    `${edges.length - absent - stopped} running`,
    absent > 0 ? `${absent} absent` : "",
    others > 0 ? `${others} with findings or problems` : "",
    stopped > 0 ? `${stopped} stopped` : "",
  ].filter(Boolean).join("  ·  ");
}

/** Shows the answer of `/api/edges`. */
export class EdgesView {
  #summary = make("small", { class: "muted" });
  #none = make("p", { class: "muted" });
  #list = make("ul", { class: "edges" });
  element = make("section", { class: "panel whole", "aria-label": "Edges", hidden: true },
    make("h2", {}, "Edges", this.#summary), this.#none, this.#list);

  show({ edges, notes }) {
    this.element.hidden = false;
    text(this.#summary, summary(edges));
    text(this.#none, [edges.length === 0 ? "No edge reports itself." : "", ...notes].join(" ").trim());
    this.#none.hidden = this.#none.textContent === "";
    reconcile(this.#list, sorted(edges), (edge) => edge.agent, createEdge, updateEdge);
  }

  /** Shows why there is no answer; what was shown before stays. */
  problem(message) {
    this.element.hidden = false;
    text(this.#none, message);
    this.#none.hidden = false;
  }
}

function createEdge() {
  return make("li", { class: "edge" },
    make("div", { class: "session-head" },
      make("span", { class: "dot" }),
      make("h3", { class: "edge-name" }),
      make("span", { class: "edge-state" })),
    make("p", { class: "edge-facts muted" }),
    make("p", { class: "edge-problem" }),
    make("ul", { class: "sources" }));
}

function updateEdge(element, edge) {
  const [head, facts, problem, list] = element.children;
  const [dot, name, state] = head.children;
  const live = LIVE.has(edge.state);
  element.classList.toggle("away", !live);
  dot.className = `dot ${concern(edge) || (live ? "open" : "")}`;
  text(name, edge.agent);
  state.className = `edge-state ${edge.state === "absent" ? "absent" : ""}`;
  const seen = ago(edge.seen_seconds_ago * 1000);
  text(state, live ? words(edge.state) : `${words(edge.state)}, seen ${seen}`);
  text(facts, [
    edge.host === edge.agent ? "" : edge.host,
    edge.version,
    edge.spool?.seconds > SPOOL_S ? `${duration(edge.spool.seconds)} not yet sent` : "",
    Math.abs(edge.clock_offset_seconds) > OFFSET_S
      ? `clock off by ${edge.clock_offset_seconds.toFixed(1)} s` : "",
  ].filter(Boolean).join("  ·  "));
  facts.hidden = facts.textContent === "";
  text(problem, edge.last_error ?? "");
  problem.hidden = !edge.last_error;
  reconcile(list, edge.sources, (source) => source.name, createSource,
    (item, source) => updateSource(item, source, live));
}

function createSource() {
  return make("li", { class: "source" },
    make("div", { class: "source-head" },
      make("span", { class: "source-name" }),
      make("span", { class: "source-state" }),
      make("a", { class: "source-session" })),
    make("p", { class: "source-device muted" }),
    make("div", { class: "source-level" },
      svg("svg", { class: "level", viewBox: "0 0 100 8", preserveAspectRatio: "none", role: "img" },
        svg("rect", { class: "rms", height: 8 }),
        svg("rect", { class: "peak", width: 1.5, height: 8 })),
      make("span", { class: "level-text muted" })),
    make("ul", { class: "findings", "aria-label": "Findings" }),
    make("p", { class: "edge-problem" }));
}

function updateSource(element, source, live) {
  const [head, device, level, findings, problem] = element.children;
  const [name, state, session] = head.children;
  text(name, source.name);
  text(state, words(source.state));
  state.className = `source-state ${live ? concernOf(source) : ""}`;
  text(session, source.conversation ?? "");
  session.hidden = !source.conversation;
  set(session, "href", source.conversation
    ? `#/c/${encodeURIComponent(source.conversation)}` : undefined);
  set(session, "aria-label", source.conversation
    ? `Conversation ${source.conversation}, speaker ${source.speaker}` : undefined);
  text(device, [source.kind === source.name ? "" : source.kind, source.device].filter(Boolean).join("  ·  "));
  device.hidden = device.textContent === "";
  updateLevel(level, live && HEARD.has(source.state) ? source.level : undefined);
  reconcile(findings, live ? [...new Set(source.findings)] : [], String,
    () => make("li"), (item, code) => text(item, words(code)));
  findings.hidden = findings.childElementCount === 0;
  space(findings);
  text(problem, source.error ?? "");
  problem.hidden = !source.error;
}

function updateLevel(element, level) {
  const [drawing, label] = element.children;
  const { peak_dbfs: peak, rms_dbfs: rms } = level ?? {};
  const known = Number.isFinite(peak);
  element.hidden = !known;
  if (!known) return;
  const [average, highest] = drawing.children;
  set(average, "width", 100 * place(rms ?? FLOOR_DBFS));
  set(highest, "x", Math.min(98.5, 100 * place(peak)));
  drawing.classList.toggle("loud", peak >= LOUD_DBFS);
  set(drawing, "aria-label", `Level of the last 10 s: peak ${decibels(peak)}, RMS ${decibels(rms)}`);
  text(label, `peak ${decibels(peak)}  ·  rms ${decibels(rms)}`);
}
