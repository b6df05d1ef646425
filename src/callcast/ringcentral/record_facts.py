"""What a record shows for one extension: live, provisional or ended, in which direction, since when. Pure.

The words of a record and its legs are folded once (`RecordFacts`); views for several extensions share them. Each rule
names the recording or sample (tests/samples, tests/cases) that shows it.
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


class View(Struct, frozen=True, gc=False):
    """What a record shows for one extension.

    disposition: how the call ended; of a live one, how it ended if it turns out to be over.
    offered: the record reads Outbound, but the phone is rung.
    rings_alone: its legs ring no other extension.
    taken_by_another: another extension's leg was accepted, and none of this one's.
    legs: the extension's own.
    ended_exact: `ended_at` is its own end, and not that of a record that went on without it.
    """

    direction: Direction
    state: State
    provisional: bool
    disposition: Disposition | None
    offered: bool
    rings_alone: bool
    taken_by_another: bool
    legs: tuple[Leg, ...]
    started_at: datetime
    ended_at: datetime | None
    ended_exact: bool
    from_: Side | None
    to: Side | None


class LegFacts(Struct, gc=False):
    """A leg with its words folded.

    owner: the id of the extension that it names. accepted: the two sides talk, or talked.
    rings: the platform placed it towards a phone of the company.
    is_line: it is the leg to what was called, which is accepted when any phone takes the call.
    rings_own_phone: it is the leg of a RingOut to the phone of the extension that asked for the call.
    """

    leg: RecordLeg
    kind: str
    owner: str | None
    result: str
    accepted: bool
    is_inbound: bool
    rings: bool
    is_line: bool
    rings_own_phone: bool
    is_live: bool


def _leg_facts(leg: RecordLeg) -> LegFacts:
    kind, result = (leg.leg_type or "").lower(), (leg.result or "").lower()
    is_inbound = (leg.direction or "").lower() == "inbound"
    return LegFacts(
        leg,
        kind,
        str(leg.extension.id) if leg.extension is not None and leg.extension.id else None,
        result,
        _is_accepted(leg, result),
        is_inbound,
        kind in _RING_OUT and not is_inbound,
        kind == LINE_LEG and leg.master is not False,
        kind.startswith(RINGOUT) and kind.endswith(RINGOUT_OWN_PHONE),
        _goes_on(leg, result),
    )


class RecordFacts:
    """A record with its words folded, and what follows from them for any extension.

    extension: the record's own, or the one in its address (slate-account-ringout-2legs).
    owners: the extensions that its legs name.
    is_offer: it reads Outbound, but rings the extension (seed-queue-1, seed-queue-2).
    is_provisional: nothing but phones that were rung (derived-queue-snapshot-ip-phone-offline): the call may go on.
    says_accepted: it reads as accepted. That of a RingOut says nothing before it has a duration, or where the leg to
        the other side says that it was not taken (cases/B1-1).
    """

    def __init__(self, record: Record) -> None:
        self.record = record
        self.legs = legs = [_leg_facts(leg) for leg in record.legs or ()]
        self.owners = {leg.owner for leg in legs if leg.owner is not None}
        self.result = result = (record.result or "").lower()
        self.is_outbound = record.direction.lower() == "outbound"
        self.is_live = not record.finished and _goes_on(record, result)
        self.is_offer = self.is_outbound and _is_offered(record, legs)
        self.is_provisional = (
            result in PROVISIONAL
            and not record.finished
            and (all(leg.rings for leg in legs) if legs else self.is_outbound)
        )
        self._is_ringout = record.action.lower().startswith(RINGOUT) or any(leg.rings_own_phone for leg in legs)
        self.says_accepted = _is_accepted(record, result)
        if self._is_ringout:
            says_connected = result in CONNECTED and bool(_duration_ms(record))
            self.says_accepted = says_connected and not self._other_sides_failure()
        self.extension: str | None
        if record.extension is not None and record.extension.id:
            self.extension = str(record.extension.id)
        else:
            found = _EXTENSION.search(record.uri or "")
            self.extension = found[1] if found else None

    def view(self, extension_id: str, *, listed: bool) -> View:
        """Return what the record shows for this extension. listed: the record is in the extension's own list."""
        record, legs, stated, owners = self.record, self.legs, self.extension, self.owners
        if listed and extension_id not in owners:  # in its own list the record is its own, whatever its name
            extension_id = stated or extension_id
        names_others = bool(owners - {extension_id})
        is_own = listed or stated == extension_id or (stated is None and not owners)
        own, others = self._sorted(extension_id, is_own=is_own, rung_alone=not names_others or stated == extension_id)
        in_whole = (
            not own or (is_own and not names_others) or not (names_others or any(leg.owner is None for leg in legs))
        )
        if in_whole:
            offered = self.is_offer
            direction = Direction.OUTBOUND if self.is_outbound and not offered else Direction.INBOUND
        else:
            direction = self._share_direction(own)
            offered = self.is_outbound and direction is Direction.INBOUND

        # Who answered. Where another extension's phone took the call, the line's leg and the record only say that it
        # was taken (cases/X1-1). The leg of a RingOut to the own phone says nothing (cases/B1-1).
        is_inbound = direction is Direction.INBOUND
        taken = [leg for leg in others if is_inbound and leg.accepted and leg.kind not in _LISTENING]
        by_phone = any(not leg.is_line for leg in taken)
        speaks = not legs or stated == extension_id or (stated is None and (listed or not names_others))
        answered = (self.says_accepted and speaks and not by_phone) or any(
            leg.accepted and not leg.rings_own_phone and not (by_phone and leg.is_line) for leg in own
        )
        elsewhere = not answered and (bool(taken) or (is_inbound and self.says_accepted and not speaks))

        outcome = self._whole if in_whole else self._share
        state, provisional, ended_as = outcome(own, direction, answered=answered, elsewhere=elsewhere)
        started_at, ended_at, ended_exact = record.start_time, None, True
        from_, to = record.from_, record.to
        if state is State.ENDED:
            ended_at, ended_exact = (_end(record, record.start_time), True) if in_whole else self._share_end(own)
        if not in_whole:
            first = own[0].leg
            started_at = min(leg.leg.start_time or record.start_time for leg in own)
            from_, to = (first.from_, first.to) if offered else (from_ or first.from_, to or first.to)
        return View(
            direction=direction,
            state=state,
            provisional=provisional,
            disposition=ended_as,
            offered=offered,
            rings_alone=len(owners) <= 1 and (not provisional or _rings_one_number(legs)),
            taken_by_another=bool(taken) and not answered,
            legs=tuple([_leg(leg, started_at, extension_id) for leg in own]),
            started_at=started_at,
            ended_at=ended_at,
            ended_exact=ended_exact,
            from_=from_,
            to=to,
        )

    def view_of_unnamed(self) -> View:
        """Return what the record shows for an extension that it named before, and does not name now.

        Its phone's turn is over, as if its leg had stopped. A live record may come back to it, unless another
        extension's leg was accepted.
        """
        record = self.record
        is_inbound = not self.is_outbound or self.is_offer
        direction = Direction.INBOUND if is_inbound else Direction.OUTBOUND
        taken = is_inbound and any(
            leg.accepted and leg.owner is not None and leg.kind not in _LISTENING for leg in self.legs
        )
        elsewhere = taken or (is_inbound and self.says_accepted)
        if self.is_live and not taken:
            state, provisional, ended_as = UNANSWERED[direction], False, None
        else:
            state, provisional, ended_as = self._share((), direction, answered=False, elsewhere=elsewhere)
        return View(
            direction=direction,
            state=state,
            provisional=provisional,
            disposition=ended_as,
            offered=self.is_offer,
            rings_alone=False,
            taken_by_another=taken,
            legs=(),
            started_at=record.start_time,
            ended_at=None if self.is_live else _end(record, record.start_time),
            ended_exact=not elsewhere,
            from_=record.from_,
            to=record.to,
        )

    def _sorted(
        self, extension_id: str, *, is_own: bool, rung_alone: bool
    ) -> tuple[Sequence[LegFacts], Sequence[LegFacts]]:
        """Return the extension's legs, and those of others.

        In its own record those that name no extension are its own, too; where others are rung as well, the leg to the
        line that was called is not one of these. A transfer to another extension is that one's leg (cases/R1-1).
        """
        own: list[LegFacts] = []
        others: list[LegFacts] = []
        for leg in self.legs:
            mine = is_own and (rung_alone or not leg.is_line) if leg.owner is None else leg.owner == extension_id
            if mine and leg.kind == TRANSFER_LEG and self._leaves(leg.leg, extension_id, is_own=is_own):
                others.append(leg)
            elif mine:
                own.append(leg)
            elif leg.owner is not None:
                others.append(leg)
        return own, others

    def _leaves(self, leg: RecordLeg, extension_id: str, *, is_own: bool) -> bool:
        """Whether a transfer goes from this extension to another.

        Where neither id nor number is known to be its own, one that is in the extension's own record does.
        """
        to = leg.to
        if to is None or not (to.extension_id or to.extension_number):
            return False
        if to.extension_id:
            return str(to.extension_id) != extension_id
        own_side = self.record.to if self.record.direction.lower() == "inbound" else self.record.from_
        return is_own and (own_side is None or to.extension_number != own_side.extension_number)

    def _share_direction(self, own: Sequence[LegFacts]) -> Direction:
        inbound = any(leg.is_inbound for leg in own)
        if not all(leg.kind in _LISTENING for leg in own):  # derived-monitoring
            inbound = inbound or not self.is_outbound or any(_is_offered(leg.leg, [leg]) for leg in own)
        return Direction.INBOUND if inbound else Direction.OUTBOUND

    def _whole(
        self, _own: Sequence[LegFacts], direction: Direction, *, answered: bool, elsewhere: bool
    ) -> tuple[State, bool, Disposition | None]:
        """The outcome where the record is the extension's own."""
        taken_by = Disposition.ANSWERED if answered else Disposition.ANSWERED_ELSEWHERE if elsewhere else None
        if self.is_live:
            state = State.CONNECTED if answered else UNANSWERED[direction]
            return state, False, taken_by if self.result in CONNECTED else None
        return State.ENDED, self.is_provisional, taken_by or self._meaning(self.result, direction)

    def _share(
        self, own: Sequence[LegFacts], direction: Direction, *, answered: bool, elsewhere: bool
    ) -> tuple[State, bool, Disposition | None]:
        """The outcome of a record that rings or joins several extensions: its own legs say more than the record.

        The leg's word counts where it has one; "Stopped" leaves it to the record (derived-queue-missed, -voicemail).
        """
        if self.is_live and any(leg.is_live for leg in own):
            return (State.CONNECTED if answered else UNANSWERED[direction]), False, None
        if answered:
            return State.ENDED, self.is_provisional, Disposition.ANSWERED
        word = _last_result([leg for leg in own if not leg.is_line])
        if self.is_provisional or word not in (STOPPED, ""):
            ended_as = self._meaning(word or self.result, direction)
            if ended_as is Disposition.MISSED and elsewhere:
                ended_as = Disposition.ANSWERED_ELSEWHERE
            return State.ENDED, self.is_provisional, ended_as
        if elsewhere:
            return State.ENDED, False, Disposition.ANSWERED_ELSEWHERE
        if self.is_live:  # this phone's turn is over, but others are rung, and this one may be again
            return UNANSWERED[direction], False, None
        return State.ENDED, False, self._meaning(self.result, direction)

    def _share_end(self, own: Sequence[LegFacts]) -> tuple[datetime | None, bool]:
        """Return the end of the last leg, and whether it is exact.

        A leg that is over, and does not say since when, ended no later than the record.
        """
        start = self.record.start_time
        ends = [end for leg in own if (end := _end(leg.leg, leg.leg.start_time or start))]
        if ends:
            return max(ends), True
        return _end(self.record, start), all(leg.is_live for leg in own)

    def _meaning(self, word: str, direction: Direction) -> Disposition:
        """Return how the call ended.

        Of a RingOut a word of success that is no answer is the own phone's: the leg to the other side says what became
        of the call, if anything does.
        """
        if self._is_ringout and word in CONNECTED:
            word = self._other_sides_failure()
        return disposition(word, inbound=direction is Direction.INBOUND)

    def _other_sides_failure(self) -> str:
        """The result of a RingOut's last leg to the other side; empty where that side took the call, or has none."""
        legs = [leg for leg in self.legs if leg.kind.startswith(RINGOUT) and not leg.rings_own_phone]
        word = "" if any(leg.accepted for leg in legs) else _last_result(legs)
        return "" if word == STOPPED else word


