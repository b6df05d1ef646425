"""What one record says of one extension: live, provisional or ended, which way, since when. Pure.

The rules are those of contract 5; each names the recording or sample (tests/samples, tests/cases) that shows it.
"""

import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from msgspec import Struct

from callcast.calls.model import Direction, Disposition, Leg, State
from callcast.ringcentral.decode import Record, RecordLeg, Side
from callcast.ringcentral.vocabulary import (
    ACCEPTED,
    CONNECTED,
    IN_PROGRESS,
    LINE_LEG,
    LISTENING_LEGS,
    PROVISIONAL,
    RING_OUT_LEGS,
    RINGOUT,
    RINGOUT_OWN_PHONE,
    STOPPED,
    TRANSFER_LEG,
    disposition,
    folded,
)

_EXTENSION: Final = re.compile(r"/extension/(\d+)(?:/|$)")
_RING_OUT: Final = folded(RING_OUT_LEGS)
_LISTENING: Final = folded(LISTENING_LEGS)

UNANSWERED = {Direction.INBOUND: State.RINGING, Direction.OUTBOUND: State.DIALING}


class Outcome(Struct, frozen=True, gc=False):
    """disposition: how it ended; of one that lives, how it did if it turns out to be over."""

    state: State
    provisional: bool = False
    disposition: Disposition | None = None


class View(Struct, frozen=True, gc=False):
    """One extension's view of a record.

    offered: the record reads Outbound, but the phone is rung.
    rings_alone: its legs ring no other extension.
    taken_by_another: another extension's leg was accepted, and none of this one's.
    legs: the extension's own.
    ended_exact: `ended_at` is its own end, and not that of a record that went on without it.
    """

    direction: Direction
    outcome: Outcome
    offered: bool
    rings_alone: bool
    taken_by_another: bool
    legs: tuple[Leg, ...]
    started_at: datetime
    ended_at: datetime | None
    ended_exact: bool
    from_: Side | None
    to: Side | None


class _Answer(Struct, frozen=True, gc=False):
    """Who took the call: this extension, by its legs or the record's word; another, by its legs; another, by a
    record that does not speak for this extension.
    """

    own: bool
    leg_of_another: bool
    word_of_another: bool

    @property
    def elsewhere(self) -> bool:
        return not self.own and (self.leg_of_another or self.word_of_another)


def view(record: Record, extension_id: str, *, listed: bool) -> View:
    """listed: the record stands in the extension's own list."""
    legs = record.legs or ()
    stated = stated_extension(record)
    named = [owner_of(leg) for leg in legs]
    if listed and extension_id not in named:  # in its own list the record is its own, however it is named
        extension_id = stated or extension_id
    owners = {name for name in named if name is not None}
    strange = bool(owners - {extension_id})
    is_own = listed or stated == extension_id or (stated is None and not owners)
    own, others = _sorted(record, legs, extension_id, is_own=is_own, rung_alone=not strange or stated == extension_id)
    in_whole = not own or (is_own and not strange) or not (strange or None in named)

    outbound = record.direction.lower() == "outbound"
    offered = is_offer(record) if in_whole else False
    if in_whole:
        direction = Direction.OUTBOUND if outbound and not offered else Direction.INBOUND
    else:
        direction = _share_direction(record, own)
        offered = outbound and direction is Direction.INBOUND
    speaks = not legs or stated == extension_id or (stated is None and (listed or not strange))
    answer = _answer(record, own, others, speaks=speaks, inbound=direction is Direction.INBOUND)
    outcome = _whole(record, legs, direction, answer) if in_whole else _share(record, legs, own, direction, answer)

    started_at, ended_at, ended_exact = record.start_time, None, True
    from_, to = record.from_, record.to
    if outcome.state is State.ENDED:
        ended_at, ended_exact = (end_of(record, record.start_time), True) if in_whole else _share_end(record, own)
    if not in_whole:
        started_at = min(leg.start_time or record.start_time for leg in own)
        first = own[0]
        from_, to = (first.from_, first.to) if offered else (from_ or first.from_, to or first.to)
    return View(
        direction=direction,
        outcome=outcome,
        offered=offered,
        rings_alone=len(owners) <= 1 and (not outcome.provisional or _rings_one_number(legs)),
        taken_by_another=answer.leg_of_another and not answer.own,
        legs=tuple([_leg(leg, started_at, extension_id) for leg in own]),
        started_at=started_at,
        ended_at=ended_at,
        ended_exact=ended_exact,
        from_=from_,
        to=to,
    )


