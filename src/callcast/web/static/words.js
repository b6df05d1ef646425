// What is said, and how times are written. No page in here.

export const STATES = { ringing: "Ringing", dialing: "Dialing", connected: "Connected" };

const UNASSIGNED = "unassigned"; // a call of which no extension is known yet

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
  "source.degraded": (data) => `not seen any more (${data.reason})`,
  "source.recovered": () => "seen again",
};
export const EVENT_TYPES = Object.keys(HAPPENED);

/** m:ss, from an hour on h:mm:ss. */
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

/** A number as the service shows it: whole, its last four digits, or a digest. */
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

/** The extension's own side, as people know it. */
export function who(call) {
  if (call.extension_name) return call.extension_name;
  if (call.extension_id === UNASSIGNED) return call.queue?.name ?? "Not assigned yet";
  const own = call.direction === "inbound" ? call.to : call.from;
  if (own?.name) return own.name;
  return own?.extension_number ? `Ext. ${own.extension_number}` : call.extension_id;
}

/** The other side. */
export function other(call) {
  const inbound = call.direction === "inbound";
  const far = party(inbound ? call.from : call.to);
  if (far) return `${inbound ? "from" : "to"} ${far}`;
  return inbound ? "caller not known yet" : "number not known yet";
}

/** Whether an event is worth a place in the last line: that an extension took over is told by what rings there. */
export function isNews(data) {
  return !(data.extension_id === UNASSIGNED && data.disposition === "transferred");
}

/** What an event of these types says in the last line. */
export function happened(type, data, names) {
  const say = HAPPENED[type];
  if (type.startsWith("source.")) {
    const what = data.extension_id ? (names.get(data.extension_id) ?? data.extension_id) : data.source;
    return `${what}: ${say(data)}`;
  }
  return `${who({ ...data, extension_name: names.get(data.extension_id) })}: ${say(data)}`;
}
