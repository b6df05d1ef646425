// The line to the service: one EventSource, replaced by a new one whenever it has gone silent or was refused.

import { EVENT_TYPES } from "./words.js";

const SILENT_MS = 8000; // the service says something every two seconds
const RETRY_MS = 2000; // give or take half: many walls come back at once

/**
 * to.hello(data), to.board(data), to.event(type, data): what came. to.lost(reason): nothing comes; called once
 * for each loss, with "gone" or "token".
 */
export function listen(to) {
  let source = null;
  let lastId = "";
  let heardAt = performance.now();
  let lost = false;

  function lose(reason) {
    if (!lost) to.lost(reason);
    lost = true;
  }

  function heard(handle) {
    return (message) => {
      heardAt = performance.now();
      lost = false;
      if (message.lastEventId) lastId = message.lastEventId;
      handle(JSON.parse(message.data));
    };
  }

  function open() {
    heardAt = performance.now();
    const resume = lastId ? `&after=${lastId}` : "&last=12";
    source = new EventSource(`/api/events?board=1${resume}`);
    source.addEventListener("hello", heard(to.hello));
    source.addEventListener("board", heard(to.board));
    for (const type of EVENT_TYPES) source.addEventListener(type, heard((event) => to.event(type, event)));
    source.addEventListener("error", refused);
  }

  /** The browser does not tell why; a plain request does. */
  async function refused() {
    lose("gone");
    source.close();
    try {
      const answer = await fetch("/api/summary", { cache: "no-store" });
      if (answer.status === 401) to.lost("token");
    } catch {
      // Gone, as was said.
    }
    again();
  }

  let waiting = null;
  function again() {
    clearTimeout(waiting);
    waiting = setTimeout(open, RETRY_MS * (0.5 + Math.random()));
  }

  setInterval(() => {
    if (source?.readyState === EventSource.CLOSED || performance.now() - heardAt < SILENT_MS) return;
    lose("gone");
    source.close();
    again();
  }, 1000);

  open();
}