def view_of_unnamed(record: Record) -> View:
    """What a record shows of an extension that it named before, and does not name now: its phone's turn is over, as if
    its leg had stopped. A live record may come back to it, unless another extension's leg was accepted.
    """
    legs = record.legs or ()
    _, others = _sorted(record, legs, "", is_own=False, rung_alone=False)
    offered = is_offer(record)
    outbound = record.direction.lower() == "outbound" and not offered
    direction = Direction.OUTBOUND if outbound else Direction.INBOUND
    live = _is_live(record)
    answer = _answer(record, (), others, speaks=False, inbound=not outbound)
    if live and not answer.leg_of_another:
        outcome = Outcome(UNANSWERED[direction])
    else:
        outcome = _share(record, legs, (), direction, answer)
    return View(
        direction=direction,
        outcome=outcome,
        offered=offered,
        rings_alone=False,
        taken_by_another=answer.leg_of_another,
        legs=(),
        started_at=record.start_time,
        ended_at=None if live else end_of(record, record.start_time),
        ended_exact=not answer.elsewhere,
        from_=record.from_,
        to=record.to,
    )


def stated_extension(record: Record) -> str | None:
    """The record's own word: its extension, or the one in its address (slate-account-ringout-2legs)."""
    if record.extension is not None and record.extension.id:
        return str(record.extension.id)
    found = _EXTENSION.search(record.uri or "")
    return found[1] if found else None


def owner_of(leg: RecordLeg) -> str | None:
    return str(leg.extension.id) if leg.extension is not None and leg.extension.id else None


def accepted(one: Record | RecordLeg) -> bool:
    """The two sides talk, or talked: seed-direct-2 says so by a reason, a fan-out by its result alone (cases/G2-1)."""
    return (one.reason or "").lower() == ACCEPTED or (one.result or "").lower() in CONNECTED


def rings_out(leg: RecordLeg) -> bool:
    """The platform placed this leg towards a phone of the company."""
    return _kind(leg) in _RING_OUT and (leg.direction or "").lower() != "inbound"


def is_offer(record: Record) -> bool:
    """The record reads Outbound, but rings the extension (seed-queue-1, seed-queue-2)."""
    return record.direction.lower() == "outbound" and _offered(record, record.legs or ())


def end_of(one: Record | RecordLeg, start: datetime) -> datetime | None:
    """Start plus duration; no record tells its end. Milliseconds where given: 18706 ms reads 19 s."""
    duration_ms = _duration_ms(one)
    return None if duration_ms is None else start + timedelta(milliseconds=duration_ms)


def _duration_ms(one: Record | RecordLeg) -> int | None:
    if one.duration_ms is not None:
        return one.duration_ms
    return None if one.duration is None else one.duration * 1000


def _kind(leg: RecordLeg) -> str:
    return (leg.leg_type or "").lower()


# Whose legs


def _sorted(
    record: Record, legs: Sequence[RecordLeg], extension_id: str, *, is_own: bool, rung_alone: bool
) -> tuple[list[RecordLeg], list[RecordLeg]]:
    """The extension's legs, and those of others. In its own record it has those too that name no extension; where
    others are rung as well, the leg to the line that was called is not one of these. A transfer to another extension
    is that one's leg (cases/R1-1).
    """
    own: list[RecordLeg] = []
    others: list[RecordLeg] = []
    for leg in legs:
        owner = owner_of(leg)
        mine = (is_own and (rung_alone or not _is_line(leg))) if owner is None else owner == extension_id
        handed_on = mine and _leaves(leg, record, extension_id, is_own=is_own)
        if mine and not handed_on:
            own.append(leg)
        elif owner is not None or handed_on:
            others.append(leg)
    return own, others


