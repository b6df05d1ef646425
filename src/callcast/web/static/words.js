// Texts of the page, and the formatting of times. Does not touch the document.

export const STATES = { ringing: "Ringing", dialing: "Dialing", connected: "Connected" };

const UNASSIGNED = "unassigned"; // the extension id of a call that no extension has yet

const ENDINGS = {
  answered: "ended",
  missed: "missed",
  no_answer: "no answer",
  abandoned: "caller hung up",
  voicemail: "voicemail",
  busy: "busy",
  declined: "declined",
  blocked: "blocked",
  failed: "failed",
  answered_elsewhere: "answered elsewhere",
  cancelled: "hung up",
  transferred: "transferred",
  fax: "fax",
  unknown: "ended, outcome unknown",
};
const ending = (data) => ENDINGS[data.disposition] ?? ENDINGS.unknown;

const HAPPENED = {
  "call.ringing": () => "ringing",
  "call.dialing": () => "dialing",
  "call.answered": (data) => (data.direction === "inbound" ? "answered" : "connected"),
  "call.ended": ending,
  "call.corrected": (data) => `corrected to ${ending(data)}`,
  "source.degraded": (data) => `no longer updated (${data.reason})`,
  "source.recovered": () => "updated again",
};
export const EVENT_TYPES = Object.keys(HAPPENED);

/** Formats a duration as m:ss, or as h:mm:ss from one hour on. */
export function duration(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const two = (n) => String(n).padStart(2, "0");
  const rest = `${two(Math.floor(whole / 60) % 60)}:${two(whole % 60)}`;
  return whole >= 3600 ? `${Math.floor(whole / 3600)}:${rest}` : rest.replace(/^0/, "");
}

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const exact = new Intl.DateTimeFormat(undefined, {
  hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23",
});
export const hoursMinutes = (ms) => clock.format(ms);
export const timeOfDay = (ms) => exact.format(ms);

export function ago(seconds) {
  if (seconds < 100) return `${Math.max(1, Math.round(seconds))} s`;
  if (seconds < 6000) return `${Math.round(seconds / 60)} min`;
  return `${Math.round(seconds / 3600)} h`;
}

/** A phone number as the service sends it: complete, its last four digits, or a hash. */
function number(text) {
  if (text.startsWith("***")) return `… ${text.slice(3)}`;
  return text.startsWith("h:") ? `caller ${text.slice(2, 8)}` : text;
}

function party(party) {
  if (!party) return null;
  if (party.name && party.number) return `${party.name}, ${number(party.number)}`;
  if (party.name) return party.name;
  if (party.number) return number(party.number);
  return party.extension_number ? `ext. ${party.extension_number}` : null;
}

/** The name of the call's own extension. */
export function who(call) {
  if (call.extension_name) return call.extension_name;
  if (call.extension_id === UNASSIGNED) return call.queue?.name ?? "Not assigned yet";
  const own = call.direction === "inbound" ? call.to : call.from;
  if (own?.name) return own.name;
  return own?.extension_number ? `Ext. ${own.extension_number}` : call.extension_id;
}

/** The other party of the call. */
export function other(call) {
  const inbound = call.direction === "inbound";
  const remote = party(inbound ? call.from : call.to);
  if (remote) return `${inbound ? "from" : "to"} ${remote}`;
  return inbound ? "caller not known yet" : "number not known yet";
}

/** Whether an event is listed under Latest. When an extension takes over a call, its own events show that. */
export function isNews(data) {
  return !(data.extension_id === UNASSIGNED && data.disposition === "transferred");
}

/** The text of an event in the list of latest events. */
export function happened(type, data, names) {
  const say = HAPPENED[type];
  if (type.startsWith("source.")) {
    const what = data.extension_id ? (names.get(data.extension_id) ?? data.extension_id) : data.source;
    return `${what}: ${say(data)}`;
  }
  return `${who({ ...data, extension_name: names.get(data.extension_id) })}: ${say(data)}`;
}
