"""Signs webhooks (Standard Webhooks, symmetric), checks signatures, and explains what is wrong with one."""

import base64
import binascii
import hashlib
import hmac
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

TOLERANCE_S = 300
HEADERS = ("webhook-id", "webhook-timestamp", "webhook-signature")


@dataclass(frozen=True)
class SignatureCheck:
    """`why` is a sentence, `word` one of ok, unchecked, unsigned, no_header, bad_header, clock, body, secret_as_text,
    secret.
    """

    word: str
    why: str

    @property
    def good(self) -> bool:
        return self.word in ("ok", "unchecked", "unsigned")


def key_of(secret: str) -> bytes:
    """Decode a secret: `whsec_` and base64 of 24 to 64 bytes. Raises ValueError for anything else."""
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except binascii.Error:
        key = b""
    if not secret.startswith("whsec_") or not 24 <= len(key) <= 64:
        raise ValueError("expected whsec_ and base64 of 24 to 64 bytes")
    return key


def signature(key: bytes, signed: bytes) -> str:
    """Sign `ID.TIMESTAMP.BODY`. Without the version, `v1,`."""
    return base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


class SignatureChecker:
    """Checks requests with the same secrets. After one valid signature, a wrong one means that the body was changed."""

    def __init__(self, secrets: Sequence[str]) -> None:
        """Raises ValueError for an invalid secret."""
        self._secrets = secrets
        self._keys = [key_of(secret) for secret in secrets]
        self._matched_before = False

    def check(self, headers: Mapping[str, str], body: bytes, now: float) -> SignatureCheck:
        """Check a request. headers: names in lower case. now: seconds since 1970."""
        missing = [name for name in HEADERS if not headers.get(name)]
        if missing == [HEADERS[2]]:
            if not self._keys:
                return SignatureCheck("unsigned", "not signed, and no signature is expected")
            return SignatureCheck("no_header", "there is no webhook-signature: give the sink secrets = [...]")
        if missing:
            return SignatureCheck(
                "no_header", f"missing: {', '.join(missing)}; is the sender callcast, and no proxy strips them?"
            )
        event_id, stamp, signatures = (headers[name] for name in HEADERS)
        if not re.fullmatch(r"[0-9]{1,12}", stamp):
            return SignatureCheck("bad_header", f"webhook-timestamp is not a number of seconds: {stamp[:40]!r}")
        given = [word.removeprefix("v1,") for word in signatures.split() if word.startswith("v1,")]
        if not given:
            return SignatureCheck("bad_header", "webhook-signature has no part that begins with v1,")
        if not self._keys:
            return SignatureCheck("unchecked", "signed, but there is no --secret to check it with")
        return self._compare(f"{event_id}.{stamp}.".encode(), body, given, now - int(stamp))

    def _compare(self, head: bytes, body: bytes, given: Sequence[str], age_s: float) -> SignatureCheck:
        if _matches(self._keys, head + body, given):
            self._matched_before = True
            return _in_time(age_s)
        for how, written in _rewritten(body):
            if _matches(self._keys, head + written, given):
                return SignatureCheck("body", f"the body was changed on the way: what was signed {how}")
        texts = [text.encode() for secret in self._secrets for text in (secret, secret.removeprefix("whsec_"))]
        if _matches(texts, head + body, given):
            return SignatureCheck(
                "secret_as_text", "signed with the secret's text; the key is the base64 after whsec_, decoded"
            )
        if self._matched_before:
            return SignatureCheck(
                "body", "the secrets matched other requests, so body, id or timestamp were changed on the way"
            )
        if (body_id := _own_id(body)) and body_id != head.decode().rpartition(".")[0].rpartition(".")[0]:
            return SignatureCheck(
                "body", f"webhook-id is not the id in the body ({body_id}): one of them was changed on the way"
            )
        secrets = "the secret" if len(self._keys) == 1 else f"any of the {len(self._keys)} secrets"
        return SignatureCheck("secret", f"not signed with {secrets}: use the sender's secret, or the body was changed")


def _matches(keys: Iterable[bytes], signed: bytes, given: Sequence[str]) -> bool:
    wanted = [signature(key, signed).encode() for key in keys]
    return any(hmac.compare_digest(one, text.encode()) for one in wanted for text in given)


def _in_time(age_s: float) -> SignatureCheck:
    if abs(age_s) <= TOLERANCE_S:
        return SignatureCheck("ok", "the signature is good")
    when = f"{abs(age_s):.0f} s {'ago' if age_s > 0 else 'in the future'}"
    why = f"the signature is good, but of {when}, and {TOLERANCE_S} s are allowed: "
    return SignatureCheck("clock", why + "one of the clocks is wrong, or an old request was sent again")


def _rewritten(body: bytes) -> Iterator[tuple[str, bytes]]:
    """Undo common changes that programs and proxies make to a body."""
    yield "had no line break at its end", body.rstrip(b"\r\n")
    yield "had a line break at its end", body + b"\n"
    yield "began without a byte order mark", body.removeprefix(b"\xef\xbb\xbf")
    try:
        document = json.loads(body)
    except ValueError:
        return
    how = "is the same JSON, written differently: something parsed it and wrote it again"
    for ascii_only in (False, True):
        for separators in ((",", ":"), (", ", ": ")):
            yield how, json.dumps(document, ensure_ascii=ascii_only, separators=separators).encode()


def _own_id(body: bytes) -> str | None:
    try:
        document = json.loads(body)
    except ValueError:
        return None
    body_id = document.get("id") if isinstance(document, dict) else None
    return body_id if isinstance(body_id, str) else None
