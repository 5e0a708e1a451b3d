// The console: what is being said, the sessions, and the fleet.

import { Access, Stream } from "./api.js";
import { CaptionsView } from "./captions-view.js";
import { copy, save, set, text } from "./dom.js";
import { FleetView } from "./fleet-view.js";
import { money, short, words } from "./format.js";
import { dotOf, showConversations, showSessions } from "./lists.js";
import { Microphone } from "./microphone.js";
import { Conversation } from "./model.js";
import { OverlayDialog } from "./overlay-dialog.js";
import { startTheme } from "./theme.js";

const LIST_MS = 2000;
const FLEET_MS = 5000;

const $ = (id) => document.getElementById(id);
const access = new Access();
const captions = new CaptionsView({
  root: $("scroller"), list: $("captions"), log: $("log"), jump: $("jump"), empty: $("waiting"),
});
const fleet = new FleetView($("fleet"));
const overlay = new OverlayDialog(access, toast);
let current; // the name of the conversation that is shown
let conversation = new Conversation();
let stream;
let listed = [];
let microphone;
let toastTimer;
let streamState = "connecting";
let listProblem = "";
let mayEdges = true;

// ---- signing in ----------------------------------------------------------------------------------

async function enter() {
  try {
    await access.enter();
    entered();
  } catch (error) {
    // A right secret is let in even where others are told to come back later (429).
    if (error.refused || error.status === 429) {
      return askForKey(access.secret === undefined ? "" : error.message);
    }
    showState(error.message);
    setTimeout(enter, 2000);
  }
}

function entered() {
  mayEdges = access.me.conversation === null;
  $("logout").hidden = !access.me.keys;
  $("speak").hidden = !access.me.doors.includes("deepgram");
  text($("tenant"), access.me.tenant);
  if ($("login").open) $("login").close();
  if (access.me.conversation && !location.hash.startsWith("#/c/")) {
    location.hash = `#/c/${access.me.conversation}`;
  }
  route();
  refresh();
}

function askForKey(message) {
  stream?.stop();
  stream = undefined;
  access.logout();
  text($("login-error"), message);
  $("login-form").reset();
  if (!$("login").open) $("login").showModal();
}

access.onExpired = () => askForKey("The token has expired.");
$("login").addEventListener("cancel", (event) => event.preventDefault());
$("login-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const key = $("key").value.trim();
  text($("login-error"), "");
  try {
    await access.login(key);
    entered();
  } catch (error) {
    access.logout();
    text($("login-error"), error.message);
    $("key").focus();
  }
});
$("logout").addEventListener("click", () => askForKey(""));

// ---- where we are --------------------------------------------------------------------------------

function route() {
  if (access.me === undefined) return;
  const found = /^#\/c\/(.+)$/.exec(location.hash);
  const wanted = found === null ? undefined : decodeURIComponent(found[1]);
  const onFleet = location.hash === "#/fleet";
  $("live").hidden = onFleet;
  $("fleet").hidden = !onFleet;
  $("live").classList.toggle("detail", wanted !== undefined);
  set($("tab-live"), "aria-current", onFleet ? undefined : "page");
  set($("tab-fleet"), "aria-current", onFleet ? "page" : undefined);
  set(document.querySelector(".skip"), "href", onFleet ? "#fleet" : "#main");
  if (onFleet) {
    document.title = "Fleet · natterjack";
    refreshFleet();
  } else if (wanted !== undefined) {
    open(wanted);
  } else {
    close();
    document.title = "natterjack";
  }
}

function open(name) {
  document.title = `${name} · natterjack`;
  $("nothing").hidden = true;
  $("conversation").hidden = false;
  if (name === current && stream !== undefined) return;
  close(false);
  current = name;
  conversation = new Conversation();
  text($("title"), name);
  $("search").value = "";
  captions.search("");
  captions.show(conversation);
  stream = new Stream(access, name);
  stream.onEvent = (event) => {
    if (conversation.add(event)) captions.changed();
    if (event.type !== "interim") factsSoon();
  };
  stream.onState = (state, reason, status) => {
    streamState = state;
    if (state === "open") conversation.forgetInterims();
    if (state === "refused" && (status === 401 || status === 403)) askForKey(reason);
    else if (state === "refused") toast(reason);
    showState();
  };
  stream.start();
  showList();
  facts();
}

function close(hide = true) {
  stream?.stop();
  stream = undefined;
  current = undefined;
  streamState = "open";
  if (hide) {
    $("conversation").hidden = true;
    $("nothing").hidden = listed.length > 0 && matchMedia("(max-width: 760px)").matches;
    showList();
  }
  showState();
}

// The page's own state is in the hash; links such as `#main` only move the focus.
addEventListener("hashchange", () => {
  if (location.hash === "" || location.hash.startsWith("#/")) route();
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  const target = $("fleet").hidden ? ($("conversation").hidden ? $("main") : $("scroller")) : $("fleet");
  target.focus();
});

// ---- what is shown -------------------------------------------------------------------------------

function showState(problem) {
  let shown = problem ?? listProblem;
  if (!shown && stream !== undefined) {
    if (streamState === "lost") shown = "Reconnecting …";
    else if (!conversation.brokerConnected) shown = "The broker is away; captions continue after";
  }
  text($("state"), shown);
  $("state").hidden = shown === "";
}

function showList() {
  showConversations($("conversations"), listed, current);
}

let factsTimer;
function factsSoon() {
  factsTimer ??= setTimeout(() => {
    factsTimer = undefined;
    facts();
  }, 200);
}

