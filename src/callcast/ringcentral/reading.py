"""What one record says of one extension: live, provisional or ended, which way, since when. Pure.

The rules are those of contract 5; each names the recording or sample (tests/samples) that shows it.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from msgspec import Struct

from callcast.core.model import Direction, Disposition, State
from callcast.ringcentral.page import Record, RecordLeg, Side
from callcast.ringcentral.words import (
    ANSWERED_REASONS,
    CONNECTED,
    IN_PROGRESS,
    LISTENING_LEGS,
    PROVISIONAL,
    RING_OUT_LEGS,
    STOPPED,
    disposition,
    folded,
)

_RING_OUT = folded(RING_OUT_LEGS)
_LISTENING = folded(LISTENING_LEGS)

UNANSWERED = {Direction.INBOUND: State.RINGING, Direction.OUTBOUND: State.DIALING}


class Outcome(Struct, frozen=True, gc=False):
    state: State
    provisional: bool = False
    disposition: Disposition | None = None


_LIVE: Mapping[State, Outcome] = {state: Outcome(state) for state in State if state is not State.ENDED}
_SAID_CONNECTED = Outcome(State.CONNECTED, disposition=Disposition.ANSWERED)


class View(Struct, frozen=True, gc=False):
    """One extension's view of a record. `offered`: the record reads Outbound, but the phone is rung."""

    direction: Direction
    outcome: Outcome
    offered: bool
    legs: Sequence[RecordLeg]
    started_at: datetime
    ended_at: datetime | None
    from_: Side | None
    to: Side | None


def whole(record: Record, legs: Sequence[RecordLeg]) -> View:
    """The record is this extension's own."""
    outbound = record.direction.lower() == "outbound"
    offered = outbound and _offered(record, legs)
    direction = Direction.OUTBOUND if outbound and not offered else Direction.INBOUND
    outcome = _outcome(record, legs, direction)
    if outcome.provisional and _answered(record, legs):  # one of its own phones took it, others were merely rung
        outcome = Outcome(State.ENDED, provisional=True, disposition=Disposition.ANSWERED)
    ended_at = end_of(record, record.start_time) if outcome.state is State.ENDED else None
    return View(direction, outcome, offered, legs, record.start_time, ended_at, record.from_, record.to)


def share(record: Record, legs: Sequence[RecordLeg], own: Sequence[RecordLeg]) -> View:
    """One extension's share of a record that rings or joins several: its own legs tell more than the record."""
    direction = _share_direction(record, own)
    outcome = _share_outcome(record, legs, own, direction)
    started_at = min(leg.start_time or record.start_time for leg in own)
    offered = direction is Direction.INBOUND and record.direction.lower() == "outbound"
    ended_at = _share_end(record, own) if outcome.state is State.ENDED else None
    first = own[0]
    from_, to = (first.from_, first.to) if offered else (record.from_ or first.from_, record.to or first.to)
    return View(direction, outcome, offered, own, started_at, ended_at, from_, to)


def accepted(one: Record | RecordLeg) -> bool:
    """The two sides talk, or talked."""
    return one.reason is not None and one.reason.lower() in ANSWERED_REASONS


def rings_out(leg: RecordLeg) -> bool:
    """The platform placed this leg towards a phone of the company."""
    return (leg.leg_type or "").lower() in _RING_OUT and (leg.direction or "").lower() != "inbound"


def end_of(one: Record | RecordLeg, start: datetime) -> datetime | None:
    """Start plus duration; no record tells its end. Milliseconds where given: 18706 ms reads 19 s."""
    duration_ms = _duration_ms(one)
    return None if duration_ms is None else start + timedelta(milliseconds=duration_ms)


def _duration_ms(one: Record | RecordLeg) -> int | None:
    if one.duration_ms is not None:
        return one.duration_ms
    return None if one.duration is None else one.duration * 1000


