"""Turns a change of a call (its state before and after) into an event with an id, a time and a sequence number."""

from datetime import datetime

import msgspec
from msgspec import Struct

from callcast.calls.ids import event_id
from callcast.calls.lifecycle import CORRECTED_BY, EVENTS, UPDATED_BY, changed_facts, known_state
from callcast.calls.model import Call, CallEvent, Evidence, Observation, State

_digest = msgspec.json.Encoder(order="deterministic").encode


class ObservationWindow(Struct, frozen=True, kw_only=True):
    """When and how a change was detected.

    at: the time of the poll or lookup that showed the change.
    after, before: the polls around the change. `after` is None when there was no earlier poll; `before` is None when
    it is the poll at `at`.
    """

    at: datetime
    after: datetime | None = None
    before: datetime | None = None
    evidence: Evidence = Evidence.ACTIVE_CALLS
    first_poll: bool = False


def event_for(old: Call | None, new: Call, window: ObservationWindow) -> tuple[Call, CallEvent | None]:
    """Return the call to store and the event to emit for it.

    The event is None while the record is provisional, for a call that ended before the first poll, and when no fact
    that consumers see has changed.
    """
    known = known_state(old)
    kind = EVENTS[known, new.state]
    is_unreported = new.sequence == 0 and (new.provisional_since is not None or known is State.ENDED)
    if is_unreported:
        return new, None
    facts: tuple[str, ...] = ()
    if kind in _WATCHED_FACTS:
        assert old is not None  # noqa: S101 - the table has these two only for known calls
        changes = changed_facts(old, new, _WATCHED_FACTS[kind])
        if not changes:
            return new, None
        facts = (str(new.sequence + 1), _digest(changes).decode())
    time, exact = _time_of(kind, new, window)
    observation = Observation(
        after=window.after,
        before=window.before or window.at,
        exact=exact,
        evidence=window.evidence,
        first_poll=window.first_poll,
    )
    recorded = msgspec.structs.replace(
        new,
        sequence=new.sequence + 1,
        previous_state=known,
        observation=observation,
        emitted_directions=tuple(dict.fromkeys((*new.emitted_directions, new.direction))),
    )
    return recorded, CallEvent(
        id=event_id(new.account_id, new.call_id, kind, *facts),
        type=kind,
        time=time,
        call=recorded,
        previous_state=known,
        sequence=recorded.sequence,
        observation=observation,
        corrects=event_id(new.account_id, new.call_id, "call.ended") if kind == "call.corrected" else None,
    )


_WATCHED_FACTS = {"call.updated": UPDATED_BY, "call.corrected": CORRECTED_BY}


def _time_of(kind: str, call: Call, window: ObservationWindow) -> tuple[datetime, bool]:
    """The best known time of the event, and whether the platform gave it (otherwise it is the time of the poll)."""
    if kind in ("call.ringing", "call.dialing"):
        return call.started_at, True
    if kind == "call.answered" and call.answered_at is not None:
        return call.answered_at, call.answered_exact
    if kind == "call.ended" and call.ended_at is not None:
        return call.ended_at, call.ended_exact
    return window.at, False
