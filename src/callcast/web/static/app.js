// The wallboard: listens to the service, keeps a picture, shows it.

import { Cards } from "./cards.js";
import { Picture } from "./picture.js";
import { listen } from "./stream.js";
import { ago, duration, happened, hoursMinutes, isNews, timeOfDay, who } from "./words.js";

const LAST_EVENTS = 12;
const SPEAK_EVERY_MS = 5000;

const asked = new URLSearchParams(location.search);
const wall = asked.get("wall") === "1";
const root = document.documentElement;
if (wall) root.dataset.wall = "";
if (["dark", "light"].includes(asked.get("theme"))) root.dataset.theme = asked.get("theme");

const at = (id) => document.getElementById(id);
const picture = new Picture();
const cards = new Cards(at("calls"), picture, { wall });
const last = [];
let version = null;
let touched = new Set();
let lastChanged = false;
let drawn = false; // whether a frame is asked for
let refused = false;
let told = false; // whether anything was shown yet

/** Changes of one frame are drawn together, however many there are. */
function draw() {
  if (drawn) return;
  drawn = true;
  requestAnimationFrame(() => {
    drawn = false;
    const keys = touched;
    touched = new Set();
    cards.update(keys);
    frame();
  });
}

function frame() {
  showTotals();
  showLink();
  showEmpty();
  at("pager").hidden = cards.pages < 2;
  say(at("pager"), `${cards.page + 1} of ${cards.pages}`);
}

function showEmpty() {
  const empty = picture.sources.size > 0 && cards.shown === 0;
  at("empty").hidden = !empty;
  if (!empty) return;
  const [what, more] = quiet();
  say(at("empty-what"), what);
  say(at("empty-more"), more);
}

/** An empty board is good news only when everything was seen. */
function quiet() {
  if (cards.search) return ["No call of such an extension now", "Escape shows all"];
  if (picture.lostAt_ms || picture.unstored || picture.stale().length) return ["No calls known", "Nobody looks at present"];
  return ["No calls", "The next one appears here by itself"];
}

function showTotals() {
  if (!picture.sources.size) return;
  const totals = picture.totals();
  for (const name of ["waiting", "connected", "dialing", "answered", "missed", "abandoned"]) say(at(name), String(totals[name]));
  say(at("longest"), totals.longest_s === null ? "–" : duration(totals.longest_s));
  say(at("speed"), totals.speed_s === null ? "–" : duration(totals.speed_s));
  at("totals").toggleAttribute("data-waiting", totals.waiting > 0);
  at("totals").toggleAttribute("data-stale", picture.isStale());
  document.title = totals.waiting ? `(${totals.waiting}) callcast` : "callcast";
}

function showLink() {
  const [state, text] = linkState();
  if (at("link").dataset.state !== state && told) say(at("spoken"), text);
  told = told || state !== "connecting";
  at("link").dataset.state = state;
  say(at("link"), text);
  say(at("daytime"), hoursMinutes(picture.now()));
  const lost = picture.lostAt_ms;
  at("banner").hidden = !lost && !picture.unstored;
  if (refused) say(at("banner"), "The service wants its token. Open this page once with ?token=...");
  else if (lost) say(at("banner"), `No connection to callcast since ${timeOfDay(lost)}. Trying again.`);
  else if (picture.unstored) say(at("banner"), unstored(picture.unstored));
}

function linkState() {
  if (picture.lostAt_ms) return ["lost", "Not live"];
  if (!picture.sources.size) return ["connecting", "Connecting"];
  if (picture.unstored) return ["stale", `Not stored since ${hoursMinutes(picture.unstored.since_ms)}`];
  const stale = picture.stale();
  if (stale.length) return ["stale", stale.map(unseen).join("; ")];
  return ["live", `Live, all seen within ${ago(picture.age_s())}`];
}

function unstored({ since_ms, detail }) {
  return `What callcast sees cannot be stored since ${timeOfDay(since_ms)}, and is not shown: ${detail}`;
}

function unseen(source) {
  if (source.sign_ins_ahead != null) return `${source.source} waiting to sign in, ${source.sign_ins_ahead} ahead`;
  const some = source.overdue.length;
  const what = some ? `${source.source} (${some} extension${some > 1 ? "s" : ""})` : source.source;
  return source.as_of ? `${what} not seen since ${hoursMinutes(Date.parse(source.as_of))}` : `${what} not seen yet`;
}

function showLast() {
  at("footer").hidden = !last.length;
  at("last").replaceChildren(
    ...last.map(({ ms, type, data }) => {
      const item = document.createElement("li");
      const time = document.createElement("time");
      time.textContent = timeOfDay(ms);
      item.append(time, happened(type, data, picture.names));
      return item;
    }),
  );
}

/** For screen readers: what rings, and not more often than one can listen. */
let spokeAt = -Infinity;
function speak(call) {
  if (performance.now() - spokeAt < SPEAK_EVERY_MS) return;
  spokeAt = performance.now();
  at("spoken").textContent = `${who(call)} rings`;
}

function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

listen({
  hello(data) {
    if (version !== null && version !== data.version) location.reload(); // a newer service has a newer page
    version = data.version;
    refused = false;
  },
  board(data) {
    for (const call of data.calls) if (!data.whole && call.state === "ringing" && call.sequence === 1) speak(call);
    for (const key of picture.take(data)) touched.add(key);
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
    refused = reason === "token";
    picture.lostAt_ms ??= picture.now();
    frame();
    cards.tick(Math.floor(picture.now() / 1000));
  },
});

setInterval(() => {
  if (lastChanged) showLast();
  lastChanged = false;
}, 250);

function everySecond() {
  cards.tick(Math.floor(picture.now() / 1000));
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
