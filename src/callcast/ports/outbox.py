"""What the store promises: the one durable tank in the middle of the pipe.

Left of it everything may be run again, right of it everything may be tried again. A method returns when what it
says is on the disk; a method that raises `OutboxUnavailable` has changed nothing.

Times in a store come from a wall clock that may have been wrong. When it is opened, what was recorded later than now
has been recorded now, and nothing is due later than its longest delay after now.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from msgspec import Struct

from callcast.calls.model import Call, ChangeSet, Event, Known, PollRecord
from callcast.ports.sink import Delivery, Filter


class OutboxRefused(Exception):
    """The store may not be opened at all: in use by another, or too new. Says what is wrong and what to do."""


class OutboxUnavailable(Exception):
    """The store cannot be written or read now (disk full, read-only, I/O error). Says place, cause, next step."""


class SinkStats(Struct, frozen=True, kw_only=True):
    """What one sink is owed."""

    sink: str
    pending: int
    oldest_recorded_at: datetime | None
    dead: int


class Stats(Struct, frozen=True, kw_only=True):
    """`bytes_used`: on the disk, with everything that belongs to the store."""

    sinks: tuple[SinkStats, ...]
    bytes_used: int


class Overdue(Struct, frozen=True, kw_only=True):
    """Deliveries whose time to live ended: how many live events expired, and how many others became dead letters."""

    expired: int = 0
    dead: int = 0


class Pruned(Struct, frozen=True, kw_only=True):
    """What was forgotten. `dropped` and `orphaned` count, per sink, what was still owed or lay dead; that is loud.

    dropped: because the store reached its cap. orphaned: of sinks that were removed, when the retention was over.
    """

    events: int = 0
    calls: int = 0
    dropped: Mapping[str, int] = {}
    orphaned: Mapping[str, int] = {}


class DeadLetter(Struct, frozen=True, kw_only=True):
    """A dead letter: an event that one sink never took. `attempts` were made, the last failed for `reason`."""

    sink: str
    event: Event
    dead_at: datetime
    attempts: int
    reason: str
    detail: str


class Attempt(Struct, frozen=True, kw_only=True):
    """What came of one attempt. `word` is `delivered`, `expired` or a failure's reason; `took_s` None: not sent."""

    sink: str
    number: int
    at: datetime
    word: str
    detail: str
    took_s: float | None


class EventHistory(Struct, frozen=True, kw_only=True):
    """An event with what became of it. `owed`: the sinks that wait for it still; `dead`: those that never took it."""

    stored: "Stored"
    attempts: tuple[Attempt, ...]
    pending: tuple[str, ...]
    dead: tuple[str, ...]


class CallHistory(Struct, frozen=True, kw_only=True):
    """Everything the store knows of one call. `call` None: its memory is gone, or it is a source's events."""

    call: Call | None
    events: tuple[EventHistory, ...]


class Stored(Struct, frozen=True, kw_only=True):
    """An event as it lies in the store; `seq` orders all events of the store."""

    seq: int
    recorded_at: datetime
    event: Event


class Acked(Struct, frozen=True):
    """A delivery that the remote side has, how long the attempt took, and what was answered."""

    delivery: Delivery
    took_s: float
    detail: str = ""


class Outbox(Protocol):
    async def known(self) -> Mapping[str, Known]:
        """What is known of each source, by its name. Read once, at start."""
        ...

    async def recall(self, source: str, session_ids: Collection[str], /) -> Sequence[Call]:
        """The remembered calls of these sessions, the ended ones too; the memory of the ended lives here."""
        ...

    async def latest(self, limit: int, /) -> Sequence[Call]:
        """The calls of all sources that are open, and as many of the ended ones, those that ended last."""
        ...

    async def record(self, poll: PollRecord | None, change: ChangeSet, /) -> None:
        """State and events and each wanting sink's pending delivery, all or nothing. An event id seen before is
        nothing.
        """
        ...

    async def note(self, source: str, name: str, value: bytes | None, /) -> None:
        """Keep a small fact of a source over restarts; None forgets it."""
        ...

    async def subscribe(self, filters: Mapping[str, Filter], /) -> None:
        """From now on these sinks, and no others, get pending deliveries for the events their filter wants."""
        ...

    async def claim(self, sink: str, /, *, limit: int) -> Sequence[Delivery]:
        """Due, oldest first, at most one per call: its oldest unsettled, and none whose call is in flight.

        What was brought back by hand comes after all others, and neither waits for its call nor holds it up.
        """
        ...

    async def claim_probe(self, sink: str, /, *, after_seq: int, fresh: bool = False) -> Delivery | None:
        """Claim one event to try a failing sink with: the oldest unsettled of the next call after `after_seq`.

        Due or not, except one that the remote side asked to hold back. `fresh`: only the first event of a call that
        the sink never heard of, and that was never tried.
        """
        ...

    async def ack(self, acked: Sequence[Acked], /) -> None:
        """Delivered. It may wait some milliseconds for company on its way to the disk."""
        ...

    async def retry(
        self, delivery: Delivery, /, *, at: datetime, reason: str, detail: str, took_s: float, held: bool = False
    ) -> None:
        """Try again at a time. `held`: the remote side asked for that time, so it is no probe before."""
        ...

    async def dead_letter(self, delivery: Delivery, /, *, reason: str, detail: str, took_s: float) -> None: ...

    async def expire(self, delivery: Delivery, /) -> None:
        """Its time to live is over: a live event is gone, another a dead letter with its last attempt's reason."""
        ...

    async def expire_overdue(self, sink: str, /, *, live_before: datetime, final_before: datetime) -> Overdue:
        """Expire everything owed since before these times, except calls in flight. Bounded work; may be repeated.

        What is not live is left alone until one attempt has been made since the store was opened: its age may come
        from a wall clock that was wrong.
        """
        ...

    async def release(self, delivery: Delivery, /) -> None:
        """Give a claimed delivery back untried (the attempt was cancelled); it counts nothing."""
        ...

    async def make_due(self, sink: str, /, *, held: bool = True) -> None:
        """Everything the sink is owed is due now. `held`: also what the remote side asked to hold back."""
        ...

    async def wait(self, sink: str, /, *, timeout_s: float, fresh_after: int | None = None) -> None:
        """Return when the sink may have something due, at the latest after `timeout_s`.

        `fresh_after`: only for what `probe(after_seq=fresh_after, fresh=True)` would give.
        """
        ...

    async def history(self, *, after_seq: int, limit: int) -> Sequence[Stored]:
        """Recorded events in order, for those who resume a stream."""
        ...

    async def last_seq(self) -> int:
        """`seq` of the newest recorded event; 0 while there is none."""
        ...

    async def stats(self) -> Stats: ...

    async def prune(self, now: datetime, /) -> Pruned:
        """Forget what is settled and older than the retention, and more where the cap is reached."""
        ...

    def keep(self, *, retention_h: float, outbox_max_mb: float, dead_letter_days: float) -> None:
        """From now on prune by these limits."""
        ...

    async def check(self) -> None:
        """Write something. Raises OutboxUnavailable with the cause when that is not possible now."""
        ...

    @property
    def resets(self) -> int:
        """How often this store was found unreadable, deleted or replaced, and was begun or written anew."""
        ...

    def warnings(self) -> Sequence[str]:
        """What a person must know about this store: that it was unreadable and a new one was begun, for example."""
        ...
