"""The outbox protocol: the durable store between polling and delivery.

A method returns once its change is on disk; a method that raises `OutboxUnavailable` has changed nothing. So polling
may run again, and deliveries may be retried.

Stored times come from a wall clock that may have been wrong. On opening, a recording time in the future is set to now,
and a due time is limited to now plus the longest retry delay.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from msgspec import Struct

from callcast.calls.model import Call, ChangeSet, Event, Known, PollRecord
from callcast.ports.sink import Delivery, Filter

SERVICE = ""  # the source name under which the service stores its own notes


class OutboxRefused(Exception):
    """The store cannot be opened: another process uses it, or its version is not supported. Says what to do."""


class OutboxUnavailable(Exception):
    """The store cannot be read or written now (disk full, read-only, I/O error). Names place, cause and next step."""


class SinkStats(Struct, frozen=True, kw_only=True):
    """The backlog and the dead letters of one sink. `removed_at`: when it was removed from the configuration."""

    sink: str
    pending: int
    oldest_recorded_at: datetime | None
    dead: int
    removed_at: datetime | None = None


class Stats(Struct, frozen=True, kw_only=True):
    """The state of the store. `bytes_used`: on disk, including all files of the store."""

    sinks: tuple[SinkStats, ...]
    bytes_used: int


class Overdue(Struct, frozen=True, kw_only=True):
    """Deliveries past their time to live: how many live events expired, how many others became dead letters."""

    expired: int = 0
    dead: int = 0


class Pruned(Struct, frozen=True, kw_only=True):
    """What was deleted. `dropped` and `orphaned` count lost pending deliveries and dead letters, by sink.

    dropped: deleted because the store reached its size limit. orphaned: of removed sinks, after the retention time.
    """

    events: int = 0
    calls: int = 0
    dropped: Mapping[str, int] = {}
    orphaned: Mapping[str, int] = {}


class Stored(Struct, frozen=True, kw_only=True):
    """A stored event. `seq`: its position among all events of the store."""

    seq: int
    recorded_at: datetime
    event: Event


class Acked(Struct, frozen=True):
    """A delivery that the remote side acknowledged. `took_s`: seconds of the attempt. `detail`: its response."""

    delivery: Delivery
    took_s: float
    detail: str = ""


class Outbox(Protocol):
    async def sources(self) -> Collection[str]:
        """Return the names of all sources of which anything is stored that `known` returns."""
        ...

    async def known(self, source: str, /) -> Known:
        """Return what is stored of a source, for its start; nothing for an unknown one."""
        ...

    async def recall(self, source: str, session_ids: Collection[str], /) -> Sequence[Call]:
        """Return the stored calls of these sessions, including ended ones."""
        ...

    async def latest(self, limit: int, /) -> Sequence[Call]:
        """Return all open calls of all sources, and up to `limit` ended ones, the most recent."""
        ...

    async def record(self, source: str, poll: PollRecord | None, change: ChangeSet, /) -> None:
        """Store the poll, the calls, the events and a pending delivery for each subscribed sink, in one transaction.

        All of them belong to `source`.

        An event whose id is already stored is ignored.
        """
        ...

    async def note(self, source: str, name: str, value: bytes | None, /) -> None:
        """Store a small fact of a source that must survive a restart; None deletes it."""
        ...

    async def subscribe(self, filters: Mapping[str, Filter], /) -> None:
        """Create pending deliveries for these sinks only, for new events that pass their filter."""
        ...

    async def claim(self, sink: str, /, *, limit: int) -> Sequence[Delivery]:
        """Claim due deliveries, oldest first: one per ordering key, and none while another of its key is claimed.

        Replayed deliveries come last; they neither wait for others of their key nor block them.
        """
        ...

    async def claim_probe(self, sink: str, /, *, after_seq: int, fresh: bool = False) -> Delivery | None:
        """Claim one delivery as a recovery probe: the oldest of the next ordering key after `after_seq`.

        It need not be due, unless the remote side asked for the delay. `fresh`: only the first event of a call of
        which the sink has received nothing, and which was never attempted.
        """
        ...

    async def ack(self, acked: Sequence[Acked], /) -> None:
        """Mark deliveries as acknowledged. May wait some milliseconds, to commit several together."""
        ...

    async def retry(
        self, delivery: Delivery, /, *, at: datetime, reason: str, detail: str, took_s: float, held: bool = False
    ) -> None:
        """Make a delivery due again at `at`. `held`: the remote side asked for this time: no probe before it."""
        ...

    async def dead_letter(self, delivery: Delivery, /, *, reason: str, detail: str, took_s: float) -> None:
        """Give a delivery up: it becomes a dead letter of its sink."""
        ...

    async def expire(self, delivery: Delivery, /) -> None:
        """End a delivery past its time to live: a live event expires, any other becomes a dead letter."""
        ...

    async def expire_overdue(self, sink: str, /, *, live_before: datetime, final_before: datetime) -> Overdue:
        """Expire deliveries pending since before these times, except of claimed keys. Limited work per call: repeat.

        A delivery that is not live stays until one attempt has been made since the store was opened, because its age
        may come from a wall clock that was wrong.
        """
        ...

    async def release(self, delivery: Delivery, /) -> None:
        """Return a claimed delivery without an attempt, because the attempt was cancelled."""
        ...

    async def make_due(self, sink: str, /, *, held: bool = True) -> None:
        """Make the sink's whole backlog due now. `held`: including deliveries that the remote side asked to delay."""
        ...

    async def wait(self, sink: str, /, *, timeout_s: float, fresh_after: int | None = None) -> None:
        """Return when the sink may have something due, at the latest after `timeout_s`.

        fresh_after: return early only for what `claim_probe(after_seq=fresh_after, fresh=True)` would return.
        """
        ...

    async def history(self, *, after_seq: int, limit: int) -> Sequence[Stored]:
        """Return recorded events after `after_seq` in order, for clients that resume a stream."""
        ...

    async def last_seq(self) -> int:
        """Return the `seq` of the newest recorded event; 0 if there is none."""
        ...

    async def stats(self) -> Stats: ...

    async def prune(self, now: datetime, /) -> Pruned:
        """Delete delivered events past the retention time, and more when the size limit is reached."""
        ...

    def keep(self, *, retention_h: float, outbox_max_mb: float, dead_letter_days: float) -> None:
        """Set the limits for `prune`."""
        ...

    async def check(self) -> None:
        """Test that the store can be written. Raises OutboxUnavailable with the cause if not."""
        ...

    @property
    def resets(self) -> int:
        """How often the store was unreadable, deleted or replaced, and was created or written again."""
        ...

    def warnings(self) -> Sequence[str]:
        """Warnings for the operator: for example, that the store was unreadable and a new one was created."""
        ...
