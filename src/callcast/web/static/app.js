// The wallboard: receives live calls and events from the service and shows them.

import { Cards } from "./cards.js";
import { LiveCalls } from "./live_calls.js";
import { listen } from "./stream.js";
import { ago, duration, happened, hoursMinutes, isNews, timeOfDay, who } from "./words.js";

const LAST_EVENTS = 12;
const ANNOUNCE_EVERY_MS = 5000;

const params = new URLSearchParams(location.search);
const wall = params.get("wall") === "1";
const root = document.documentElement;
if (wall) root.dataset.wall = "";
if (["dark", "light"].includes(params.get("theme"))) root.dataset.theme = params.get("theme");

const at = (id) => document.getElementById(id);
const liveCalls = new LiveCalls();
const cards = new Cards(at("calls"), liveCalls, { wall });
const last = [];
let version = null;
let changed = new Set();
let lastChanged = false;
let drawRequested = false; // an animation frame is requested
let tokenRequired = false;
let wasConnected = false; // a state other than "connecting" was shown

/** Draws all changes of one animation frame together. */
function draw() {
  if (drawRequested) return;
  drawRequested = true;
  requestAnimationFrame(() => {
    drawRequested = false;
    const keys = changed;
    changed = new Set();
    cards.update(keys);
    frame();
  });
}

function frame() {
  showTotals();
  showConnection();
  showEmpty();
  at("pager").hidden = cards.pages < 2;
  setText(at("pager"), `${cards.page + 1} of ${cards.pages}`);
}

function showEmpty() {
  const empty = liveCalls.sources.size > 0 && cards.shown === 0;
  at("empty").hidden = !empty;
  if (!empty) return;
  const [what, more] = emptyTexts();
  setText(at("empty-what"), what);
  setText(at("empty-more"), more);
}

/** The texts of an empty list. "No calls" is certain only while every source is up to date. */
function emptyTexts() {
  if (cards.search) return ["No live calls match the search", "Press Escape to show all calls"];
  if (liveCalls.lostAt_ms) return ["No calls known", "Not connected to callcast"];
  if (liveCalls.unstored) return ["No calls known", "Changes cannot be stored"];
  if (liveCalls.stale().length) return ["No calls known", "Not connected to RingCentral"];
  return ["No calls", "New calls appear here automatically"];
}

function showTotals() {
  if (!liveCalls.sources.size) return;
  const totals = liveCalls.totals();
  const counts = ["waiting", "connected", "dialing", "answered", "missed", "abandoned"];
  for (const name of counts) setText(at(name), String(totals[name]));
  setText(at("longest"), totals.longest_s === null ? "–" : duration(totals.longest_s));
  setText(at("speed"), totals.speed_s === null ? "–" : duration(totals.speed_s));
  at("totals").toggleAttribute("data-waiting", totals.waiting > 0);
  at("totals").toggleAttribute("data-stale", liveCalls.isStale());
  document.title = totals.waiting ? `(${totals.waiting}) callcast` : "callcast";
}

function showConnection() {
  const [state, text] = connectionState();
  if (at("connection").dataset.state !== state && wasConnected) setText(at("spoken"), text);
  wasConnected = wasConnected || state !== "connecting";
  at("connection").dataset.state = state;
  setText(at("connection"), text);
  setText(at("clock-now"), hoursMinutes(liveCalls.now()));
  const lost = liveCalls.lostAt_ms;
  at("banner").hidden = !lost && !liveCalls.unstored;
  if (tokenRequired) setText(at("banner"), "This wallboard requires a token. Open this page once with ?token=...");
  else if (lost) setText(at("banner"), `No connection to callcast since ${timeOfDay(lost)}. Reconnecting.`);
  else if (liveCalls.unstored) setText(at("banner"), unstored(liveCalls.unstored));
}

function connectionState() {
  if (liveCalls.lostAt_ms) return ["lost", "Not live"];
  if (!liveCalls.sources.size) return ["connecting", "Connecting"];
  if (liveCalls.unstored) return ["stale", `Not stored since ${hoursMinutes(liveCalls.unstored.since_ms)}`];
  const stale = liveCalls.stale();
  if (stale.length) return ["stale", stale.map(describeStale).join("; ")];
  const polled = liveCalls.polled();
  if (!polled.length) return ["live", "Live"];
  const names = polled.length < liveCalls.sources.size ? `, ${polled.map((one) => one.source).join(", ")}` : "";
  return ["live", `Live${names} by polling, updated within ${ago(liveCalls.age_s(polled))}`];
}

function unstored({ since_ms, detail }) {
  return `Since ${timeOfDay(since_ms)} changes cannot be stored and are not shown: ${detail}`;
}

function describeStale(source) {
  if (source.sign_ins_ahead != null) return `${source.source} waiting to sign in, ${source.sign_ins_ahead} ahead`;
  const some = source.overdue.length;
  const what = some ? `${source.source} (${some} extension${some > 1 ? "s" : ""})` : source.source;
  if (!source.as_of) return `${what} not polled yet`;
  return `${what} not updated since ${hoursMinutes(Date.parse(source.as_of))}`;
}

function showLast() {
  at("footer").hidden = !last.length;
  at("last").replaceChildren(
    ...last.map(({ ms, type, data }) => {
      const item = document.createElement("li");
      const time = document.createElement("time");
      time.textContent = timeOfDay(ms);
      item.append(time, happened(type, data, liveCalls.names));
      return item;
    }),
  );
}

/** Announces ringing calls to screen readers, at a limited rate. */
let announcedAt = -Infinity;
function announce(call) {
  if (performance.now() - announcedAt < ANNOUNCE_EVERY_MS) return;
  announcedAt = performance.now();
  at("spoken").textContent = `${who(call)} is ringing`;
}

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

listen({
  hello(data) {
    // Another version of the service has another page.
    if (version !== null && version !== data.version) location.reload();
    version = data.version;
    tokenRequired = false;
  },
  board(data) {
    for (const call of data.calls) if (!data.whole && call.state === "ringing" && call.sequence === 1) announce(call);
    for (const key of liveCalls.update(data)) changed.add(key);
    draw();
  },
  event(type, event) {
    if (!isNews(event.data)) return;
    last.unshift({ ms: Date.parse(event.time), type, data: event.data });
    last.length = Math.min(last.length, LAST_EVENTS);
    lastChanged = true;
    draw();
  },
  lost(reason) {
    tokenRequired = reason === "token";
    liveCalls.lostAt_ms ??= liveCalls.now();
    frame();
    cards.tick(Math.floor(liveCalls.now() / 1000));
  },
});

setInterval(() => {
  if (lastChanged) showLast();
  lastChanged = false;
}, 250);

function everySecond() {
  cards.tick(Math.floor(liveCalls.now() / 1000));
  frame();
  setTimeout(everySecond, 1000 - (Date.now() % 1000));
}
everySecond();

at("search").addEventListener("input", (event) => {
  cards.find(event.target.value);
  frame();
});
document.addEventListener("keydown", (event) => {
  const search = at("search");
  if (event.key === "/" && event.target !== search) {
    event.preventDefault();
    search.focus();
  } else if (event.key === "Escape" && event.target === search) {
    search.value = "";
    cards.find("");
    search.blur();
    frame();
  }
});
if (wall) new ResizeObserver(() => cards.find(cards.search)).observe(at("calls").parentElement);
