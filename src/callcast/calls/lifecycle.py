"""The state table of a call, and how the facts of an observation are merged into what is known.

Three rules: a state never goes back; a fact that is missing from an observation changes nothing; and a time given by
the platform replaces one taken from a poll.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec
from msgspec import Struct

from callcast.calls.model import AS_INBOUND, Call, CallObservation, Direction, Disposition, Party, Queue, State

_R, _D, _C, _E = State.RINGING, State.DIALING, State.CONNECTED, State.ENDED

UNANSWERED = (_R, _D)


# A state never goes back: an observed state of a lower rank is ignored.
RANK: Mapping[State, int] = {_R: 0, _D: 0, _C: 1, _E: 2}

# The known state (None: not known yet) and the new state -> the event type. `call.updated` and `call.corrected` are
# emitted only if a fact has changed.
EVENTS: Mapping[tuple[State | None, State], str] = {
    (None, _R): "call.ringing",
    (None, _D): "call.dialing",
    (None, _C): "call.answered",
    (None, _E): "call.ended",
    (_R, _R): "call.updated",
    (_R, _C): "call.answered",
    (_R, _E): "call.ended",
    (_D, _R): "call.updated",
    (_D, _D): "call.updated",
    (_D, _C): "call.answered",
    (_D, _E): "call.ended",
    (_C, _C): "call.updated",
    (_C, _E): "call.ended",
    (_E, _E): "call.corrected",
}

UPDATED_BY = ("direction", "from_party", "to_party", "queue")
CORRECTED_BY = (*UPDATED_BY, "disposition", "started_at", "answered_at", "ended_at")

SETTLED: Mapping[str, Any] = {
    "provisional_since": None,
    "provisional_disposition": None,
    "provisional_ended_at": None,
}
LISTED: Mapping[str, Any] = {"vanished_at": None, "last_seen_at": None}


def state_after(known: State | None, seen: State) -> State:
    """The observed state, unless its rank is lower. A dialing call may become ringing, but not the other way round."""
    if known is None or (RANK[seen] >= RANK[known] and (known, seen) != (_R, _D)):
        return seen
    return known


def known_state(call: Call | None) -> State | None:
    """The call's state; None for an unknown call and for a provisional record without an event."""
    return None if call is None or (call.sequence == 0 and call.provisional_since is not None) else call.state


def with_facts(call: Call, facts: Mapping[str, Any]) -> Call:
    """The call with these facts; the same object when nothing changes."""
    changes = {name: value for name, value in facts.items() if getattr(call, name) != value}
    return msgspec.structs.replace(call, **changes) if changes else call


def begin(source: str, number: int, seen: CallObservation, *, first_poll: bool) -> Call:
    """A new call for part `number` of an extension in a session, before the observation is applied."""
    suffix = f"~{number}" if number > 1 else ""
    return Call(
        source=source,
        call_id=f"{seen.extension_id}/{seen.session_id}{suffix}",
        session_id=seen.session_id,
        extension_id=seen.extension_id,
        account_id=seen.account_id,
        direction=seen.direction,
        state=seen.state,
        started_at=seen.started_at,
        provider=seen.provider,
        first_poll=first_poll,
    )


def as_known(call: Call, seen: CallObservation) -> CallObservation:
    """The observation in the call's known direction.

    A call answered in a browser is logged as an outbound call to the caller. If an event has already reported the call
    as inbound, its direction and parties stay as they were.
    """
    if call.sequence == 0 or call.direction is seen.direction or call.direction is not Direction.INBOUND:
        return seen
    return msgspec.structs.replace(
        seen,
        direction=Direction.INBOUND,
        disposition=seen.disposition and AS_INBOUND.get(seen.disposition, seen.disposition),
        from_party=call.from_party or _caller_of_flipped(call, seen),
        to_party=call.to_party,
        queue=call.queue,
    )


def _caller_of_flipped(call: Call, seen: CallObservation) -> Party | None:
    """The called party of a record with flipped direction, unless it is the party that was originally called."""
    party, called = seen.to_party, call.to_party
    if party is None or called is None:
        return party
    same = [getattr(party, side) for side in ("number", "extension_number") if getattr(party, side) is not None]
    return None if any(text in (called.number, called.extension_number) for text in same) else party