def _offered(one: Record | RecordLeg, legs: Sequence[RecordLeg]) -> bool:
    """An Outbound VoIP Call that rings this extension, not one that it places (seed-queue-1, seed-queue-2).

    While a queue call is live the platform shows the leg that it places towards the agent's phone: every leg a
    ring-out, and the extension's own number on both sides. What an extension places has other legs
    (SipToPstn..., RingOut...), or a SipToSip leg towards another extension (derived-ext-to-ext). A PstnToSip
    leg comes from outside, so there the other side may also be the caller, or unknown
    (derived-queue-midcall-snapshot). Without legs only two equal extension numbers tell.
    """
    if (one.action or "").lower() != "voip call" or not all(map(rings_out, legs)):
        return False
    own = one.to.extension_number if one.to else None
    other = one.from_.extension_number if one.from_ else None
    if own and other:
        return own == other
    return bool(legs) and all((leg.leg_type or "").lower() == "pstntosip" for leg in legs)


def _outcome(record: Record, legs: Sequence[RecordLeg], direction: Direction) -> Outcome:
    """Contract 5, "Answered" and "Ended"."""
    word = (record.result or "").lower()
    if not record.finished:
        if not word or word in IN_PROGRESS:
            return _LIVE[State.CONNECTED if _answered(record, legs) else UNANSWERED[direction]]
        if word in CONNECTED and not _duration_ms(record):  # jswidgets-activeCalls: RingOut Web, duration 0
            return _SAID_CONNECTED
    provisional = not record.finished and word in PROVISIONAL and _only_rings_out(record, legs)
    return Outcome(State.ENDED, provisional, disposition(word, inbound=direction is Direction.INBOUND))


def _answered(record: Record, legs: Sequence[RecordLeg]) -> bool:
    return accepted(record) or any(map(accepted, legs))  # seed-direct-2: only a leg says so


def _only_rings_out(record: Record, legs: Sequence[RecordLeg]) -> bool:
    """Nothing but phones that were rung (derived-queue-snapshot-ip-phone-offline): the call may go on."""
    return all(map(rings_out, legs)) if legs else record.direction.lower() == "outbound"


def _share_direction(record: Record, own: Sequence[RecordLeg]) -> Direction:
    came_in = any((leg.direction or "").lower() == "inbound" for leg in own)
    if all((leg.leg_type or "").lower() in _LISTENING for leg in own):  # derived-monitoring
        inbound = came_in
    else:
        inbound = came_in or record.direction.lower() != "outbound" or any(_offered(leg, [leg]) for leg in own)
    return Direction.INBOUND if inbound else Direction.OUTBOUND


def _share_outcome(
    record: Record, legs: Sequence[RecordLeg], own: Sequence[RecordLeg], direction: Direction
) -> Outcome:
    """The leg's word where it has one; "Stopped" leaves it to the record (derived-queue-missed, -voicemail)."""
    all_of_it = _outcome(record, legs, direction)
    answered = any(map(_leg_answered, own))
    if all_of_it.state is not State.ENDED and any(map(_leg_live, own)):
        marked = any(map(_leg_answered, legs))
        talks = answered or (all_of_it.state is State.CONNECTED and not marked)
        return _LIVE[State.CONNECTED if talks else UNANSWERED[direction]]
    if answered:
        return Outcome(State.ENDED, all_of_it.provisional, Disposition.ANSWERED)
    word = _last_word(own)
    if all_of_it.provisional or word not in (STOPPED, ""):
        said = disposition(word, inbound=direction is Direction.INBOUND) if word else all_of_it.disposition
        return Outcome(State.ENDED, all_of_it.provisional, said)
    if all_of_it.state is State.CONNECTED or all_of_it.disposition is Disposition.ANSWERED:
        return Outcome(State.ENDED, disposition=Disposition.ANSWERED_ELSEWHERE)
    return all_of_it  # live: this phone's turn is over, but the hunt goes on and may come back


def _share_end(record: Record, own: Sequence[RecordLeg]) -> datetime | None:
    ends = [end for leg in own if (end := end_of(leg, leg.start_time or record.start_time))]
    return max(ends, default=end_of(record, record.start_time))


def _leg_live(leg: RecordLeg) -> bool:
    word = (leg.result or "").lower()
    return not word or word in IN_PROGRESS or (word in CONNECTED and not _duration_ms(leg))


def _leg_answered(leg: RecordLeg) -> bool:
    return accepted(leg) or (leg.result or "").lower() in CONNECTED


def _last_word(own: Sequence[RecordLeg]) -> str:
    word = (own[-1].result or "").lower()
    return "" if word in IN_PROGRESS else word