def _is_accepted(one: Record | RecordLeg, result: str) -> bool:
    """seed-direct-2 says so by a reason, a record with several rung phones by its result alone (cases/G2-1)."""
    return result in CONNECTED or (one.reason or "").lower() == ACCEPTED


def _goes_on(one: Record | RecordLeg, result: str) -> bool:
    """Connected, without a duration, is a call that goes on (jswidgets-activeCalls)."""
    return not result or result in IN_PROGRESS or (result in CONNECTED and not _duration_ms(one))


def _is_offered(one: Record | RecordLeg, legs: Sequence[LegFacts]) -> bool:
    """Whether an Outbound VoIP Call rings this extension, and is not placed by it (seed-queue-1, seed-queue-2).

    While a queue call is live the platform shows the leg that it places towards the agent's phone: every leg a
    ring-out, and the extension's own number on both sides. What an extension places has other legs
    (SipToPstn..., RingOut...), or a SipToSip leg towards another extension (derived-ext-to-ext). A PstnToSip
    leg comes from outside, so there the other side may also be the caller, or unknown
    (derived-queue-midcall-snapshot). Without legs only two equal extension numbers show it.
    """
    if (one.action or "").lower() != "voip call" or not all(leg.rings for leg in legs):
        return False
    own = one.to.extension_number if one.to else None
    other = one.from_.extension_number if one.from_ else None
    if own and other:
        return own == other
    return bool(legs) and all(leg.kind == "pstntosip" for leg in legs)


