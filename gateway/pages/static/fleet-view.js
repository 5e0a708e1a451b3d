// Workers, edges, and charts of the last hour.

import { area, bridged, ceiling, line, points } from "./charts.js";
import { make, svg, text } from "./dom.js";
import { EdgesView } from "./edges-view.js";
import { clock, short } from "./format.js";

const WIDTH = 560;
const HEIGHT = 150;
const LEFT = 40;
const BOTTOM = 18;
const NEAR_MINUTES = 5; // that may be without finals within a line

/** Shows the answer of `/api/fleet` in `root`. */
export class FleetView {
  #root;
  #sessions = new Chart("Open sessions", { unit: String, whole: true });
  #latency = new Chart("Latency of finals", { unit: short });
  #workers = make("section", { class: "panel whole", "aria-label": "Workers" });
  /** The edges, which have an answer of their own. */
  edges = new EdgesView();
  #notes = make("p", { class: "notes muted" });

  constructor(root) {
    this.#root = root;
    root.append(
      make("h1", { class: "visually-hidden" }, "Fleet"),
      this.#sessions.element, this.#latency.element, this.#workers, this.edges.element, this.#notes,
    );
  }

  show(fleet) {
    const { minutes } = fleet;
    const now = minutes.at(-1);
    this.#sessions.show(minutes, {
      series: minutes.map((minute) => minute.sessions),
      failed: minutes.map((minute) => minute.failed),
      figure: String(now?.sessions ?? 0),
      small: now?.sessions === 1 ? "session" : "sessions",
      since: fleet.sessions_since,
      describe: (minute) =>
        `${minute.sessions} open, ${minute.started} started${minute.failed ? `, ${minute.failed} failed` : ""}`,
    });
    const spoken = minutes.filter((minute) => minute.latency_p50 !== null);
    const last = spoken.at(-1);
    this.#latency.show(minutes, {
      series: minutes.map((minute) => minute.latency_p50),
      upper: minutes.map((minute) => minute.latency_p95),
      figure: last === undefined ? "–" : short(last.latency_p50),
      small: last === undefined ? "no finals in this hour" : `median, 95 % within ${short(last.latency_p95)}`,
      since: fleet.latency_since,
      describe: (minute) =>
        minute.finals === 0
          ? "no finals"
          : `${short(minute.latency_p50)} median, 95 % within ${short(minute.latency_p95)}, ${minute.finals} finals`,
    });
    this.#showWorkers(fleet.workers);
    text(this.#notes, (fleet.notes ?? []).join(" "));
  }

  #showWorkers(workers) {
    const rows = workers.map((worker) => [
      worker.name,
      worker.gone ? "does not report" : worker.draining ? "draining" : "ready",
      String(worker.sessions),
      worker.slots === undefined ? undefined : meter(worker.used, worker.slots),
    ]);
    this.#workers.replaceChildren(
      make("h2", {}, "Workers"),
      table(["Name", "State", "Your sessions", "Slots in use"], rows,
        "No worker holds a session now."),
    );
  }
}

function meter(used, slots) {
  const value = `${used} of ${slots}`;
  return make("span", {},
    make("meter", { class: "bar-meter", min: 0, max: Math.max(1, slots), value: used,
      "aria-label": `${value} slots in use` }), ` ${value}`);
}

function table(head, rows, otherwise) {
  if (rows.length === 0) return make("p", { class: "muted" }, otherwise);
  const used = head.map((_, column) => rows.some((row) => row[column] !== undefined));
  const cells = (kind, row) =>
    row.filter((_, column) => used[column]).map((cell) => make(kind, kind === "th" ? { scope: "col" } : {}, cell ?? ""));
  return make("div", { class: "wide-table" },
    make("table", { class: "table" },
      make("thead", {}, make("tr", {}, ...cells("th", head))),
      make("tbody", {}, ...rows.map((row) => make("tr", {}, ...cells("td", row)))),
    ));
}

