// The connection to the service: one EventSource, replaced by a new one when it is silent for too long or fails.

import { EVENT_TYPES } from "./words.js";

const SILENT_MS = 8000; // the service sends something every two seconds
const RETRY_MS = 2000; // plus or minus half, because many displays may reconnect at once

/**
 * Calls to.hello(data), to.board(data) and to.event(type, data) for each message, and to.lost(reason) once for
 * each lost connection, with "gone" or "token".
 */
export function listen(to) {
  let source = null;
  let lastId = "";
  let lastMessageAt = performance.now();
  let lost = false;

  function reportLost(reason) {
    if (!lost) to.lost(reason);
    lost = true;
  }

  function received(handle) {
    return (message) => {
      lastMessageAt = performance.now();
      lost = false;
      if (message.lastEventId) lastId = message.lastEventId;
      handle(JSON.parse(message.data));
    };
  }

  function open() {
    lastMessageAt = performance.now();
    const resume = lastId ? `&after=${lastId}` : "&last=12";
    source = new EventSource(`/api/events?board=1${resume}`);
    source.addEventListener("hello", received(to.hello));
    source.addEventListener("board", received(to.board));
    for (const type of EVENT_TYPES) source.addEventListener(type, received((event) => to.event(type, event)));
    source.addEventListener("error", failed);
  }

  /** An EventSource does not give the status of a failure; a plain request does. */
  async function failed() {
    reportLost("gone");
    source.close();
    try {
      const response = await fetch("/api/summary", { cache: "no-store" });
      if (response.status === 401) to.lost("token");
    } catch {
      // Already reported as gone.
    }
    reconnect();
  }

  let waiting = null;
  function reconnect() {
    clearTimeout(waiting);
    waiting = setTimeout(open, RETRY_MS * (0.5 + Math.random()));
  }

  setInterval(() => {
    if (source?.readyState === EventSource.CLOSED || performance.now() - lastMessageAt < SILENT_MS) return;
    reportLost("gone");
    source.close();
    reconnect();
  }, 1000);

  open();
}
