// Verify webhooks of callcast (Standard Webhooks). Node.js 18 or newer, no dependencies.
//
//     SECRETS=whsec_... node verify.mjs        # a receiver on http://127.0.0.1:8088/

import { createHmac, timingSafeEqual } from "node:crypto";
import { createServer } from "node:http";
import { pathToFileURL } from "node:url";

const TOLERANCE_S = 300;

/**
 * Return the event. Throws if the signature is invalid.
 *
 * headers: with lowercase names, as Node.js provides them.
 * body: a Buffer with the unmodified bytes of the request. JSON that was parsed and serialized again has another
 *   signature.
 * secrets: all valid secrets; two during a rotation.
 */
export function verify(headers, body, secrets) {
  const [id, stamp, signatures] = ["id", "timestamp", "signature"].map((name) => {
    const value = headers[`webhook-${name}`];
    if (!value) throw new Error(`the header webhook-${name} is missing`);
    return value;
  });
  if (!/^\d+$/.test(stamp) || Math.abs(Date.now() / 1000 - Number(stamp)) > TOLERANCE_S) {
    throw new Error("the timestamp is too old, or from the future");
  }
  const signed = Buffer.concat([Buffer.from(`${id}.${stamp}.`), body]);
  let good = false;
  for (const secret of secrets) {
    const key = Buffer.from(secret.replace(/^whsec_/, ""), "base64");
    const wanted = Buffer.from("v1," + createHmac("sha256", key).update(signed).digest("base64"));
    for (const signature of signatures.split(" ").map((text) => Buffer.from(text))) {
      // In constant time.
      if (signature.length === wanted.length && timingSafeEqual(signature, wanted)) good = true;
    }
  }
  if (!good) throw new Error("no signature matches");
  return JSON.parse(body.toString("utf8"));
}

const seen = new Set(); // store the ids together with your events: an event can arrive twice

async function receive(request, response) {
  const pieces = [];
  for await (const piece of request) pieces.push(piece);
  let event;
  try {
    event = verify(request.headers, Buffer.concat(pieces), process.env.SECRETS.split(/\s+/));
  } catch (why) {
    response.writeHead(401).end(`${why.message}\n`);
    return;
  }
  const id = request.headers["webhook-id"];
  if (!seen.has(id)) {
    seen.add(id);
    console.log(event.type, event.data);
  }
  response.writeHead(204).end();
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  createServer(receive).listen(8088, "127.0.0.1");
}
