"""Encodes events and calls as JSON for consumers, with phone numbers redacted as each sink is configured.

An event is a valid CloudEvents 1.0 structured event. A call is encoded as the `data` of its last event.
"""

import hashlib
import hmac
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, Literal, get_args

import msgspec

from callcast.calls.model import Call, CallEvent, Disposition, Event, Observation, Party, Queue, SourceEvent, State
from callcast.calls.summary import Counts, HintsState, Summary

Numbers = Literal["full", "last4", "hash", "drop"]
NUMBERS: tuple[Numbers, ...] = get_args(Numbers)
DATASCHEMA = "urn:callcast:event:1"

_WITH_PLUS = r"\+\d[\d ()-]{5,}\d"
_DIGIT = re.compile(r"\d")
_BARE_DIGITS_MIN = 7  # fewer digits may be anything
_PROVIDER_WORDS = ("action", "result", "reason")  # the other fields are ids
_encode = msgspec.json.Encoder().encode
_CACHE_MAX = 256  # events; more than all sinks have in flight at a time


@lru_cache(1024)  # events of one poll or one call share their times
def rfc3339(at: datetime) -> str:
    """Format a time in UTC with milliseconds and a Z."""
    return at.isoformat(timespec="milliseconds")[:-6] + "Z"


def last4(number: str) -> str:
    """Reduce a number to its last four characters, which may be shown anywhere."""
    return "***" + "".join(c for c in number if c.isalnum())[-4:]


class Wire:
    """Encodes events and calls with one policy for phone numbers.

    numbers: full, last4, hash (the same number gives the same `h:` text for this sink and key) or drop.
    Except with full, locations and the external party's name are null, because they identify a caller as well as a
    number does. The own side's name is included only with full and last4, a queue's name only if it is confirmed. Ids
    are never changed. The latest encoded events are cached, so that sinks that share a `Wire` encode each only once.
    """

    def __init__(self, numbers: Numbers = "full", hash_key: bytes = b"", sink: str = "") -> None:
        self.numbers = numbers
        self._hash_key = hash_key
        self._sink = sink
        policies: Mapping[Numbers, Callable[[str], str | None]] = {
            "full": lambda number: number,
            "last4": last4,
            "hash": self._hashed,
            "drop": lambda _: None,
        }
        self._number = policies[numbers]
        self._cache: dict[str, tuple[Event, bytes]] = {}  # by id

    def event(self, event: Event) -> bytes:
        """The CloudEvents JSON of an event."""
        cached = self._cache.get(event.id)
        if cached is not None and cached[0] == event:
            return cached[1]
        text = _encode(self.event_dict(event))
        self._cache[event.id] = event, text
        if len(self._cache) > _CACHE_MAX:
            del self._cache[next(iter(self._cache))]
        return text

    def standard(self, event: Event) -> bytes:
        """The Standard Webhooks JSON of an event: type, timestamp, data."""
        data = self._data(event)
        return _encode({"type": event.type, "timestamp": rfc3339(event.time), "data": data})

    def call(self, call: Call) -> bytes:
        """The present state of a call."""
        return _encode(self.call_dict(call))

    def event_dict(self, event: Event) -> dict[str, Any]:
        return {**attributes(event), "data": self._data(event)}

    def call_dict(self, call: Call) -> dict[str, Any]:
        return {
            "call_id": call.call_id,
            "session_id": call.session_id,
            "account_id": call.account_id,
            "extension_id": call.extension_id,
            "sequence": call.sequence,
            "direction": call.direction,
            "state": call.state,
            "previous_state": call.previous_state,
            "from": self._party(call, call.from_party),
            "to": self._party(call, call.to_party),
            "queue": self._queue(call.queue),
            "started_at": rfc3339(call.started_at),
            "answered_at": call.answered_at and rfc3339(call.answered_at),
            "ended_at": call.ended_at and rfc3339(call.ended_at),
            "ring_seconds": ring_seconds(call),
            "talk_seconds": talk_seconds(call),
            "disposition": call.disposition,
            "observation": call.observation and _observation(call.observation),
            "provider": self._provider(call),
        }

    def _data(self, event: Event) -> dict[str, Any]:
        if isinstance(event, SourceEvent):
            return _source_data(event)
        data = self.call_dict(event.call)
        data |= {
            "sequence": event.sequence,
            "previous_state": event.previous_state,
            "observation": _observation(event.observation),
        }
        if event.corrects is not None:
            data["corrects"] = event.corrects
        return data

    def _party(self, call: Call, party: Party | None) -> dict[str, str | None] | None:
        if party is None:
            return None
        full = self.numbers == "full"
        named = full or (self.numbers == "last4" and is_own(call, party))
        return {
            "number": party.number and self._number(party.number),
            "name": party.name if named else None,
            "extension_number": party.extension_number,
            "location": party.location if full else None,
        }

    def _queue(self, queue: Queue | None) -> dict[str, str] | None:
        """An unconfirmed queue name may be part of the caller's name, so it is included only with full numbers."""
        return {"name": queue.name} if queue and (queue.confirmed or self.numbers == "full") else None

    def _provider(self, call: Call) -> dict[str, str | None]:
        fields: dict[str, str | None] = msgspec.structs.asdict(call.provider)
        if self.numbers == "full":
            return fields
        numbers = [p.number for p in (call.from_party, call.to_party) if p is not None and p.number]
        for word in _PROVIDER_WORDS:
            if text := fields[word]:
                fields[word] = self._redacted(text, numbers)
        return fields

    def _redacted(self, text: str, numbers: list[str]) -> str | None:
        """Apply the policy to each phone number in a provider's text that is a whole token."""
        if _DIGIT.search(text) is None:  # nearly always
            return text
        redacted = _any_of(numbers).sub(lambda found: self._number(found[0]) or "", text)
        return None if redacted != text and self.numbers == "drop" else redacted

    def _hashed(self, number: str) -> str:
        digits = _digits(number) or number
        return "h:" + hmac.digest(self._hash_key, f"{self._sink}:{digits}".encode(), hashlib.sha256).hex()[:16]


