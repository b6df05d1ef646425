// The list of calls on the page: one card for each, changed in place, in the picture's order.

import { STATES, duration, hoursMinutes, other, timeOfDay, who } from "./words.js";

const TURN_S = 12; // how long a wall shows one page
const SIZES = ["large", "medium", "small"]; // of a wall's cards

export class Cards {
  #cards = new Map(); // key -> {item, parts, call, doubt, text}
  #turn = 0;
  pages = 1;

  constructor(list, picture, { wall }) {
    this.list = list;
    this.picture = picture;
    this.wall = wall;
    this.search = "";
  }

  /** Brings these cards up to the picture. */
  update(keys) {
    for (const key of keys) {
      const call = this.picture.calls.get(key);
      const card = this.#cards.get(key);
      if (call) this.#fill(card ?? this.#make(key), call);
      else if (card) {
        card.item.remove();
        this.#cards.delete(key);
      }
    }
    this.#arrange();
  }

  /** Once a second: clocks, doubts, and on a wall the page. */
  tick(second) {
    for (const card of this.#cards.values()) this.#time(card);
    const turn = Math.floor(second / TURN_S);
    if (turn !== this.#turn) {
      this.#turn = turn;
      if (this.wall && this.pages > 1) this.#arrange();
    }
  }

  find(text) {
    this.search = text.trim().toLowerCase();
    this.#arrange();
  }

  /** How many calls are shown, of those that the search allows. */
  get shown() {
    return this.#wanted().length;
  }

  get page() {
    return this.pages > 1 ? this.#turn % this.pages : 0;
  }

  #make(key) {
    const item = document.createElement("li");
    const parts = {};
    for (const [name, tag] of [["state", "p"], ["who", "h3"], ["clock", "p"], ["other", "p"]]) {
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
    this.#say(card, "who", who(call));
    this.#time(card);
  }

  #time(card) {
    const { call } = card;
    const doubt = this.picture.doubt(call);
    this.#say(card, "state", STATES[call.state] + (doubt ? "?" : ""));
    this.#say(card, "other", doubt ? doubtful(doubt) : other(call));
    const seconds = this.picture.seconds(call, doubt);
    this.#say(card, "clock", duration(seconds));
    card.parts.clock.toggleAttribute("data-long", seconds >= 3600);
    card.item.toggleAttribute("data-doubt", Boolean(doubt));
  }

  /** Touches the page only where the text is another one. */
  #say(card, part, text) {
    if (card.shown[part] === text) return;
    card.shown[part] = text;
    card.parts[part].textContent = text;
  }

  #wanted() {
    const keys = this.picture.newestFirst();
    return this.search ? keys.filter((key) => this.#cards.get(key)?.words.includes(this.search)) : keys;
  }

  #arrange() {
    const keys = this.#wanted();
    this.#place(this.wall ? this.#onThisPage(keys) : keys);
  }

  /** Puts the cards into the list in this order, moving only those that stand wrong. */
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

  #onThisPage(keys) {
    const fit = this.#largestFit(keys);
    this.pages = Math.max(1, Math.ceil(keys.length / fit));
    const start = this.page * fit;
    return keys.slice(start, start + fit);
  }

  /** Makes the cards as large as they can be with all of them in sight; else small, and the wall turns pages. */
  #largestFit(keys) {
    if (!keys.length) return 1;
    let fit = 1;
    for (const size of SIZES) {
      this.list.dataset.size = size;
      fit = this.#fit(keys);
      if (fit >= keys.length) break;
    }
    return fit;
  }

  /** How many cards of this size the wall has room for, measured on a real one. */
  #fit(keys) {
    if (!this.list.firstElementChild) this.list.append(this.#cards.get(keys[0]).item);
    const style = getComputedStyle(this.list);
    const gap = parseFloat(style.rowGap) || 0;
    const columns = style.gridTemplateColumns.split(" ").length;
    const height = this.list.firstElementChild.offsetHeight + gap;
    const board = this.list.parentElement;
    const room = board.clientHeight - parseFloat(getComputedStyle(board).paddingBottom) + gap;
    return Math.max(1, columns * Math.floor(room / height));
  }
}

function ownNumber(call) {
  return (call.direction === "inbound" ? call.to : call.from)?.extension_number ?? "";
}

function doubtful({ since_ms, why }) {
  if (why === "vanished") return `not in the list since ${timeOfDay(since_ms)}, asking the call log`;
  return since_ms ? `not seen since ${hoursMinutes(since_ms)}` : "not seen yet";
}