def ends_as(call: Call, seen: CallObservation) -> Disposition:
    """The disposition of a call that ends with this record.

    An observed answer outranks the record's disposition, unless another extension accepted the call and no accepted
    leg of this one was ever observed.
    """
    recorded = seen.disposition or Disposition.UNKNOWN
    is_answered = call.answered_at is not None or call.disposition is Disposition.ANSWERED
    is_own = call.answered_exact or call.answered_on_own_leg
    if not is_answered or recorded is Disposition.TRANSFERRED or (seen.taken_by_another and not is_own):
        return recorded
    return Disposition.ANSWERED


def is_unchanged(call: Call, seen: CallObservation, at: datetime) -> bool:
    """True when the observation (as returned by `as_known`) changes nothing: the usual case, checked first.

    So 1,000 unchanged calls are compared in 11 ms instead of 21 ms.
    """
    return (
        call.state is seen.state
        and call.vanished_at is None
        and call.provisional_since is None
        and not seen.provisional
        and call.direction is seen.direction
        and call.started_at == seen.started_at
        and call.provider == seen.provider
        and (seen.from_party is None or seen.from_party == call.from_party)
        and (seen.to_party is None or seen.to_party == call.to_party)
        and (seen.queue is None or seen.queue == call.queue)
        and (seen.ended_at is None or not seen.ended_exact or seen.ended_at == call.ended_at)
        and (seen.disposition is None or seen.state is not State.ENDED or ends_as(call, seen) is call.disposition)
        and (seen.state not in UNANSWERED or all(leg.key in call.ringing_legs for leg in seen.legs))
        and _answered(call, call.state, seen, at) is call
    )


def apply_observation(call: Call, known: State | None, seen: CallObservation, at: datetime) -> Call:
    """An open call after a live or final observation. `at`: the time of the poll."""
    seen = as_known(call, seen)
    state = state_after(known, seen.state)
    call = _answered(call, known, seen, at)
    facts: dict[str, Any] = {
        **SETTLED,
        **_facts_of(call, seen),
        "state": state,
        "provider": seen.provider,
        "account_id": call.account_id or seen.account_id,
    }
    if state in UNANSWERED:
        facts["ringing_legs"] = tuple(dict.fromkeys((*call.ringing_legs, *(leg.key for leg in seen.legs))))
    if state is State.ENDED:
        facts |= _ended(ends_as(call, seen))
        exact = seen.ended_at is not None and seen.ended_exact
        facts["ended_at"] = seen.ended_at if exact else min(seen.ended_at or at, at)
        facts["ended_exact"] = exact
    return in_order(with_facts(call, facts))


def wait(call: Call, seen: CallObservation) -> Call:
    """An open call after a provisional record: remember how it ends if the record turns out to be final."""
    seen = as_known(call, seen)
    disposition = seen.disposition and ends_as(call, seen)
    ended_at = seen.ended_at if seen.ended_exact else None
    return with_facts(call, {"provisional_disposition": disposition, "provisional_ended_at": ended_at})


def end(call: Call, disposition: Disposition, at: datetime, *, ended_at: datetime | None = None) -> Call:
    """End an open call without a final record. `ended_at`: the platform's end time; if None, `at` is used."""
    facts = {
        **SETTLED,
        **_ended(disposition),
        "state": State.ENDED,
        "ended_at": ended_at or at,
        "ended_exact": ended_at is not None,
    }
    return in_order(with_facts(call, facts))


def settle(call: Call, at: datetime) -> Call:
    """End an open call as its provisional record says, or as unknown. `at`: the end, unless the record gives it."""
    return end(call, call.provisional_disposition or Disposition.UNKNOWN, at, ended_at=call.provisional_ended_at)


def _ended(disposition: Disposition) -> dict[str, Any]:
    """The facts of a disposition. For `answered_elsewhere` the known answer was another extension's, and is removed."""
    if disposition is Disposition.ANSWERED_ELSEWHERE:
        return {
            "disposition": disposition,
            "answered_at": None,
            "answered_exact": False,
            "answered_on_own_leg": False,
        }
    return {"disposition": disposition}


