"""Which record belongs to which part: contract 5, "A record's id and start time may change"."""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from callcast.calls.index import is_open, part_number
from callcast.calls.model import Call, CallObservation, Leg, State


class Part:
    """One part of an extension in a session, and the records of it that a poll shows."""

    def __init__(self, number: int, call: Call | None) -> None:
        self.number = number
        self.call = call
        self.records: list[CallObservation] = []

    @property
    def lead(self) -> CallObservation | None:
        """The record that speaks for the part: a live one before a provisional before a final, then the first seen."""
        return min(self.records, key=self._rank, default=None)

    def observation(self) -> CallObservation:
        """What the part's records show together: the lead's facts, and connected if any live record is."""
        lead = self.lead
        assert lead is not None  # noqa: S101 - a part without a record is never asked
        connected = [s for s in self.records if s.state is State.CONNECTED]
        if lead.state is State.CONNECTED or not connected:
            return lead
        legs: tuple[Leg, ...] = sum((s.legs for s in connected), lead.legs)
        return msgspec.structs.replace(lead, state=State.CONNECTED, legs=legs)

    def record_ids(self) -> tuple[str, ...]:
        known = self.call.record_ids if self.call else ()
        return tuple(dict.fromkeys((*known, *(observation.record_id for observation in self.records))))

    def is_over(self) -> bool:
        """After this poll nothing of the part is live."""
        lead = self.lead
        if self.call is not None and not is_open(self.call):
            return True
        return lead is not None and is_final(lead)

    def is_followed_by(self, observation: CallObservation) -> bool:
        """A part that is over, and a record with another id that can only be the extension's next part.

        A live record, if it starts later. One that is over as well, if it starts after the platform's end of the
        part: had we looked in between, it would have been live.
        """
        if not self.is_over() or observation.provisional:
            return False
        started_at, ended_at = self._times()
        if observation.started_at <= started_at:
            return False
        return not is_final(observation) or (ended_at is not None and observation.started_at >= ended_at)

    def follows(self, observation: CallObservation) -> bool:
        """The record is over, and was so when this part began: it is a word on an earlier one."""
        started_at = self.call.started_at if self.call else self.records[0].started_at
        return was_over(observation, started_at)

    def _times(self) -> tuple[datetime, datetime | None]:
        """Start, and the end where the platform gave it, of a part that is over."""
        lead, call = self.lead, self.call
        if lead is not None and (call is None or is_open(call)):
            return lead.started_at, lead.ended_at
        assert call is not None  # noqa: S101 - a part has a call, or it has been seen
        return call.started_at, call.ended_at if call.ended_exact else None

    def _rank(self, observation: CallObservation) -> tuple[int, int]:
        ids = self.call.record_ids if self.call else ()
        liveness = 2 if is_final(observation) else 1 if observation.provisional else 0
        return liveness, ids.index(observation.record_id) if observation.record_id in ids else len(ids)


def is_final(observation: CallObservation) -> bool:
    return observation.state is State.ENDED and not observation.provisional


def was_over(observation: CallObservation, at: datetime) -> bool:
    """The platform says that it ended by then. One that began right then as well may be a rewritten record."""
    return observation.ended_at is not None and observation.ended_at <= at and observation.started_at < at


def match_parts(calls: Sequence[Call], seen: Sequence[CallObservation]) -> list[Part]:
    """The parts of one extension in one session, first to last, with the records of a poll given to each.

    By record id first; a record with a new id belongs to the last part that was not yet to come when it ended, or
    is a part of its own after that one. Numbers are given in the order in which parts become known.
    """
    parts = [Part(part_number(call), call) for call in sorted(calls, key=_by_time)]
    unmatched: list[CallObservation] = []
    for observation in seen:
        own = next((p for p in parts if p.call and observation.record_id in p.call.record_ids), None)
        (own.records if own else unmatched).append(observation)
    for observation in sorted(unmatched, key=lambda s: s.started_at):
        _assign(parts, observation)
    return parts


def _assign(parts: list[Part], observation: CallObservation) -> None:
    place = len(parts)
    while place and parts[place - 1].follows(observation):
        place -= 1
    if place < len(parts) and observation.provisional:
        return  # not over for certain, and no word on what came later
    if not place or parts[place - 1].is_followed_by(observation):
        number = 1 + max((part.number for part in parts), default=0)
        parts.insert(place, Part(number, None))
        place += 1
    parts[place - 1].records.append(observation)


def _by_time(call: Call) -> tuple[bool, datetime, int]:
    """A start can be rewritten to before an earlier part; the ends of an extension's parts keep their order."""
    return is_open(call), call.ended_at or call.started_at, part_number(call)
