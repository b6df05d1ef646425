"""Combines the parts of one session into a conversation. Pure.

A session of an account is one conversation, no matter how many extensions take part in it.
"""

from collections.abc import Iterable
from datetime import datetime

from msgspec import Struct

from callcast.calls.model import Call, Direction, Disposition, Party, Queue, State

# An ended session has the first of these dispositions that any of its parts has.
_DISPOSITIONS = (
    *(Disposition.ANSWERED, Disposition.ANSWERED_ELSEWHERE, Disposition.VOICEMAIL, Disposition.ABANDONED),
    *(Disposition.MISSED, Disposition.NO_ANSWER, Disposition.BUSY, Disposition.DECLINED, Disposition.CANCELLED),
    *(Disposition.BLOCKED, Disposition.FAILED, Disposition.FAX, Disposition.TRANSFERRED, Disposition.UNKNOWN),
)


class Session(Struct, frozen=True, kw_only=True, gc=False):
    """What is known of a conversation. Its parts are ordered by start.

    source: of the part that answered, otherwise of the first part.
    direction: of the first part.
    internal: true when every caller is known to be an extension of the account.
    state: connected if any live part is, else ringing if any is, else dialing; ended when no part is live.
    started_at: of the first part.
    answered_at: the first answer; also None when the conversation was answered at an unknown time.
    answer_known: `answered_at` was given by the platform, or is the time of a poll that followed an earlier poll.
    answered_by: the extensions that answered, in order.
    disposition: None while a part is live.
    complete: false when it was answered by an extension that is not among the parts.
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
    """Combine the parts of one session; there must be at least one."""
    # Of two parts that start in the same second the caller's part comes first.
    ordered = sorted(parts, key=lambda p: (p.started_at, p.direction is Direction.INBOUND, p.source, p.call_id))
    first = ordered[0]
    direction = first.direction
    inbound = [part for part in ordered if part.direction is Direction.INBOUND]
    of_direction = [part for part in ordered if part.direction is direction]
    answers = sorted(
        (part for part in of_direction if _is_answered(part)),
        key=lambda part: (part.answered_at is None, part.answered_at or part.started_at),
    )
    states = {part.state for part in ordered}
    state = next((one for one in (State.CONNECTED, State.RINGING, State.DIALING) if one in states), State.ENDED)
    is_over = state is State.ENDED
    dispositions = [part.disposition or Disposition.UNKNOWN for part in ordered]
    disposition = min(dispositions, key=_DISPOSITIONS.index) if is_over else None
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
        ended_at=max(part.ended_at or part.started_at for part in ordered) if is_over else None,
        answered_by=tuple(dict.fromkeys(part.extension_id for part in answers)),
        disposition=disposition,
        complete=disposition is not Disposition.ANSWERED_ELSEWHERE,
        parts=tuple(ordered),
    )


def _is_answered(part: Call) -> bool:
    return part.answered_at is not None or part.state is State.CONNECTED or part.disposition is Disposition.ANSWERED


def _is_known(answer: Call) -> bool:
    """False if the target's first poll showed the call connected: it may have been answered long before."""
    return answer.answered_at is not None and (answer.answered_exact or not answer.first_poll)


def _is_internal(inbound: list[Call]) -> bool:
    """A live part with an unknown caller may still turn out external; an ended one with none is ignored."""
    if any(part.live and part.from_party is None for part in inbound):
        return False
    callers = [part.from_party for part in inbound if part.from_party is not None]
    return bool(callers) and all(caller.extension_id or caller.extension_number for caller in callers)
