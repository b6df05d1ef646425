// Reads webhooks as JSON from standard input; prints which of them the official Standard Webhooks package accepts.
import { readFileSync } from "node:fs";
import { Webhook } from "standardwebhooks";

const accepted = ({ secret, headers, body }) => {
  try {
    new Webhook(secret).verify(body, headers);
    return true;
  } catch {
    return false;
  }
};
console.log(JSON.stringify(JSON.parse(readFileSync(0, "utf8")).map(accepted)));