def correct(call: Call, seen: CallObservation) -> Call:
    """An ended call after a final observation; the same object when nothing changes."""
    seen = as_known(call, seen)
    answered = _answered(call, call.state, seen, call.started_at)
    disposition = ends_as(answered, seen)
    facts = _facts_of(call, seen)
    if (call.disposition, disposition) != _REFINED and disposition is not Disposition.UNKNOWN:
        facts |= _ended(disposition)
    if seen.ended_at is not None and seen.ended_exact:
        facts["ended_at"] = seen.ended_at
        facts["ended_exact"] = True
    corrected = in_order(with_facts(answered, facts))
    return corrected if corrected is call else with_facts(corrected, {"provider": seen.provider})


# The platform reports `missed` for each extension that did not answer; `answered_elsewhere` is more precise.
_REFINED = (Disposition.ANSWERED_ELSEWHERE, Disposition.MISSED)


def changed_facts(old: Call, new: Call, names: tuple[str, ...]) -> dict[str, Any]:
    facts = {name: (_fact(getattr(old, name)), _fact(getattr(new, name))) for name in names}
    return {name: now for name, (before, now) in facts.items() if before != now}


class _ShownParty(Struct, frozen=True, gc=False):
    number: str | None
    name: str | None
    extension_number: str | None
    location: str | None


class _ShownQueue(Struct, frozen=True, gc=False):
    name: str


def _fact(value: Any) -> Any:
    """The part of a value that consumers see: a change of anything else causes no event and is in no event id."""
    match value:
        case Party():
            return _ShownParty(value.number, value.name, value.extension_number, value.location)
        case Queue():
            return _ShownQueue(value.name)
        case _:
            return value


def in_order(call: Call) -> Call:
    """Ensure started <= answered <= ended. A time taken from a poll is adjusted to one given by the platform."""
    started, answered, ended = call.started_at, call.answered_at, call.ended_at
    if ended is not None:
        ended = max(ended, started)
    if answered is not None:
        answered = max(answered, started)
        if ended is not None and ended < answered:
            if call.ended_exact and not call.answered_exact:
                answered = ended
            else:
                ended = answered
    return with_facts(call, {"answered_at": answered, "ended_at": ended})


def _facts_of(call: Call, seen: CallObservation) -> dict[str, Any]:
    return {
        "direction": seen.direction,
        "from_party": joined_party(call.from_party, seen.from_party),
        "to_party": joined_party(call.to_party, seen.to_party),
        "queue": _joined_queue(call.queue, seen.queue),
        "started_at": seen.started_at,
    }


def _joined_queue(old: Queue | None, new: Queue | None) -> Queue | None:
    """The new queue. A confirmed queue stays confirmed while its name is the same."""
    if new is None or (old is not None and old.confirmed and old.name == new.name):
        return old
    return new


def joined_party(old: Party | None, new: Party | None) -> Party | None:
    """The new party; if it is the same party as before, missing fields keep their known values."""
    if old is None or new is None:
        return new or old
    pairs = (
        (old.number, new.number),
        (old.extension_number, new.extension_number),
        (old.extension_id, new.extension_id),
    )
    if any(before and now and before != now for before, now in pairs):
        return new
    return Party(
        number=new.number or old.number,
        name=new.name or old.name,
        extension_number=new.extension_number or old.extension_number,
        location=new.location or old.location,
        extension_id=new.extension_id or old.extension_id,
    )


def _answered(call: Call, known: State | None, seen: CallObservation, at: datetime) -> Call:
    answered_at, answered_exact = _answer(call, known, seen, at)
    own = call.answered_on_own_leg or any(leg.accepted and leg.own for leg in seen.legs)
    facts = {"answered_at": answered_at, "answered_exact": answered_exact, "answered_on_own_leg": own}
    return with_facts(call, facts)


def _answer(call: Call, known: State | None, seen: CallObservation, at: datetime) -> tuple[datetime | None, bool]:
    """When the call was answered, and whether the platform gave this time."""
    if call.answered_exact or seen.state in UNANSWERED:
        return call.answered_at, call.answered_exact
    ended = seen.state is State.ENDED
    was_rung = bool(call.ringing_legs) or known in UNANSWERED
    starts = [
        leg.started_at
        for leg in seen.legs
        if leg.accepted
        and leg.key not in call.ringing_legs
        and (leg.started_at > seen.started_at or (was_rung and not ended))
        and (call.answered_at is None or leg.started_at <= call.answered_at)
    ]
    if starts:
        return (min(starts) if was_rung else max(starts)), True
    return (call.answered_at if ended else call.answered_at or at), False
