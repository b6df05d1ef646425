"""Decides which record of a poll belongs to which part of a call. A record's id and start time may change."""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from callcast.calls.index import is_open, part_number
from callcast.calls.model import Call, CallObservation, Leg, State


class Part:
    """One part of an extension in a session, and the records of it in one poll."""

    def __init__(self, number: int, call: Call | None) -> None:
        self.number = number
        self.call = call
        self.records: list[CallObservation] = []

    @property
    def lead(self) -> CallObservation | None:
        """The record that represents the part: live before provisional before final, then the oldest known."""
        return min(self.records, key=self._rank, default=None)

    def observation(self) -> CallObservation:
        """Combine the part's records: the facts of the lead record, and connected if any record is connected."""
        lead = self.lead
        assert lead is not None  # noqa: S101 - only called for a part with records
        connected = [s for s in self.records if s.state is State.CONNECTED]
        if lead.state is State.CONNECTED or not connected:
            return lead
        legs: tuple[Leg, ...] = sum((s.legs for s in connected), lead.legs)
        return msgspec.structs.replace(lead, state=State.CONNECTED, legs=legs)

    def record_ids(self) -> tuple[str, ...]:
        known = self.call.record_ids if self.call else ()
        return tuple(dict.fromkeys((*known, *(observation.record_id for observation in self.records))))

    def is_over(self) -> bool:
        """True when no record of the part is live after this poll."""
        lead = self.lead
        if self.call is not None and not is_open(self.call):
            return True
        return lead is not None and is_final(lead)

    def is_followed_by(self, observation: CallObservation) -> bool:
        """True when the part has ended and `observation`, a record with another id, must be the extension's next part.

        A live record is the next part if it starts later. A final record is the next part if it starts after the end
        time that the platform gave for this one: a poll in between would have shown it live.
        """
        if not self.is_over() or observation.provisional:
            return False
        started_at, ended_at = self._times()
        if observation.started_at <= started_at:
            return False
        return not is_final(observation) or (ended_at is not None and observation.started_at >= ended_at)

    def follows(self, observation: CallObservation) -> bool:
        """True when the record had ended before this part began, so that it belongs to an earlier part."""
        started_at = self.call.started_at if self.call else self.records[0].started_at
        return was_over(observation, started_at)

    def _times(self) -> tuple[datetime, datetime | None]:
        """The start of a part that has ended, and its end if the platform gave it."""
        lead, call = self.lead, self.call
        if lead is not None and (call is None or is_open(call)):
            return lead.started_at, lead.ended_at
        assert call is not None  # noqa: S101 - a part has a call or at least one record
        return call.started_at, call.ended_at if call.ended_exact else None

    def _rank(self, observation: CallObservation) -> tuple[int, int]:
        ids = self.call.record_ids if self.call else ()
        liveness = 2 if is_final(observation) else 1 if observation.provisional else 0
        return liveness, ids.index(observation.record_id) if observation.record_id in ids else len(ids)


def is_final(observation: CallObservation) -> bool:
    return observation.state is State.ENDED and not observation.provisional


def was_over(observation: CallObservation, at: datetime) -> bool:
    """True when the record began before `at` and ended by then. One that began at `at` may be a rewritten record."""
    return observation.ended_at is not None and observation.ended_at <= at and observation.started_at < at


def match_parts(calls: Sequence[Call], seen: Sequence[CallObservation]) -> list[Part]:
    """Return the parts of one extension in one session, in order, each with its records of a poll.

    Known record ids are matched first. A record with a new id belongs to the last part that had begun when the record
    ended, or is a new part after it. Part numbers are given in the order in which parts become known.
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
        return  # it may not have ended, and it says nothing about later parts
    if not place or parts[place - 1].is_followed_by(observation):
        number = 1 + max((part.number for part in parts), default=0)
        parts.insert(place, Part(number, None))
        place += 1
    parts[place - 1].records.append(observation)


def _by_time(call: Call) -> tuple[bool, datetime, int]:
    """Sort by end: a start time may be rewritten to one before an earlier part, but the ends keep their order."""
    return is_open(call), call.ended_at or call.started_at, part_number(call)