def _leaves(leg: RecordLeg, record: Record, extension_id: str, *, is_own: bool) -> bool:
    """A transfer away from the extension to another. Where neither id nor number is known to be its own, one that
    stands in the extension's own record leaves it.
    """
    to = leg.to
    if to is None or not (to.extension_id or to.extension_number) or _kind(leg) != TRANSFER_LEG:
        return False
    if to.extension_id:
        return str(to.extension_id) != extension_id
    own_side = record.to if record.direction.lower() == "inbound" else record.from_
    return is_own and (own_side is None or to.extension_number != own_side.extension_number)


def _is_line(leg: RecordLeg) -> bool:
    """The leg to what was called, which is accepted when any phone takes the call."""
    return _kind(leg) == LINE_LEG and leg.master is not False


def _leg(leg: RecordLeg, started_at: datetime, extension_id: str) -> Leg:
    """A transfer begins when people talk already: its start is not the answer's (derived-outbound-results)."""
    is_answer = accepted(leg) and _kind(leg) != TRANSFER_LEG and not _rings_own_phone(leg)
    is_own = owner_of(leg) == extension_id and not _is_line(leg)
    return Leg(kind=leg.leg_type, started_at=leg.start_time or started_at, accepted=is_answer, own=is_own)


def _rings_one_number(legs: Sequence[RecordLeg]) -> bool:
    """Of a fan-out some legs only say which number they ring."""
    return len({leg.to.extension_number for leg in legs if leg.to is not None and rings_out(leg)} - {None}) <= 1


# Which way


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
    return bool(legs) and all(_kind(leg) == "pstntosip" for leg in legs)


def _share_direction(record: Record, own: Sequence[RecordLeg]) -> Direction:
    came_in = any((leg.direction or "").lower() == "inbound" for leg in own)
    if all(_kind(leg) in _LISTENING for leg in own):  # derived-monitoring
        inbound = came_in
    else:
        inbound = came_in or record.direction.lower() != "outbound" or any(_offered(leg, [leg]) for leg in own)
    return Direction.INBOUND if inbound else Direction.OUTBOUND


# Who answered, and how it ended


def _answer(
    record: Record, own: Sequence[RecordLeg], others: Sequence[RecordLeg], *, speaks: bool, inbound: bool
) -> _Answer:
    """Contract 5, "Answered". Where another extension's phone took the call, the line's leg and the record only say
    that it was taken (cases/X1-1). Of a RingOut the leg to the own phone says nothing (cases/B1-1), nor does the
    record before it has a duration, or where the leg to the other side says that it was not taken.
    """
    taken = [leg for leg in others if inbound and accepted(leg) and _kind(leg) not in _LISTENING]
    by_phone = any(not _is_line(leg) for leg in taken)
    is_ringout = _is_ringout(record)
    said = accepted(record)
    if is_ringout:
        said = bool(_duration_ms(record)) and _word(record) in CONNECTED and not _other_sides_failure(record)
    answers = [leg for leg in own if not (by_phone and _is_line(leg)) and not _rings_own_phone(leg)]
    return _Answer(
        own=any(map(accepted, answers)) or (said and speaks and not by_phone),
        leg_of_another=bool(taken),
        word_of_another=inbound and said and not speaks,
    )


def _whole(record: Record, legs: Sequence[RecordLeg], direction: Direction, answer: _Answer) -> Outcome:
    """The record is the extension's own."""
    word = _word(record)
    if _is_live(record):
        ends_as = None if word not in CONNECTED else _taken_by(answer)
        return Outcome(State.CONNECTED if answer.own else UNANSWERED[direction], disposition=ends_as)
    provisional = _is_provisional(record, legs)
    return Outcome(State.ENDED, provisional, _taken_by(answer) or _meaning(record, word, direction))


