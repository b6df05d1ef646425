// What the page knows: the live calls in order, the sources, and what time it is at the service. No page in here.

export class Picture {
  calls = new Map(); // by source and call id
  sources = new Map(); // summaries by name
  total = null; // conversations of all sources: one that several see counts once
  names = new Map(); // of extensions
  offset_ms = null; // service's clock minus this browser's
  lostAt_ms = null; // since when nothing comes from the service
  unstored = null; // since when, and why, polls cannot be stored: what they show is not shown
  #order = null;

  #ahead_ms = new Map(); // by source: the platform's clock minus the service's

  /** At the service; with a source, at its platform, where the calls' times come from. */
  now(source) {
    return Date.now() + (this.offset_ms ?? 0) + this.#ahead(source);
  }

  #ahead(source) {
    return this.#ahead_ms.get(source) ?? 0;
  }

  #hearTheTime(board) {
    const now = Date.parse(board.now);
    this.offset_ms = quickest(this.offset_ms, now - Date.now());
    for (const { source, now: theirs } of board.sources) {
      if (theirs) this.#ahead_ms.set(source, quickest(this.#ahead_ms.get(source), Date.parse(theirs) - now));
    }
  }

  /** Takes a `board` message; returns the keys of the calls that may look different now. */
  take(board) {
    this.#hearTheTime(board);
    this.lostAt_ms = null;
    this.sources = new Map(board.sources.map((summary) => [summary.source, summary]));
    this.total = board.total;
    this.unstored = board.unstored && { since_ms: Date.parse(board.unstored.since), detail: board.unstored.detail };
    const touched = new Set(board.calls.map(key));
    if (board.whole) {
      this.names = new Map(Object.entries(board.names));
      for (const known of this.calls.keys()) touched.add(known);
      this.calls.clear();
    }
    for (const call of board.calls) {
      if (call.state === "ended") this.calls.delete(key(call));
      else this.calls.set(key(call), { ...call, started_ms: Date.parse(call.started_at) });
    }
    if (touched.size) this.#order = null;
    return touched;
  }

  /** Keys of the live calls: who waits before all, the longest wait first, then the others, the newest first. */
  inOrder() {
    this.#order ??= [...this.calls].sort(([a, x], [b, y]) => before(x, y) || (a < b ? 1 : -1)).map(([one]) => one);
    return this.#order;
  }

  /** How many of them wait. */
  waiting() {
    const first = this.inOrder().findIndex((one) => !waits(this.calls.get(one)));
    return first < 0 ? this.calls.size : first;
  }

  /** Since when a call's state is not known any more, and why: null when it is known. */
  doubt(call) {
    if (this.lostAt_ms) return { since_ms: this.lostAt_ms + this.#ahead(call.source), why: "service" };
    const source = this.sources.get(call.source);
    if (!source || this.unstored || unseenAsAWhole(source) || source.overdue.includes(call.extension_id)) {
      return { since_ms: source?.as_of ? Date.parse(source.as_of) : null, why: "source" };
    }
    return call.vanished_at ? { since_ms: Date.parse(call.vanished_at), why: "vanished" } : null;
  }

  /** What a call's clock shows, in seconds; it stands still where nobody knows whether the call goes on. */
  seconds(call, doubt) {
    const from = call.state === "connected" && call.answered_at ? Date.parse(call.answered_at) : call.started_ms;
    return ((doubt ? (doubt.since_ms ?? from) : this.now(call.source)) - from) / 1000;
  }

  /** Conversations, as the page shows them. */
  totals() {
    const waits = [...this.sources.values()].filter((one) => one.longest_waiting_since).map((one) => this.#waits_s(one));
    return {
      waiting: this.total.waiting,
      connected: this.total.connected,
      dialing: this.total.dialing,
      answered: this.total.answered_today,
      missed: this.total.missed_today,
      abandoned: this.total.abandoned_today,
      longest_s: waits.length ? Math.max(...waits) : null,
      speed_s: this.total.average_speed_of_answer_seconds,
    };
  }

  /** Sources whose picture is not whole, and since when. */
  stale() {
    return [...this.sources.values()].filter((one) => !one.complete);
  }

  /** Whether the totals are of another time. */
  isStale() {
    return Boolean(this.lostAt_ms) || Boolean(this.unstored) || this.stale().some(unseenAsAWhole);
  }

  /** How long the one who waits longest in this source does, as far as anybody knows. */
  #waits_s(source) {
    let known_ms = this.now(source.source);
    if (this.lostAt_ms) known_ms = this.lostAt_ms + this.#ahead(source.source);
    else if ((this.unstored || unseenAsAWhole(source)) && source.as_of) known_ms = Date.parse(source.as_of);
    return (known_ms - Date.parse(source.longest_waiting_since)) / 1000;
  }

  /** Seconds since the oldest look of all; null while something was never looked at. */
  age_s() {
    const all = [...this.sources.values()];
    if (!all.length || all.some((one) => !one.as_of)) return null;
    return Math.max(...all.map((one) => this.now(one.source) - Date.parse(one.as_of))) / 1000;
  }
}

const unseenAsAWhole = (source) => !source.complete && !source.overdue.length;

/** A message that took longer seems to come from an earlier time: the quickest one of late is believed. */
function quickest(known_ms, heard_ms) {
  const late_ms = known_ms - heard_ms;
  return known_ms == null || late_ms < 0 || late_ms > 1000 ? heard_ms : known_ms;
}

const waits = (call) => call.state === "ringing";

function before(x, y) {
  if (waits(x) !== waits(y)) return waits(x) ? -1 : 1;
  return waits(x) ? x.started_ms - y.started_ms : y.started_ms - x.started_ms;
}

export const key = (call) => `${call.source} ${call.call_id}`;
