"""What the picture of the live calls promises to those who only look at it."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

from msgspec import Struct

from callcast.core.model import Call


class Counts(Struct, frozen=True, kw_only=True):
    """Of conversations; of one extension, of its parts (contract 9).

    ringing, dialing, connected: live ones by state.
    waiting: callers from outside who ring somewhere and were not answered yet.
    longest_waiting_since, longest_wait_s: of them; None when no caller waits.
    answered_today, missed_today, abandoned_today: inbound ones with a caller from outside, since midnight in the
    service's timezone: at the answer, or else at the end.
    average_speed_of_answer_s: from the start to the answer, or to the poll that showed it.
    service_level: the share of them that was answered in time, without those abandoned earlier; None while there is
    none.
    """

    ringing: int = 0
    dialing: int = 0
    connected: int = 0
    waiting: int = 0
    longest_waiting_since: datetime | None = None
    longest_wait_s: float | None = None
    answered_today: int = 0
    missed_today: int = 0
    abandoned_today: int = 0
    average_speed_of_answer_s: float | None = None
    service_level: float | None = None


class Summary(Counts, frozen=True, kw_only=True):
    """Totals of one source.

    as_of: the oldest of the targets' last polls that are stored; None while one has none.
    complete: false when a poll of one of the targets is overdue.
    overdue: the extensions whose poll is overdue while others are seen; empty when it is the source as a whole.
    sign_ins_ahead: how many sources sign in before this one; None: it does not wait for its place.
    now: what time it is where the calls' times come from, as the newest poll said; None before the first one.
    """

    source: str
    as_of: datetime | None
    complete: bool
    overdue: tuple[str, ...] = ()
    sign_ins_ahead: int | None = None
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


class Statistics(Board, Protocol):
    """What the HTTP side reads beside."""

    def total(self) -> Counts:
        """Of all sources: a conversation that several of one account see counts once."""
        ...

    def extension_counts(self, source: str, /) -> Mapping[str, Counts]:
        """By extension id, for each extension of `extensions` and each that had a call today."""
        ...
