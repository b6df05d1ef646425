"""What the picture of the live calls promises to those who only look at it."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from msgspec import Struct

from callcast.core.model import Call


class Summary(Struct, frozen=True, kw_only=True):
    """Totals of one source.

    answered_today, missed_today: inbound calls since midnight in the service's timezone, a missed one by its
    disposition `missed`.
    as_of: the oldest last look among the targets; None while one was never seen.
    complete: false when a look at one of the targets is overdue.
    overdue: the extensions whose look is overdue while others are seen; empty when it is the source as a whole.
    waiting: callers who ring somewhere and talk to nobody yet: one, however many extensions ring for them.
    average_speed_of_answer_s: seconds from ring to answer, over today's answers whose time is exact.
    now: what time it is where the calls' times come from, as the newest look told it; None before the first one.
    """

    source: str
    ringing: int
    dialing: int
    connected: int
    answered_today: int
    missed_today: int
    as_of: datetime | None
    complete: bool
    overdue: tuple[str, ...] = ()
    waiting: int = 0
    longest_waiting_since: datetime | None = None
    average_speed_of_answer_s: float | None = None
    now: datetime | None = None


class Turn(Struct, frozen=True, kw_only=True):
    """What changed since a version: the calls in their new state (ended ones too).

    `calls` None: too much has changed to tell one by one; read `calls()` afresh.
    """

    version: int
    calls: tuple[Call, ...] | None


class Board(Protocol):
    @property
    def version(self) -> int:
        """Grows with every change."""
        ...

    def calls(self) -> Sequence[Call]:
        """The live calls, newest first."""
        ...

    def extensions(self, source: str, /) -> Sequence[str]:
        """Numeric ids of the source's watched or seen extensions."""
        ...

    def summaries(self) -> Sequence[Summary]: ...

    async def changed(self, since: int, /) -> Turn:
        """Wait until `version` is above `since`; return at once if it is. The caller sets the time limit."""
        ...