def is_own(call: Call, party: Party) -> bool:
    """Whether the party is the call's own extension, by its id; an unknown party counts as external."""
    return party.extension_id is not None and party.extension_id == call.extension_id


def _any_of(numbers: list[str]) -> re.Pattern[str]:
    """Match any of these numbers as a whole token, also as bare digits; or any number with a plus."""
    bare = [digits for number in numbers if len(digits := _digits(number)) >= _BARE_DIGITS_MIN]
    written = {number for number in (*numbers, *bare) if _DIGIT.search(number)}
    longest_first = sorted(written, key=lambda number: (-len(number), number))
    return re.compile("|".join((*map(_token, longest_first), _WITH_PLUS)))


def _token(number: str) -> str:
    """Match a number that is not part of a longer word."""
    before, after = (r"\b" if re.match(r"\w", end) else "" for end in (number[0], number[-1]))
    return before + re.escape(number) + after


def _digits(number: str) -> str:
    return "".join(c for c in number if c.isdigit())


def attributes(event: Event) -> dict[str, str]:
    """The CloudEvents attributes of an event. None of them holds a phone number."""
    return {
        "specversion": "1.0",
        "id": event.id,
        "source": f"/callcast/{event.source}",
        "type": event.type,
        "subject": event.key,
        "time": rfc3339(event.time),
        "datacontenttype": "application/json",
        "dataschema": DATASCHEMA,
        "partitionkey": event.key,
    }


def ring_seconds(call: Call) -> float | None:
    """Seconds from start to answer or end; None unless the platform gave the answer's time or the call was missed."""
    if call.answered_at is not None:
        return _seconds(call.started_at, call.answered_at) if call.answered_exact else None
    if call.ended_at is None or call.disposition in (Disposition.ANSWERED, Disposition.UNKNOWN):
        return None
    return _seconds(call.started_at, call.ended_at)


def talk_seconds(call: Call) -> float | None:
    """Seconds from answer to end; None if either is not known."""
    if call.answered_at is None or call.ended_at is None:
        return None
    return _seconds(call.answered_at, call.ended_at)


def _seconds(start: datetime, end: datetime) -> float:
    return max(0.0, round((end - start).total_seconds(), 3))


def _observation(observation: Observation) -> dict[str, Any]:
    return {
        "after": observation.after and rfc3339(observation.after),
        "before": rfc3339(observation.before),
        "exact": observation.exact,
        "evidence": observation.evidence,
        "first_poll": observation.first_poll,
    }


def _source_data(event: SourceEvent) -> dict[str, Any]:
    data: dict[str, Any] = {
        "source": event.source,
        "extension_id": event.extension_id,
        "reason": event.reason,
        "since": rfc3339(event.since),
    }
    if event.blind is not None:
        after = event.blind.after
        data["blind"] = {"after": after and rfc3339(after), "before": rfc3339(event.blind.before)}
    return data


def summary_dict(summary: Summary) -> dict[str, Any]:
    """One source's entry of `/api/summary`, without its extensions."""
    return {
        "source": summary.source,
        **counts_dict(summary),
        "as_of": summary.as_of and rfc3339(summary.as_of),
        "complete": summary.complete,
        "overdue": summary.overdue,
        "sign_ins_ahead": summary.sign_ins_ahead,
        "hints": summary.hints and _hints_dict(summary.hints),
        "now": summary.now and rfc3339(summary.now),
    }


def _hints_dict(hints: HintsState) -> dict[str, Any]:
    return {"via": hints.via, "up": hints.up, "since": rfc3339(hints.since), "missed": hints.missed}


def counts_dict(counts: Counts) -> dict[str, Any]:
    since, wait_s = counts.longest_waiting_since, counts.longest_wait_s
    return {
        "ringing": counts.ringing,
        "dialing": counts.dialing,
        "connected": counts.connected,
        "waiting": counts.waiting,
        "longest_waiting_since": since and rfc3339(since),
        "longest_wait_seconds": None if wait_s is None else round(wait_s, 3),
        "answered_today": counts.answered_today,
        "missed_today": counts.missed_today,
        "abandoned_today": counts.abandoned_today,
        "average_speed_of_answer_seconds": counts.average_speed_of_answer_s,
        "service_level": counts.service_level,
    }


def describe(event: Event) -> str:
    """One short line for people, without numbers and names."""
    if isinstance(event, CallEvent):
        ended = f" {event.call.disposition}" if event.call.state is State.ENDED else ""
        return f"{event.type} {event.key}{ended}"
    return f"{event.type} {event.source}" + (f" {event.extension_id}" if event.extension_id else "")
