"""A call's three records (ringing, answered, ended) as the platform writes them, ready but for ids and times.

Made from the recorded direct call, with the spaces that the platform's own JSON has.
"""

import json
import re
from datetime import UTC, datetime, timedelta

from callcast.simulator.scenarios.seed import ACCOUNT_ID, EXTENSION_ID, answers

EVENTS = (b"call.ringing", b"call.answered", b"call.ended")
STEPS = len(EVENTS)
EXTENSION_BASE = 62_264_000_000  # extension ids have the length of real ones
_RECORD, _SESSION = "LIef14l8Nt_1zUA", "s-8f8125f1aeb944f486531c351a2f520e"
_START, _ACCEPT = "2021-01-19T23:58:57.000Z", "2021-01-19T23:59:01.000Z"


def extension_id(index: int) -> str:
    return str(EXTENSION_BASE + index)


def _template(step: int) -> bytes:
    text = json.dumps(answers()[step][0], indent=1).replace("%", "%%")
    for recorded, context in (
        (EXTENSION_ID, b"%(extension)s"),
        (_RECORD, b"%(record)s"),
        (_SESSION, b"%(session)s"),
        (_START, b"%(start)s"),
        (_ACCEPT, b"%(accept)s"),
    ):
        text = text.replace(recorded, context.decode())
    text = text.replace('"duration": 10,', '"duration": %(long)d,').replace('"duration": 6,', '"duration": %(talk)d,')
    return text.encode()


_TEMPLATES = tuple(_template(step) for step in range(STEPS))


class Call:
    """One call at one extension; `step` is what it shows now."""

    __slots__ = ("_accept", "_facts", "_start", "extension", "number", "row", "step")

    def __init__(self, number: int, extension: str, now: datetime) -> None:
        self.number = number
        self.extension = extension
        self.step = 0
        self.row = -1  # of the ground truth: its latest change
        self._start = self._accept = now
        self._facts = {
            b"extension": extension.encode(),
            b"record": b"LI%013d" % number,
            b"session": session(number),
            b"start": _stamp(now),
        }

    def turn(self, now: datetime) -> None:
        self.step += 1
        if self.step == 1:
            self._accept = now
        else:
            self._facts[b"long"] = max(1, int((now - self._start).total_seconds()))
            self._facts[b"talk"] = max(1, int((now - self._accept).total_seconds()))
        self._facts[b"accept"] = _stamp(self._accept)

    def body(self) -> bytes:
        return _TEMPLATES[self.step] % self._facts


def session(number: int) -> bytes:
    return b"s-%032x" % number


_FOUND = re.compile(rb'"session_id":\s?"s-([0-9a-f]{32})"')
_TYPE = re.compile(rb'"type":\s?"([a-z.]+)"')
_STEPS = {event: step for step, event in enumerate(EVENTS)}


def key_of(event: bytes) -> int | None:
    """Which change an event reports: call number and step in one; None for an event of another kind."""
    found, kind = _FOUND.search(event), _TYPE.search(event)
    if found is None or kind is None or kind[1] not in _STEPS:
        return None
    return int(found[1], 16) * STEPS + _STEPS[kind[1]]


def page(address: str, records: list[bytes]) -> bytes:
    head = b'{\n "uri": "https://platform.ringcentral.com%s?view=Detailed&page=1&perPage=1000",\n' % address.encode()
    tail = b'],\n "paging": {\n  "page": 1,\n  "perPage": 1000\n },\n "navigation": {\n }\n}'
    return head + b' "records": [' + b",\n".join(records) + tail


def _stamp(at: datetime) -> bytes:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3].encode() + b"Z"


def soon(now: datetime, seconds: float) -> datetime:
    return now + timedelta(seconds=seconds)


ACCOUNT = ACCOUNT_ID
