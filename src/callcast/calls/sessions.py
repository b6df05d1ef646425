"""A conversation as a whole: what the parts of one session say together. Pure.

One session of one account is one conversation, however many extensions take part in it, one after another or at once.
"""

from collections.abc import Iterable
from datetime import datetime

from msgspec import Struct

from callcast.calls.model import Call, Direction, Disposition, Party, Queue, State

# Of a session whose parts are all over: the first of these that any part has.
_DISPOSITIONS = (
    "answered",
    "answered_elsewhere",
    "voicemail",
    "abandoned",
    "missed",
    "no_answer",
    "busy",
    "declined",
    "cancelled",
    "blocked",
    "failed",
    "fax",
    "transferred",
    "unknown",
)
_RANK = {word: rank for rank, word in enumerate(_DISPOSITIONS)}


class Session(Struct, frozen=True, kw_only=True, gc=False):
    """What is known of a conversation. Its parts stand in the order in which they started.

    source: of the part that answered, else of the first one.
    direction: of the first part. internal: all its callers are extensions of the account; never while in doubt.
    state: connected while any live part is, else ringing while any is, else dialing; ended when no part is live.
    started_at: of the first part. answered_at: the first answer; None too where there was one at a time unknown.
    answer_known: `answered_at` is the answer's time, or that of the poll that showed it after an earlier one.
    answered_by: the extensions that answered, in order.
    disposition: None while a part is live.
    complete: false where another party that is not among the parts answered it.
    """

    account_id: str | None
    session_id: str
    source: str
    direction: Direction
    internal: bool
    state: State
    from_party: Party | None
    to_party: Party | None
    queue: Queue | None
    started_at: datetime
    answered: bool
    answered_at: datetime | None
    answer_known: bool
    ended_at: datetime | None
    answered_by: tuple[str, ...]
    disposition: Disposition | None
    complete: bool
    parts: tuple[Call, ...]


def session_of(parts: Iterable[Call]) -> Session:
    """The conversation that these parts, at least one, are known to be."""
    ordered = sorted(parts, key=_place)
    first = ordered[0]
    direction = first.direction
    inbound = [part for part in ordered if part.direction is Direction.INBOUND]
    of_direction = [part for part in ordered if part.direction is direction]
    answers = sorted((part for part in of_direction if was_answered(part)), key=_answer_place)
    state = _state(ordered)
    disposition = None if state is not State.ENDED else min(map(_disposition, ordered), key=_rank)
    return Session(
        account_id=next((part.account_id for part in ordered if part.account_id), None),
        session_id=first.session_id,
        source=answers[0].source if answers else first.source,
        direction=direction,
        internal=_is_internal(inbound),
        state=state,
        from_party=next((part.from_party for part in of_direction if part.from_party), None),
        to_party=next((part.to_party for part in of_direction if part.to_party), None),
        queue=next((part.queue for part in of_direction if part.queue), None),
        started_at=first.started_at,
        answered=bool(answers),
        answered_at=answers[0].answered_at if answers else None,
        answer_known=bool(answers) and _is_known(answers[0]),
        ended_at=_ended_at(ordered) if state is State.ENDED else None,
        answered_by=tuple(dict.fromkeys(part.extension_id for part in answers)),
        disposition=disposition,
        complete=disposition != "answered_elsewhere",
        parts=tuple(ordered),
    )


def was_answered(part: Call) -> bool:
    return part.answered_at is not None or part.state is State.CONNECTED or part.disposition is Disposition.ANSWERED


def _place(part: Call) -> tuple[datetime, bool, str, str]:
    """Of two that start in the same second the caller's own part is the first."""
    return part.started_at, part.direction is Direction.INBOUND, part.source, part.call_id


def _answer_place(part: Call) -> tuple[bool, datetime]:
    return part.answered_at is None, part.answered_at or part.started_at


def _is_known(answer: Call) -> bool:
    """Where a target's first poll showed the call connected, its answer may be long ago."""
    return answer.answered_at is not None and (answer.answered_exact or not answer.first_poll)


def _state(parts: list[Call]) -> State:
    states = {part.state for part in parts}
    return next((state for state in (State.CONNECTED, State.RINGING, State.DIALING) if state in states), State.ENDED)


def _ended_at(parts: list[Call]) -> datetime:
    return max(part.ended_at or part.started_at for part in parts)


def _disposition(part: Call) -> Disposition:
    return part.disposition or Disposition.UNKNOWN


def _rank(disposition: Disposition) -> int:
    return _RANK.get(disposition, len(_RANK))


def _is_internal(inbound: list[Call]) -> bool:
    """A live part whose caller is not known yet may have one from outside; one that is over tells nothing."""
    if any(part.live and part.from_party is None for part in inbound):
        return False
    callers = [part.from_party for part in inbound if part.from_party is not None]
    return bool(callers) and all(caller.extension_id or caller.extension_number for caller in callers)