def _share(
    record: Record, legs: Sequence[RecordLeg], own: Sequence[RecordLeg], direction: Direction, answer: _Answer
) -> Outcome:
    """One extension's share of a record that rings or joins several: its own legs say more than the record.

    The leg's word where it has one; "Stopped" leaves it to the record (derived-queue-missed, -voicemail).
    """
    live = _is_live(record)
    if live and any(map(_is_live, own)):
        return Outcome(State.CONNECTED if answer.own else UNANSWERED[direction])
    provisional = _is_provisional(record, legs)
    if answer.own:
        return Outcome(State.ENDED, provisional, Disposition.ANSWERED)
    phones = [leg for leg in own if not _is_line(leg)]
    word = _last_result(phones)
    if provisional or word not in (STOPPED, ""):
        said = _meaning(record, word or _word(record), direction)
        taken = said is Disposition.MISSED and answer.elsewhere
        return Outcome(State.ENDED, provisional, Disposition.ANSWERED_ELSEWHERE if taken else said)
    if answer.elsewhere:
        return Outcome(State.ENDED, disposition=Disposition.ANSWERED_ELSEWHERE)
    if live:  # this phone's turn is over, but the hunt goes on and may come back
        return Outcome(UNANSWERED[direction])
    return Outcome(State.ENDED, disposition=_meaning(record, _word(record), direction))


def _taken_by(answer: _Answer) -> Disposition | None:
    if answer.own:
        return Disposition.ANSWERED
    return Disposition.ANSWERED_ELSEWHERE if answer.elsewhere else None


def _is_live(one: Record | RecordLeg) -> bool:
    """Contract 5, "Ended". jswidgets-activeCalls: connected, with duration 0, is a call that goes on."""
    if isinstance(one, Record) and one.finished:
        return False
    word = _word(one)
    return not word or word in IN_PROGRESS or (word in CONNECTED and not _duration_ms(one))


def _is_provisional(record: Record, legs: Sequence[RecordLeg]) -> bool:
    """Nothing but phones that were rung (derived-queue-snapshot-ip-phone-offline): the call may go on."""
    if record.finished or _word(record) not in PROVISIONAL:
        return False
    return all(map(rings_out, legs)) if legs else record.direction.lower() == "outbound"


def _meaning(record: Record, word: str, direction: Direction) -> Disposition:
    """Of a RingOut a word of success that is no answer is the own phone's: the leg to the other side says what became
    of the call, if anything does.
    """
    if word in CONNECTED and _is_ringout(record):
        word = _other_sides_failure(record)
    return disposition(word, inbound=direction is Direction.INBOUND)


def _is_ringout(record: Record) -> bool:
    return record.action.lower().startswith(RINGOUT) or any(map(_rings_own_phone, record.legs or ()))


def _rings_own_phone(leg: RecordLeg) -> bool:
    kind = _kind(leg)
    return kind.startswith(RINGOUT) and kind.endswith(RINGOUT_OWN_PHONE)


def _other_sides_failure(record: Record) -> str:
    """The word of a RingOut's last leg to the other side; empty where that side took the call, or says nothing."""
    legs = [leg for leg in record.legs or () if _kind(leg).startswith(RINGOUT) and not _rings_own_phone(leg)]
    word = "" if any(map(accepted, legs)) else _last_result(legs)
    return "" if word == STOPPED else word


def _word(one: Record | RecordLeg) -> str:
    return (one.result or "").lower()


def _last_result(own: Sequence[RecordLeg]) -> str:
    word = _word(own[-1]) if own else ""
    return "" if word in IN_PROGRESS else word


def _share_end(record: Record, own: Sequence[RecordLeg]) -> tuple[datetime | None, bool]:
    """The end of the last leg. A leg that is over, and does not say since when, ended no later than the record."""
    ends = [end for leg in own if (end := end_of(leg, leg.start_time or record.start_time))]
    if ends:
        return max(ends), True
    return end_of(record, record.start_time), all(map(_is_live, own))
