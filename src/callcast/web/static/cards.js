// The list of calls on the page: one card for each, changed in place, in the picture's order.

import { STATES, duration, hoursMinutes, other, timeOfDay, who } from "./words.js";

const TURN_S = 12; // how long a wall shows one page
const COLUMNS = [1, 2, 3, 4, 5]; // of a wall, the larger cards first
const WIDTH_REM = { least: 14, most: 40 }; // of its cards

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
    this.#say(card, "who", who(call));
    this.#say(card, "queue", call.queue && call.queue.name !== who(call) ? call.queue.name : "");
    this.#time(card);
  }

  #time(card) {
    const { call } = card;
    const doubt = this.picture.doubt(call);
    this.#say(card, "state", STATES[call.state] + (doubt ? "?" : ""));
    this.#say(card, "other", doubt ? doubtful(doubt) : other(call));
    this.#say(card, "clock", duration(this.picture.seconds(call, doubt)));
    card.item.toggleAttribute("data-doubt", Boolean(doubt));
  }

  /** Touches the page only where the text is another one. */
  #say(card, part, text) {
    if (card.shown[part] === text) return;
    card.shown[part] = text;
    card.parts[part].textContent = text;
    if (part === "who" || part === "other") card.parts[part].title = text; // it may be cut
  }

  #wanted() {
    const keys = this.picture.inOrder();
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

  /** Who waits the longest stays in sight, in up to half of the room; the others take turns. */
  #onThisPage(keys) {
    const fit = this.#largestFit(keys);
    if (keys.length <= fit) {
      this.pages = 1;
      return keys;
    }
    const stay = Math.min(this.picture.waiting(), Math.floor(fit / 2));
    const each = fit - stay;
    this.pages = Math.ceil((keys.length - stay) / each);
    const start = stay + this.page * each;
    return [...keys.slice(0, stay), ...keys.slice(start, start + each)];
  }

  /** Makes the cards as large as they can be with all of them in sight; else small, and the wall turns pages. */
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

  /** How many columns give cards of a sensible width; the narrowest screen has one. */
  #columns() {
    const width_rem = this.list.clientWidth / parseFloat(getComputedStyle(document.documentElement).fontSize);
    const found = COLUMNS.filter((n) => width_rem / n >= WIDTH_REM.least && width_rem / n <= WIDTH_REM.most);
    return found.length ? found : [1];
  }

  /** How many rows of such cards the wall has room for, measured on a real one. */
  #rows(keys) {
    if (!this.list.firstElementChild) this.list.append(this.#cards.get(keys[0]).item);
    const gap = parseFloat(getComputedStyle(this.list).rowGap) || 0;
    const height = this.list.firstElementChild.offsetHeight + gap;
    const board = this.list.parentElement;
    const room = board.clientHeight - parseFloat(getComputedStyle(board).paddingBottom) + gap;
    return Math.max(1, Math.floor(room / height));
  }
}

function ownNumber(call) {
  return (call.direction === "inbound" ? call.to : call.from)?.extension_number ?? "";
}

function doubtful({ since_ms, why }) {
  if (why === "vanished") return `not in the list since ${timeOfDay(since_ms)}, asking the call log`;
  return since_ms ? `not seen since ${hoursMinutes(since_ms)}` : "not seen yet";
}