/** One figure over the last hour. */
class Chart {
  #figure = make("p", { class: "figure" });
  #svg = svg("svg", { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT + BOTTOM}`, role: "img" });
  #legend = make("p", { class: "legend" });
  #cursor = svg("line", { class: "cursor", y1: 0, y2: HEIGHT, visibility: "hidden" });
  #unit;
  #whole;
  #title;
  #shown;

  constructor(title, { unit, whole = false }) {
    this.#title = title;
    this.#unit = unit;
    this.#whole = whole;
    this.element = make("section", { class: "panel", "aria-label": title },
      make("h2", {}, title), this.#figure, this.#svg, this.#legend);
    this.#svg.addEventListener("pointermove", (event) => this.#point(event));
    this.#svg.addEventListener("pointerleave", () => this.#leave());
  }

  show(minutes, { series, upper, failed, figure, small, since, describe }) {
    this.#shown = { minutes, describe, since };
    this.#figure.replaceChildren(figure, " ", make("small", {}, small));
    const width = WIDTH - LEFT;
    const most = Math.max(0, ...(upper ?? series).filter((value) => value !== null));
    const top = ceiling(most);
    const parts = [];
    for (const share of [0, 0.5, 1]) {
      const y = HEIGHT - share * HEIGHT;
      parts.push(svg("line", { class: "grid", x1: LEFT, x2: WIDTH, y1: y, y2: y }));
      if (this.#whole && !Number.isInteger(top * share)) continue;
      parts.push(svg("text", { x: LEFT - 8, y: Math.max(9, y + 3), "text-anchor": "end" }, this.#unit(top * share)));
    }
    for (const [index, minute] of minutes.entries()) {
      if (index % 15 !== 0 && index !== minutes.length - 1) continue;
      const x = LEFT + (index / (minutes.length - 1)) * width;
      const anchor = index === 0 ? "start" : index === minutes.length - 1 ? "end" : "middle";
      parts.push(svg("text", { x, y: HEIGHT + BOTTOM - 2, "text-anchor": anchor }, clock(Date.parse(minute.at), false)));
    }
    const low = points(bridged(series, NEAR_MINUTES), width, HEIGHT, top);
    const high = upper === undefined ? low : points(bridged(upper, NEAR_MINUTES), width, HEIGHT, top);
    const drawing = svg("g", { transform: `translate(${LEFT} 0)` },
      svg("path", { class: "area", d: area(high, HEIGHT) }),
      svg("path", { class: "curve", d: line(low) }),
      this.#cursor);
    for (const [index, count] of (failed ?? []).entries()) {
      if (count > 0) {
        const x = (index / (failed.length - 1)) * width;
        drawing.append(svg("line", { class: "failed", x1: x, x2: x, y1: HEIGHT - 8, y2: HEIGHT }));
      }
    }
    this.#svg.replaceChildren(...parts, drawing);
    const values = series.filter((value) => value !== null);
    const range = values.length === 0 ? "no values" :
      `from ${this.#unit(Math.min(...values))} to ${this.#unit(Math.max(...values))}, now ${figure}`;
    this.#svg.setAttribute("aria-label", `${this.#title} in the last hour: ${range}`);
    this.#leave();
  }

  #point(event) {
    if (this.#shown === undefined) return;
    const { minutes, describe } = this.#shown;
    const box = this.#svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * WIDTH - LEFT;
    const index = Math.round((x / (WIDTH - LEFT)) * (minutes.length - 1));
    const minute = minutes[Math.max(0, Math.min(minutes.length - 1, index))];
    const place = (minutes.indexOf(minute) / (minutes.length - 1)) * (WIDTH - LEFT);
    this.#cursor.setAttribute("x1", place);
    this.#cursor.setAttribute("x2", place);
    this.#cursor.setAttribute("visibility", "visible");
    text(this.#legend, `${clock(Date.parse(minute.at), false)}: ${describe(minute)}`);
  }

  #leave() {
    this.#cursor.setAttribute("visibility", "hidden");
    const since = Date.parse(this.#shown?.since);
    const first = Date.parse(this.#shown?.minutes[0]?.at);
    text(this.#legend, since > first + 60_000 ? `known since ${clock(since, false)}` : "");
  }
}
