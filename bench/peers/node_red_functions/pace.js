// Once with the token: polls evenly over the interval, in steps of 10 ms. Without an interval: 16 under way.
const job = global.get("job");
const one = (number) => ({
  url: job.server + job.targets[number % job.targets.length] + "?view=Detailed&type=Voice&perPage=1000",
  target: number % job.targets.length,
  headers: { authorization: "Bearer " + context.get("token") },
});
if (msg.target === undefined) {
  context.set("token", msg.payload.access_token);
  const began = Date.now();
  let number = 0;
  if (job.interval_s === 0) {
    for (; number < 16; number++) node.send(one(number));
    context.set("next", number);
  } else {
    setInterval(() => {
      const due = ((Date.now() - began) / 1000 / job.interval_s) * job.targets.length;
      for (; number < due; number++) node.send(one(number));
    }, 10);
  }
} else if (job.interval_s === 0) {
  const number = context.get("next");
  context.set("next", number + 1);
  return one(number);
}
return null;
