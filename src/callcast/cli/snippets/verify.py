"""Verify webhooks of callcast (Standard Webhooks). Standard library only.

SECRETS=whsec_... python3 verify.py        # a receiver on http://127.0.0.1:8088/
"""

import base64
import hashlib
import hmac
import json
import os
import time
from collections.abc import Iterable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOLERANCE_S = 300


def verify(headers: Mapping[str, str], body: bytes, secrets: Iterable[str]) -> dict[str, Any]:
    """Return the event. Raises ValueError if the signature is invalid.

    body: the unmodified bytes of the request. JSON that was parsed and serialized again has another signature.
    secrets: all valid secrets; two during a rotation.
    """
    given = {name.lower(): value for name, value in headers.items()}
    try:
        event_id, stamp, signatures = (given[f"webhook-{name}"] for name in ("id", "timestamp", "signature"))
    except KeyError as missing:
        raise ValueError(f"the header {missing} is missing") from None
    if not (stamp.isascii() and stamp.isdigit()) or abs(time.time() - int(stamp)) > TOLERANCE_S:
        raise ValueError("the timestamp is too old, or from the future")
    signed = f"{event_id}.{stamp}.".encode() + body
    good = False
    for secret in secrets:
        key = base64.b64decode(secret.removeprefix("whsec_"))
        wanted = b"v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256))
        for signature in signatures.split():
            good |= hmac.compare_digest(wanted, signature.encode())  # in constant time
    if not good:
        raise ValueError("no signature matches")
    event: dict[str, Any] = json.loads(body)
    return event


seen: set[str] = set()  # store the ids together with your events: an event can arrive twice


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        try:
            event = verify(dict(self.headers), body, os.environ["SECRETS"].split())
        except ValueError as why:
            self.send_error(401, str(why))
            return
        event_id = self.headers["webhook-id"]
        if event_id not in seen:
            seen.add(event_id)
            self.log_message("%s %s", event["type"], event["data"])
        self.send_response(204)
        self.end_headers()


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", 8088), Receiver).serve_forever()
