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
from msgspec import UNSET, structs

from callcast.calls.model import Call, CallEvent, Disposition, Event, Party, Queue
from callcast.calls.summary import Counts, Summary
from callcast.formats import payloads
from callcast.formats.payloads import DATASCHEMA, CallData, CloudEvent, SourceData, StandardEvent

Numbers = Literal["full", "last4", "hash", "drop"]
NUMBERS: tuple[Numbers, ...] = get_args(Numbers)

_WITH_PLUS = r"\+\d[\d ()-]{5,}\d"
_DIGIT = re.compile(r"\d")
_BARE_DIGITS_MIN = 7  # fewer digits may be anything
_encode = msgspec.json.Encoder().encode
_CACHE_MAX = 256  # events; more than all sinks have in flight at a time


@lru_cache(1024)  # events of one poll or one call share their times
def rfc3339(at: datetime) -> str:
    """Format a time in UTC with milliseconds and a Z."""
    return at.isoformat(timespec="milliseconds")[:-6] + "Z"


def _time(at: datetime | None) -> str | None:
    return None if at is None else rfc3339(at)


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
        text = _encode(_cloud_event(event, self._data(event)))
        self._cache[event.id] = event, text
        if len(self._cache) > _CACHE_MAX:
            del self._cache[next(iter(self._cache))]
        return text

    def standard(self, event: Event) -> bytes:
        """The Standard Webhooks JSON of an event: type, timestamp, data."""
        return _encode(StandardEvent(type=event.type, timestamp=rfc3339(event.time), data=self._data(event)))

    def call(self, call: Call) -> bytes:
        """The present state of a call."""
        return _encode(self.call_data(call))

    def event_dict(self, event: Event) -> dict[str, Any]:
        fields: dict[str, Any] = msgspec.to_builtins(_cloud_event(event, self._data(event)))
        return fields

    def call_dict(self, call: Call) -> dict[str, Any]:
        fields: dict[str, Any] = msgspec.to_builtins(self.call_data(call))
        return fields

    def call_data(self, call: Call, event: CallEvent | None = None) -> CallData:
        """The call as it is now, or as it was at the event."""
        latest = call if event is None else event
        observation = latest.observation
        return CallData(
            call_id=call.call_id,
            session_id=call.session_id,
            account_id=call.account_id,
            extension_id=call.extension_id,
            sequence=latest.sequence,
            direction=call.direction,
            state=call.state,
            previous_state=latest.previous_state,
            from_party=self._party(call, call.from_party),
            to_party=self._party(call, call.to_party),
            queue=self._queue(call.queue),
            started_at=rfc3339(call.started_at),
            answered_at=_time(call.answered_at),
            ended_at=_time(call.ended_at),
            ring_seconds=ring_seconds(call),
            talk_seconds=talk_seconds(call),
            disposition=call.disposition,
            observation=None
            if observation is None
            else payloads.Observation(
                after=_time(observation.after),
                before=rfc3339(observation.before),
                exact=observation.exact,
                evidence=observation.evidence,
                first_poll=observation.first_poll,
            ),
            provider=self._provider(call),
            corrects=UNSET if event is None or event.corrects is None else event.corrects,
        )

    def _data(self, event: Event) -> CallData | SourceData:
        if isinstance(event, CallEvent):
            return self.call_data(event.call, event)
        blind = event.blind
        return SourceData(
            source=event.source,
            extension_id=event.extension_id,
            reason=event.reason,
            since=rfc3339(event.since),
            blind=payloads.Blind(_time(blind.after), rfc3339(blind.before)) if blind else UNSET,
        )

    def _party(self, call: Call, party: Party | None) -> payloads.Party | None:
        if party is None:
            return None
        full = self.numbers == "full"
        is_own = party.extension_id == call.extension_id  # a party without an id counts as external
        named = full or (self.numbers == "last4" and is_own)
        return payloads.Party(
            number=party.number and self._number(party.number),
            name=party.name if named else None,
            extension_number=party.extension_number,
            location=party.location if full else None,
        )

    def _queue(self, queue: Queue | None) -> payloads.Queue | None:
        """An unconfirmed queue name may be part of the caller's name, so it is included only with full numbers."""
        return payloads.Queue(queue.name) if queue and (queue.confirmed or self.numbers == "full") else None

    def _provider(self, call: Call) -> payloads.Provider:
        provider = call.provider
        words = [provider.action, provider.result, provider.reason]  # the other fields are ids
        if self.numbers != "full":
            numbers = [p.number for p in (call.from_party, call.to_party) if p is not None and p.number]
            words = [word and self._redacted(word, numbers) for word in words]
        return payloads.Provider(provider.name, provider.record_id, provider.session_id, *words)

    def _redacted(self, text: str, numbers: list[str]) -> str | None:
        """Apply the policy to each phone number in a provider's text that is a whole token."""
        if _DIGIT.search(text) is None:  # nearly always
            return text
        redacted = _any_of(numbers).sub(lambda found: self._number(found[0]) or "", text)
        return None if redacted != text and self.numbers == "drop" else redacted

    def _hashed(self, number: str) -> str:
        digits = _digits(number) or number
        return "h:" + hmac.digest(self._hash_key, f"{self._sink}:{digits}".encode(), hashlib.sha256).hex()[:16]


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
    fields: dict[str, str] = structs.asdict(_cloud_event(event, None))
    del fields["data"]
    return fields


def _cloud_event(event: Event, data: CallData | SourceData | None) -> CloudEvent:
    return CloudEvent(
        specversion="1.0",
        id=event.id,
        source=f"/callcast/{event.source}",
        type=event.type,
        subject=event.key,
        time=rfc3339(event.time),
        datacontenttype="application/json",
        dataschema=DATASCHEMA,
        partitionkey=event.key,
        data=data,
    )


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


def summary_data(summary: Summary) -> payloads.Summary:
    """One source's entry of `/api/summary`, without its extensions."""
    hints = summary.hints
    return payloads.Summary(
        **structs.asdict(counts_data(summary)),
        source=summary.source,
        as_of=_time(summary.as_of),
        complete=summary.complete,
        overdue=summary.overdue,
        sign_ins_ahead=summary.sign_ins_ahead,
        hints=None if hints is None else payloads.Hints(hints.via, hints.up, rfc3339(hints.since), hints.missed),
        now=_time(summary.now),
    )


def counts_data(counts: Counts) -> payloads.Counts:
    return payloads.Counts(
        ringing=counts.ringing,
        dialing=counts.dialing,
        connected=counts.connected,
        waiting=counts.waiting,
        longest_waiting_since=_time(counts.longest_waiting_since),
        longest_wait_seconds=None if counts.longest_wait_s is None else round(counts.longest_wait_s, 3),
        answered_today=counts.answered_today,
        missed_today=counts.missed_today,
        abandoned_today=counts.abandoned_today,
        average_speed_of_answer_seconds=counts.average_speed_of_answer_s,
        service_level=counts.service_level,
    )