def _leg(leg: LegFacts, started_at: datetime, extension_id: str) -> Leg:
    """A transfer begins when people talk already: its start is not the answer's (derived-outbound-results)."""
    return Leg(
        kind=leg.leg.leg_type,
        started_at=leg.leg.start_time or started_at,
        accepted=leg.accepted and leg.kind != TRANSFER_LEG and not leg.rings_own_phone,
        own=leg.owner == extension_id and not leg.is_line,
    )


def _rings_one_number(legs: Sequence[LegFacts]) -> bool:
    """Where several phones are rung, some legs only say which number they ring."""
    return len({leg.leg.to.extension_number for leg in legs if leg.leg.to is not None and leg.rings} - {None}) <= 1


def _last_result(legs: Sequence[LegFacts]) -> str:
    word = legs[-1].result if legs else ""
    return "" if word in IN_PROGRESS else word


def _end(one: Record | RecordLeg, start: datetime) -> datetime | None:
    """Start plus duration; no record gives its end. Milliseconds where given: 18706 ms reads 19 s."""
    duration_ms = _duration_ms(one)
    return None if duration_ms is None else start + timedelta(milliseconds=duration_ms)


def _duration_ms(one: Record | RecordLeg) -> int | None:
    if one.duration_ms is not None:
        return one.duration_ms
    return None if one.duration is None else one.duration * 1000
