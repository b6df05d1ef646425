// The list of calls on the page: one card for each call, updated in place, in the order of LiveCalls.

import { STATES, duration, hoursMinutes, other, timeOfDay, who } from "./words.js";

const PAGE_S = 12; // how long a wall display shows one page
const COLUMNS = [1, 2, 3, 4, 5]; // of a wall display, larger cards first
const WIDTH_REM = { least: 14, most: 40 }; // width limits of a card

export class Cards {
  #cards = new Map(); // key -> {item, parts, call, words, shown}
  #period = 0;
  pages = 1;

  constructor(list, liveCalls, { wall }) {
    this.list = list;
    this.liveCalls = liveCalls;
    this.wall = wall;
    this.search = "";
  }

  /** Updates the cards of these calls. */
  update(keys) {
    for (const key of keys) {
      const call = this.liveCalls.calls.get(key);
      const card = this.#cards.get(key);
      if (call) this.#fill(card ?? this.#make(key), call);
      else if (card) {
        card.item.remove();
        this.#cards.delete(key);
      }
    }
    this.#arrange();
  }

  /** Called once a second: updates the clocks and the uncertain calls; on a wall display, also the page. */
  tick(second) {
    for (const card of this.#cards.values()) this.#time(card);
    const period = Math.floor(second / PAGE_S);
    if (period !== this.#period) {
      this.#period = period;
      if (this.wall && this.pages > 1) this.#arrange();
    }
  }

  find(text) {
    this.search = text.trim().toLowerCase();
    this.#arrange();
  }

  /** The number of calls that match the search. */
  get shown() {
    return this.#wanted().length;
  }

  get page() {
    return this.pages > 1 ? this.#period % this.pages : 0;
  }

  #make(key) {
    const item = document.createElement("li");
    const parts = {};
    for (const [name, tag] of [["state", "p"], ["who", "h3"], ["clock", "p"], ["other", "p"], ["queue", "p"]]) {
      parts[name] = document.createElement(tag);
      parts[name].className = name;
      item.append(parts[name]);
    }
    item.className = "call";
    const card = { item, parts, shown: {} };
    this.#cards.set(key, card);
    return card;
  }

  #fill(card, call) {
    card.call = call;
    card.words = `${who(call)} ${call.extension_id} ${ownNumber(call)}`.toLowerCase();
    card.item.dataset.state = call.state;
    card.item.dataset.call = call.call_id;
    this.#setText(card, "who", who(call));
    this.#setText(card, "queue", call.queue && call.queue.name !== who(call) ? call.queue.name : "");
    this.#time(card);
  }

  #time(card) {
    const { call } = card;
    const uncertainty = this.liveCalls.uncertainty(call);
    this.#setText(card, "state", STATES[call.state] + (uncertainty ? "?" : ""));
    this.#setText(card, "other", uncertainty ? uncertainText(uncertainty) : other(call));
    this.#setText(card, "clock", duration(this.liveCalls.seconds(call, uncertainty)));
    card.item.toggleAttribute("data-uncertain", Boolean(uncertainty));
  }

  /** Changes the document only when the text differs. */
  #setText(card, part, text) {
    if (card.shown[part] === text) return;
    card.shown[part] = text;
    card.parts[part].textContent = text;
    if (part === "who" || part === "other") card.parts[part].title = text; // the text may be cut off
  }

  #wanted() {
    const keys = this.liveCalls.inOrder();
    return this.search ? keys.filter((key) => this.#cards.get(key)?.words.includes(this.search)) : keys;
  }

  #arrange() {
    const keys = this.#wanted();
    this.#place(this.wall ? this.#onThisPage(keys) : keys);
  }

  /** Puts the cards into the list in this order; moves only those that are out of place. */
  #place(keys) {
    const wanted = new Set(keys);
    for (const [key, card] of this.#cards) if (!wanted.has(key) && card.item.isConnected) card.item.remove();
    let next = this.list.firstElementChild;
    for (const key of keys) {
      const { item } = this.#cards.get(key);
      if (item === next) next = next.nextElementSibling;
      else this.list.insertBefore(item, next);
    }
  }

  /** The longest waiting calls always stay visible, in up to half of the space; the others alternate by page. */
  #onThisPage(keys) {
    const fit = this.#largestFit(keys);
    if (keys.length <= fit) {
      this.pages = 1;
      return keys;
    }
    const stay = Math.min(this.liveCalls.waiting(), Math.floor(fit / 2));
    const each = fit - stay;
    this.pages = Math.ceil((keys.length - stay) / each);
    const start = stay + this.page * each;
    return [...keys.slice(0, stay), ...keys.slice(start, start + each)];
  }

  /** Makes the cards as large as possible with all of them visible; if they do not fit, small and in pages. */
  #largestFit(keys) {
    if (!keys.length) return 1;
    let fit = 1;
    for (const columns of this.#columns()) {
      this.list.dataset.columns = columns;
      fit = columns * this.#rows(keys);
      if (fit >= keys.length) break;
    }
    return fit;
  }

  /** The numbers of columns that give cards of a sensible width; one column on a very narrow screen. */
  #columns() {
    const width_rem = this.list.clientWidth / parseFloat(getComputedStyle(document.documentElement).fontSize);
    const found = COLUMNS.filter((n) => width_rem / n >= WIDTH_REM.least && width_rem / n <= WIDTH_REM.most);
    return found.length ? found : [1];
  }

  /** The number of rows that fit, measured on a real card. */
  #rows(keys) {
    if (!this.list.firstElementChild) this.list.append(this.#cards.get(keys[0]).item);
    const gap = parseFloat(getComputedStyle(this.list).rowGap) || 0;
    const height = this.list.firstElementChild.offsetHeight + gap;
    const section = this.list.parentElement;
    const room = section.clientHeight - parseFloat(getComputedStyle(section).paddingBottom) + gap;
    return Math.max(1, Math.floor(room / height));
  }
}

function ownNumber(call) {
  return (call.direction === "inbound" ? call.to : call.from)?.extension_number ?? "";
}

function uncertainText({ since_ms, why }) {
  if (why === "vanished") return `missing from the list since ${timeOfDay(since_ms)}, checking the call log`;
  return since_ms ? `not updated since ${hoursMinutes(since_ms)}` : "not polled yet";
}