function facts() {
  if (current === undefined) return;
  const reported = listed.find((one) => one.conversation === current);
  const isOpen = conversation.caughtUp && conversation.sessions.length > 0
    ? conversation.open : (reported?.open ?? false);
  const state = isOpen ? (reported?.state ?? "streaming") : "";
  $("open").className = dotOf(isOpen, state);
  const parts = [
    isOpen ? (state === "streaming" ? "live" : words(state)) : conversation.sessions.length > 0 ? "ended" : "waiting",
    conversation.latency === undefined ? "" : `latency ${short(conversation.latency)}`,
    conversation.speakers.length > 1 ? `${conversation.speakers.length} speakers` : "",
  ];
  text($("facts"), parts.filter((part) => part !== "").join("  ·  "));
  showSessions($("sessions"), conversation, reported);
  const costs = money(reported?.cost);
  text($("account-sum"), [String(conversation.sessions.length), costs].filter(Boolean).join("  ·  "));
  showState();
}

async function refresh() {
  if (access.me === undefined) return;
  if (!document.hidden) {
    try {
      const found = await access.json("api/conversations");
      listed = found.conversations;
      text($("notes"), found.notes.join(" "));
      listProblem = "";
      showList();
      facts();
    } catch (error) {
      if (error.status === 401) return askForKey(error.message);
      listProblem = error.status === 0 ? "Reconnecting …" : error.message;
      showState();
    }
  }
  clearTimeout(refresh.timer);
  refresh.timer = setTimeout(refresh, LIST_MS);
}

async function refreshFleet() {
  clearTimeout(refreshFleet.timer);
  if (access.me === undefined || $("fleet").hidden) return;
  try {
    if (!document.hidden) {
      const edges = refreshEdges();
      fleet.show(await access.json("api/fleet"));
      await edges;
    }
  } catch (error) {
    showState(error.message);
  }
  clearTimeout(refreshFleet.timer);
  refreshFleet.timer = setTimeout(refreshFleet, FLEET_MS);
}

/** A key for some conversations only may not see edges: the panel stays hidden. Throws nothing. */
async function refreshEdges() {
  if (!mayEdges) return;
  try {
    fleet.edges.show(await access.json("api/edges"));
  } catch (error) {
    if (error.status !== 403) return fleet.edges.problem(error.message);
    mayEdges = false;
    fleet.edges.element.hidden = true;
  }
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden) {
    refresh();
    refreshFleet();
  }
});

function toast(message) {
  text($("toast"), message);
  $("toast").classList.add("shown");
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => $("toast").classList.remove("shown"), 4000);
}

// ---- tools ---------------------------------------------------------------------------------------

$("search").addEventListener("input", () => captions.search($("search").value));
captions.onMatches = (count) => text($("matches"), count === undefined ? "" : String(count));

$("copy").addEventListener("click", async () => {
  const lines = conversation.lines.filter((line) => !line.note);
  const named = conversation.speakers.length > 1;
  const all = lines.map((line) => {
    const said = line.parts.filter((part) => !part.interim).map((part) => part.text).join(" ");
    return said === "" ? "" : `${named ? `${conversation.nameOf(line)}: ` : ""}${said}`;
  });
  toast((await copy(all.filter(Boolean).join("\n"))) ? "Transcript copied" : "Copying is not allowed here");
});

for (const button of document.querySelectorAll("[data-format]")) {
  button.addEventListener("click", async () => {
    const name = `transcript.${button.dataset.format}`;
    try {
      const path = `api/conversations/${encodeURIComponent(current)}/${name}`;
      const response = await access.fetch(path);
      save(await response.blob(), `${current}.${button.dataset.format}`);
      $("download").open = false;
      $("download").querySelector("summary").focus();
    } catch (error) {
      toast(error.message);
    }
  });
}
document.addEventListener("click", (event) => {
  if (!$("download").contains(event.target)) $("download").open = false;
});
$("download").addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  $("download").open = false;
  $("download").querySelector("summary").focus();
});

$("overlay").addEventListener("click", () => overlay.show(current));

$("announce").addEventListener("click", () => {
  captions.announces = !captions.announces;
  set($("announce"), "aria-pressed", String(captions.announces));
  toast(captions.announces ? "Finals are read out" : "Finals are not read out");
});

document.addEventListener("keydown", (event) => {
  const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.key === "/" && !typing && !$("conversation").hidden) {
    event.preventDefault();
    $("search").focus();
  } else if (event.key === "Escape" && event.target === $("search")) {
    $("search").value = "";
    captions.search("");
    $("scroller").focus();
  } else if (event.key === "End" && event.target === $("scroller")) {
    captions.follow();
  }
});

// ---- the microphone ------------------------------------------------------------------------------

$("speak").addEventListener("click", async () => {
  if (microphone !== undefined) return microphone.stop();
  const started = new Microphone(access);
  microphone = started;
  started.onLevel = (peak) => ($("level").value = Math.min(1, peak * 1.5));
  started.onEnd = (problem) => {
    if (microphone === started) microphone = undefined;
    showSpeaking();
    if (problem) toast(problem);
  };
  const stamp = new Date().toISOString().slice(0, 19).replace(/\D/g, "");
  const name = access.me.conversation ?? `microphone-${stamp}`;
  try {
    await started.start(name, "me");
    location.hash = `#/c/${name}`;
  } catch (error) {
    microphone = undefined;
    started.stop();
    toast(error.message);
  }
  showSpeaking();
});

function showSpeaking() {
  const speaking = microphone !== undefined;
  set($("speak"), "aria-pressed", String(speaking));
  text($("speak").querySelector("span"), speaking ? "Stop" : "Speak");
  $("level").hidden = !speaking;
}

addEventListener("pagehide", () => microphone?.stop());

startTheme($("theme"));
$("accounts").open = !matchMedia("(max-width: 760px)").matches;
setInterval(showList, 10_000); // times pass
enter();
