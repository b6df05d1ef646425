"""What the commands do with an outbox: dead letters, replay, and the history of a call, also while the service runs."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Protocol

from msgspec import Struct

from callcast.calls.model import Call, Event
from callcast.ports.outbox import OutboxRefused, SinkStats, Stored
from callcast.ports.sink import Filter


class DeadLetter(Struct, frozen=True, kw_only=True):
    """A dead letter: an event that was given up for one sink after `attempts`; the last one failed for `reason`."""

    sink: str
    event: Event
    dead_at: datetime
    attempts: int
    reason: str
    detail: str


class Selection(Struct, frozen=True, kw_only=True):
    """Selects dead letters. None and empty values match all; `type_` is a glob; times are when they became dead."""

    sink: str | None = None
    event_ids: frozenset[str] = frozenset()
    type_: str = "*"
    reason: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def matches(self, event: Event) -> bool:
        return (not self.event_ids or event.id in self.event_ids) and fnmatchcase(event.type, self.type_)


ALL = Selection()
EVERYTHING = Filter()


class Attempt(Struct, frozen=True, kw_only=True):
    """The result of one attempt. `outcome`: `delivered`, `expired` or a reason. `took_s`: None if not sent."""

    sink: str
    number: int
    at: datetime
    outcome: str
    detail: str
    took_s: float | None


class EventHistory(Struct, frozen=True, kw_only=True):
    """An event and its deliveries. `pending`: the sinks it is pending for; `dead`: those it is a dead letter of."""

    stored: Stored
    attempts: tuple[Attempt, ...]
    pending: tuple[str, ...]
    dead: tuple[str, ...]


class CallHistory(Struct, frozen=True, kw_only=True):
    """Everything the store holds of one call. `call`: None if it was pruned, or for the events of a source."""

    call: Call | None
    events: tuple[EventHistory, ...]


class OutboxMissing(OutboxRefused):
    """There is no outbox yet: the service has not run. Says where it was expected."""


class OutboxAdmin(Protocol):
    """Each method may raise `OutboxUnavailable`. The service notices a change within a second."""

    def sinks(self) -> Sequence[SinkStats]:
        """Return all sinks that ever existed."""
        ...

    def dead_letters(self, selection: Selection = ALL, /) -> Iterator[DeadLetter]:
        """Yield dead letters, oldest first."""
        ...

    def retry(self, now: datetime, selection: Selection = ALL, /) -> int:
        """Make these dead letters pending again, with the same ids and a new time to live. Returns how many."""
        ...

    def drop(self, selection: Selection = ALL, /) -> int:
        """Delete these dead letters. Returns how many."""
        ...

    def replay(
        self, now: datetime, *, sink: str, since: datetime, until: datetime, type_: str = "*", only: Filter = EVERYTHING
    ) -> int:
        """Make recorded events pending again, unless they are; with the same ids, oldest first.

        since, until: limits of the time of recording. type_: a glob. only: the filter of the sink; later events of a
        call of which the sink got one match in any direction. Returns how many. Raises KeyError for an unknown sink.
        """
        ...

    def find(self, what: str, /) -> Sequence[Call]:
        """Return the calls that `what` names, oldest first: a call id, session id, or the last digits of a number."""
        ...

    def history_of(self, call: Call, /) -> CallHistory: ...

    def history_around(self, event_id: str, /) -> CallHistory | None:
        """Return the history of the call or source of an event. None if there is no such event."""
        ...
