// The page's data: live calls in order, sources, totals, and the service's clock. Does not touch the document.

export class LiveCalls {
  calls = new Map(); // by source and call id
  sources = new Map(); // summaries by name
  total = null; // conversations of all sources; one that several sources see counts once
  names = new Map(); // of extensions
  offset_ms = null; // service's clock minus this browser's
  lostAt_ms = null; // since when there has been no connection to the service
  unstored = null; // since when, and why, polls cannot be stored; their changes are not shown
  #order = null;

  #ahead_ms = new Map(); // by source: the platform's clock minus the service's

  /** The service's time; with a source, the time of its platform, which the calls' timestamps use. */
  now(source) {
    return Date.now() + (this.offset_ms ?? 0) + this.#ahead(source);
  }

  #ahead(source) {
    return this.#ahead_ms.get(source) ?? 0;
  }

  #updateClockOffsets(message) {
    const now = Date.parse(message.now);
    this.offset_ms = leastDelayed(this.offset_ms, now - Date.now());
    for (const { source, now: theirs } of message.sources) {
      if (theirs) this.#ahead_ms.set(source, leastDelayed(this.#ahead_ms.get(source), Date.parse(theirs) - now));
    }
  }

  /** Applies a `board` message; returns the keys of the calls whose cards may change. */
  update(message) {
    this.#updateClockOffsets(message);
    this.lostAt_ms = null;
    this.sources = new Map(message.sources.map((summary) => [summary.source, summary]));
    this.total = message.total;
    const { unstored } = message;
    this.unstored = unstored && { since_ms: Date.parse(unstored.since), detail: unstored.detail };
    const changed = new Set(message.calls.map(key));
    if (message.whole) {
      this.names = new Map(Object.entries(message.names));
      for (const known of this.calls.keys()) changed.add(known);
      this.calls.clear();
    }
    for (const call of message.calls) {
      if (call.state === "ended") this.calls.delete(key(call));
      else this.calls.set(key(call), { ...call, started_ms: Date.parse(call.started_at) });
    }
    if (changed.size) this.#order = null;
    return changed;
  }

  /** Keys of the live calls: waiting calls first, longest wait first; then the others, newest first. */
  inOrder() {
    this.#order ??= [...this.calls].sort(([a, x], [b, y]) => before(x, y) || (a < b ? 1 : -1)).map(([one]) => one);
    return this.#order;
  }

  /** The number of waiting calls. */
  waiting() {
    const first = this.inOrder().findIndex((one) => !waits(this.calls.get(one)));
    return first < 0 ? this.calls.size : first;
  }

  /** Since when, and why, a call's state may be out of date; null when it is current. */
  uncertainty(call) {
    if (this.lostAt_ms) return { since_ms: this.lostAt_ms + this.#ahead(call.source), why: "service" };
    const source = this.sources.get(call.source);
    if (!source || this.unstored || isEntirelyStale(source) || source.overdue.includes(call.extension_id)) {
      return { since_ms: source?.as_of ? Date.parse(source.as_of) : null, why: "source" };
    }
    return call.vanished_at ? { since_ms: Date.parse(call.vanished_at), why: "vanished" } : null;
  }

  /** The seconds that a call's clock shows. The clock stops while the call's state is uncertain. */
  seconds(call, uncertainty) {
    const from = call.state === "connected" && call.answered_at ? Date.parse(call.answered_at) : call.started_ms;
    return ((uncertainty ? (uncertainty.since_ms ?? from) : this.now(call.source)) - from) / 1000;
  }

  /** The totals that the page shows; they count conversations. */
  totals() {
    const waiting = [...this.sources.values()].filter((one) => one.longest_waiting_since);
    const waits_s = waiting.map((one) => this.#waits_s(one));
    return {
      waiting: this.total.waiting,
      connected: this.total.connected,
      dialing: this.total.dialing,
      answered: this.total.answered_today,
      missed: this.total.missed_today,
      abandoned: this.total.abandoned_today,
      longest_s: waits_s.length ? Math.max(...waits_s) : null,
      speed_s: this.total.average_speed_of_answer_seconds,
    };
  }

  /** The sources whose calls are not all up to date. */
  stale() {
    return [...this.sources.values()].filter((one) => !one.complete);
  }

  /** Whether the totals are out of date. */
  isStale() {
    return Boolean(this.lostAt_ms) || Boolean(this.unstored) || this.stale().some(isEntirelyStale);
  }

  /** The longest wait of a source's calls, up to the last time at which its state was known. */
  #waits_s(source) {
    let known_ms = this.now(source.source);
    if (this.lostAt_ms) known_ms = this.lostAt_ms + this.#ahead(source.source);
    else if ((this.unstored || isEntirelyStale(source)) && source.as_of) known_ms = Date.parse(source.as_of);
    return (known_ms - Date.parse(source.longest_waiting_since)) / 1000;
  }

  /** The sources whose changes RingCentral does not announce now, so that they are as fresh as their last poll. */
  polled() {
    return [...this.sources.values()].filter((one) => !one.hints?.up);
  }

  /** The age of the oldest of these sources' data in seconds; null until each of them has been polled. */
  age_s(sources) {
    if (!sources.length || sources.some((one) => !one.as_of)) return null;
    return Math.max(...sources.map((one) => this.now(one.source) - Date.parse(one.as_of))) / 1000;
  }
}

const isEntirelyStale = (source) => !source.complete && !source.overdue.length;

/** A delayed message carries an older time, so the least delayed recent message gives the best offset. */
function leastDelayed(known_ms, measured_ms) {
  const late_ms = known_ms - measured_ms;
  return known_ms == null || late_ms < 0 || late_ms > 1000 ? measured_ms : known_ms;
}

const waits = (call) => call.state === "ringing";

function before(x, y) {
  if (waits(x) !== waits(y)) return waits(x) ? -1 : 1;
  return waits(x) ? x.started_ms - y.started_ms : y.started_ms - x.started_ms;
}

export const key = (call) => `${call.source} ${call.call_id}`;
