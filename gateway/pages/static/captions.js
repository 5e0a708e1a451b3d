// The overlay: the last words of a conversation, on a transparent page that nobody touches.

import { Access, Stream } from "./api.js";
import { colorOf, make, reconcile, space, text } from "./dom.js";
import { Conversation } from "./model.js";
import { options } from "./overlay.js";

const HISTORY = "30s"; // what was said before the page was opened
const MOST_CHARACTERS = 600; // of one line; what is before has scrolled out of sight
const TICK_MS = 250;
const FADING_MS = 700;

const chosen = options(location.search);
const name = decodeURIComponent(location.pathname.split("/").at(-1));
const overlay = document.getElementById("overlay");
const list = document.getElementById("lines");
const problem = document.getElementById("problem");
const conversation = new Conversation();
/** When a line changed last, by its key: it fades from then on. */
const changes = new Map();
let everShown = false;
let frame;

document.title = `Captions of ${name}`;
overlay.classList.add(...chosen.position.split("-"), chosen.show);
overlay.style.setProperty("--size", `${chosen.size}px`);
overlay.style.setProperty("--rows", String(chosen.lines));
if (chosen.font !== "") overlay.style.setProperty("--font", `"${chosen.font}"`);
if (chosen.problems.length > 0) complain(chosen.problems.join("; "));

/** Says what is wrong, unless captions are on the air. */
function complain(message) {
  console.warn(message);
  text(problem, message);
  problem.hidden = everShown || message === "";
}

// What is after `#` is not sent to a server: a token or a key.
const secret = decodeURIComponent(location.hash.slice(1)) || undefined;
const stream = new Stream(new Access(secret), name, {
  since: HISTORY, kinds: ["interim", "final", "status"],
});
stream.onEvent = (event) => {
  if (conversation.add(event)) draw();
};
stream.onState = (state, reason) => {
  document.documentElement.dataset.state = state;
  if (state === "open") {
    conversation.forgetInterims();
    if (chosen.problems.length === 0) problem.hidden = true;
  } else if (reason) {
    complain(state === "refused" ? reason : `${reason}; trying again`);
  }
};

function draw() {
  frame ??= requestAnimationFrame(() => {
    frame = undefined;
    drawNow();
  });
}

function drawNow() {
  const now = Date.now();
  const lines = [];
  for (const line of conversation.lines.slice(-4 * chosen.lines - 8)) {
    if (line.note || (chosen.only.length > 0 && !chosen.only.includes(line.speaker))) continue;
    const said = line.parts.map((part) => part.text).join(" ");
    const known = changes.get(line.key);
    if (known?.said !== said) {
      // What was said before the page was opened fades from when it was said.
      changes.set(line.key, { said, at: conversation.caughtUp ? now : Math.min(now, line.until) });
    }
    const age = now - changes.get(line.key).at;
    if (chosen.fade === 0 || age < chosen.fade * 1000 + FADING_MS) lines.push({ ...line, age });
  }
  const shown = lines.slice(-chosen.lines);
  for (const key of changes.keys()) {
    if (changes.size <= 200) break;
    changes.delete(key);
  }
  let before;
  for (const line of shown) {
    line.named = chosen.show === "names" && conversation.speakers.length > 1 &&
      conversation.nameOf(line) !== before;
    before = conversation.nameOf(line);
  }
  reconcile(list, shown, (line) => line.key, create, update);
  if (shown.length > 0) {
    everShown = true;
    problem.hidden = true;
  }
}

function create() {
  return make("p", { dir: "auto" }, make("bdi", { class: "name" }), make("span", { class: "said" }));
}

function update(element, line) {
  const gone = chosen.fade > 0 && line.age >= chosen.fade * 1000;
  element.className = `caption ${colorOf(conversation.speaker(line.speaker))}${gone ? " gone" : ""}`;
  const [who, said] = element.children;
  who.hidden = !line.named;
  text(who, conversation.nameOf(line));
  reconcile(said, clipped(line.parts), (part) => part.key, () => make("span"), (span, part) => {
    span.className = part.interim ? "part interim" : "part";
    text(span, part.text);
  });
  space(said);
}

/** The last parts of a line, as far as they can be seen. */
function clipped(parts) {
  const kept = [];
  let size = 0;
  for (const part of parts.toReversed()) {
    if (size > MOST_CHARACTERS) break;
    size += part.text.length;
    kept.unshift(part);
  }
  return kept;
}

setInterval(draw, TICK_MS);
stream.start();
