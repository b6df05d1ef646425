"""Event ids. An id is a pure function of the fact: it is the same after a crash, in a replay and on another machine."""

import base64
import hashlib


def event_id(*fact: str | None) -> str:
    """Return `evt_` and 26 letters and digits (130 bits of a digest of `fact`).

    The parts are length-prefixed, so that ("a", "bc") and ("ab", "c") differ.
    """
    digest = hashlib.blake2b(digest_size=20)
    for part in fact:
        raw = b"\xff" if part is None else part.encode()
        digest.update(b"%d:%b" % (len(raw), raw))
    return "evt_" + base64.b32encode(digest.digest())[:26].decode().lower()
