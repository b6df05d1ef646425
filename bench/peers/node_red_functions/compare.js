const state = (record) => {
  if (record.result !== "In Progress") return "call.ended";
  return (record.legs || []).some((leg) => leg.reason === "Accepted") ? "call.answered" : "call.ringing";
};
const known = context.get("known") || {};
context.set("known", known);
const before = known[msg.target] || {};
const now = {};
const events = [];
for (const record of msg.payload.records || []) {
  const session = record.telephonySessionId;
  now[session] = state(record);
  if (before[session] === now[session]) continue;
  const extension = String(record.extension.id);
  events.push({
    topic: `callcast/acme/${extension}/events/${now[session]}`,
    headers: { "content-type": "application/json" },
    payload: JSON.stringify({
      type: now[session],
      session_id: session,
      extension_id: extension,
      direction: record.direction,
      started_at: record.startTime,
      from: record.from,
      to: record.to,
      result: record.result,
      duration: record.duration,
    }),
  });
}
known[msg.target] = now;
return [events, { target: msg.target }];
