"""The asynchronous interface of the SQLite outbox."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from pathlib import Path

from callcast.calls.model import Call, ChangeSet, Known, PollRecord
from callcast.observability.fatal import observed
from callcast.outbox.sqlite import calls as stored_calls
from callcast.outbox.sqlite.codec import time_of, us_of
from callcast.outbox.sqlite.deliveries import Claimed, Deliveries, DueDelivery
from callcast.outbox.sqlite.pruning import Limits, Pruner
from callcast.outbox.sqlite.writer import WriterThread
from callcast.ports.clock import Clock
from callcast.ports.outbox import Acked, Outbox, OutboxRefused, OutboxUnavailable, Overdue, Pruned, Stats, Stored
from callcast.ports.sink import Delivery, Filter


@asynccontextmanager
async def open_outbox(
    path: Path, clock: Clock, *, retention_h: float, outbox_max_mb: float, dead_letter_days: float
) -> AsyncIterator["SqliteOutbox"]:
    """Open the outbox in directory `path`. Raises OutboxRefused if it is in use, has another schema, or is unusable.

    A disk error does not prevent opening: each method then raises OutboxUnavailable until the disk works.
    """
    limits = Limits(retention_h=retention_h, outbox_max_mb=outbox_max_mb, dead_letter_days=dead_letter_days)
    outbox = SqliteOutbox(path, clock, limits)
    try:
        await outbox.open()
        yield outbox
    finally:
        await outbox.close()


_OFFERED_MAX = 1024  # deliveries of one sink in memory; further ones are read from the file


class _SinkClaims:
    """The deliveries of one sink that are in flight. In memory only: a restart sends them again, with the same ids.

    After a claim that returned everything due, new deliveries are handed out from memory, without a read of the file.
    Any other change invalidates that, and the next claim reads the file again.
    """

    def __init__(self) -> None:
        self.lock = asyncio.Lock()  # held while a claim reads and then extends `in_flight`
        self.in_flight: dict[int, int] = {}  # seq -> ordering key
        self.waiters: dict[asyncio.Future[None], bool] = {}  # true: woken by fresh deliveries only
        self.generation = 0
        self._is_current = False
        self._due_us: int | None = None
        self._offered: deque[tuple[int, Delivery]] = deque()
        self._timer: asyncio.Future[None] | None = None
        self._timer_at_s = 0.0

    def ordering_keys(self) -> frozenset[int]:
        return frozenset(self.in_flight.values())

    def refresh(self, claimed: Claimed, generation: int) -> None:
        """Store the result of a read unless it was invalidated since. Runs in the order of operations."""
        if generation == self.generation:
            self._offered.clear()
            self._is_current, self._due_us = claimed.due_us != 0, claimed.due_us

    def offer(self, due: DueDelivery) -> None:
        if len(self._offered) >= _OFFERED_MAX:
            self.invalidate()
        if self._is_current:
            self._offered.append((due.ordering_key, due.delivery))
        self.wake(fresh=due.fresh)

    def take_offered(self, limit: int, now_us: int) -> list[Delivery] | None:
        """The deliveries that are due; None if the file must be read."""
        if not self._is_current or (self._due_us is not None and self._due_us <= now_us):
            return None
        return self.take([self._offered.popleft() for _ in range(min(limit, len(self._offered)))])

    def due_in_s(self, now_us: int) -> float | None:
        """Seconds until a delivery may be due; None if the file must be read."""
        if not self._is_current:
            return None
        if self._offered:
            return 0.0
        return float("inf") if self._due_us is None else (self._due_us - now_us) / 1e6

    def take(self, found: Sequence[tuple[int, Delivery]]) -> list[Delivery]:
        self.in_flight.update((delivery.seq, ordering_key) for ordering_key, delivery in found)
        return [delivery for _, delivery in found]

    def give_back(self, delivery: Delivery) -> None:
        self.in_flight.pop(delivery.seq, None)

    def invalidate(self) -> None:
        self.generation += 1
        self._is_current = False
        self._offered.clear()

    def wake_in(self, pause_s: float, clock: Clock) -> None:
        """Wake the waiters after a pause, or earlier if an earlier timer is already set."""
        at_s = clock.monotonic() + pause_s
        if self._timer is not None and not self._timer.done():
            if self._timer_at_s <= at_s:
                return
            self._timer.cancel()
        self._timer_at_s = at_s
        self._timer = observed(asyncio.ensure_future(clock.sleep(pause_s)))
        self._timer.add_done_callback(self._on_timer)

    def _on_timer(self, timer: asyncio.Future[None]) -> None:
        if not timer.cancelled():
            self.wake()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def invalidate_and_wake(self, *, fresh: bool = True) -> None:
        """Read the file at the next claim, and wake the waiters."""
        self.invalidate()
        self.wake(fresh=fresh)

    def wake(self, *, fresh: bool = True) -> None:
        for waiter, fresh_only in self.waiters.items():
            if not waiter.done() and (fresh or not fresh_only):
                waiter.set_result(None)


class SqliteOutbox(Outbox):
    def __init__(self, directory: Path, clock: Clock, limits: Limits) -> None:
        self._clock = clock
        self._writer = WriterThread(directory, clock, self._written_elsewhere)
        self._pruner = Pruner(limits)
        self._claims: dict[str, _SinkClaims] = {}

    @property
    def queued(self) -> int:
        """Operations that are queued for the writer thread."""
        return self._writer.queued

    @property
    def resets(self) -> int:
        """How often the file was unreadable, deleted or replaced."""
        return self._writer.resets

    async def open(self) -> None:
        self._writer.start()
        with suppress(OutboxUnavailable):  # the methods raise it until the disk works
            await self.last_seq()

    async def close(self) -> None:
        for claims in self._claims.values():
            claims.stop()
        await self._writer.stop()

    # Calls and polls

    async def sources(self) -> Collection[str]:
        return await self._writer.submit(lambda deliveries: stored_calls.sources(deliveries.connection), reads=True)

    async def known(self, source: str, /) -> Known:
        return await self._writer.submit(
            lambda deliveries: stored_calls.known(deliveries.connection, source), reads=True
        )

    async def recall(self, source: str, session_ids: Collection[str], /) -> Sequence[Call]:
        wanted = tuple(session_ids)
        return await self._writer.submit(
            lambda deliveries: stored_calls.recall(deliveries.connection, source, wanted), reads=True
        )

    async def latest(self, limit: int, /) -> Sequence[Call]:
        return await self._writer.submit(
            lambda deliveries: stored_calls.latest(deliveries.connection, limit), reads=True
        )

    async def record(self, source: str, poll: PollRecord | None, change: ChangeSet, /) -> None:
        now_us = self._now_us()
        await self._writer.submit(lambda deliveries: deliveries.record(source, poll, change, now_us), after=self._offer)

    async def note(self, source: str, name: str, value: bytes | None, /) -> None:
        await self._writer.submit(lambda deliveries: stored_calls.keep_note(deliveries.connection, source, name, value))

    # Deliveries

    async def subscribe(self, filters: Mapping[str, Filter], /) -> None:
        wanted, now_us = dict(filters), self._now_us()
        await self._writer.submit(lambda deliveries: deliveries.subscribe(wanted, now_us))

    async def claim(self, sink: str, /, *, limit: int) -> Sequence[Delivery]:
        claims = self._of(sink)
        async with claims.lock:
            now_us = self._now_us()
            offered = claims.take_offered(limit, now_us)
            return await self._fetch(sink, claims, limit, now_us) if offered is None else offered

    async def _fetch(self, sink: str, claims: _SinkClaims, limit: int, now_us: int) -> Sequence[Delivery]:
        ordering_keys, generation = claims.ordering_keys(), claims.generation
        try:
            claimed = await self._writer.submit(
                lambda deliveries: deliveries.claim(sink, limit, ordering_keys, now_us),
                reads=True,
                after=lambda claimed: claims.refresh(claimed, generation),
            )
        except BaseException:  # also on cancellation: the claimed deliveries were not returned
            claims.invalidate()
            raise
        return claims.take(claimed.found)

    async def claim_probe(self, sink: str, /, *, after_seq: int, fresh: bool = False) -> Delivery | None:
        claims = self._of(sink)
        async with claims.lock:
            ordering_keys, now_us = claims.ordering_keys(), self._now_us()
            found = await self._writer.submit(
                lambda deliveries: deliveries.claim_probe(sink, after_seq, fresh, ordering_keys, now_us), reads=True
            )
            claims.invalidate()
        return claims.take([found])[0] if found else None

    async def ack(self, taken: Sequence[Acked], /) -> None:
        now_us = self._now_us()
        await self._writer.submit(
            lambda deliveries: deliveries.settle(taken, now_us),
            patient=True,
            after=lambda followed: self._settled(taken, followed),
        )

    async def retry(
        self, delivery: Delivery, /, *, at: datetime, reason: str, detail: str, took_s: float, held: bool = False
    ) -> None:
        now_us, at_us = self._now_us(), us_of(at)
        await self._settle(
            delivery, lambda deliveries: deliveries.retry(delivery, at_us, held, reason, detail, took_s, now_us)
        )

    async def dead_letter(self, delivery: Delivery, /, *, reason: str, detail: str, took_s: float) -> None:
        now_us = self._now_us()
        await self._settle(
            delivery, lambda deliveries: deliveries.dead_letter(delivery, reason, detail, took_s, now_us)
        )

    async def expire(self, delivery: Delivery, /) -> None:
        now_us = self._now_us()
        await self._settle(delivery, lambda deliveries: deliveries.expire(delivery.sink, delivery.seq, now_us))

    async def expire_overdue(self, sink: str, /, *, live_before: datetime, final_before: datetime) -> Overdue:
        claims = self._of(sink)
        live_us, final_us, now_us = us_of(live_before), us_of(final_before), self._now_us()
        async with claims.lock:
            ordering_keys = claims.ordering_keys()
            claims.invalidate()
            return await self._writer.submit(
                lambda deliveries: deliveries.expire_overdue(sink, live_us, final_us, ordering_keys, now_us)
            )

    async def release(self, delivery: Delivery, /) -> None:
        claims = self._of(delivery.sink)
        claims.give_back(delivery)
        claims.invalidate_and_wake()

    async def make_due(self, sink: str, /, *, held: bool = True) -> None:
        while await self._writer.submit(lambda deliveries: deliveries.make_due(sink, held=held)):
            self._of(sink).invalidate_and_wake()
        self._of(sink).invalidate_and_wake()

    async def wait(self, sink: str, /, *, timeout_s: float, fresh_after: int | None = None) -> None:
        claims = self._of(sink)
        waiter = asyncio.get_running_loop().create_future()
        claims.waiters[waiter] = fresh_after is not None
        try:
            pause_s = min(timeout_s, await self._due_in_s(sink, claims, fresh_after))
            if pause_s > 0:
                claims.wake_in(pause_s, self._clock)
                await waiter
        finally:
            del claims.waiters[waiter]

    # Reading and pruning

    async def history(self, *, after_seq: int, limit: int) -> Sequence[Stored]:
        return await self._writer.submit(lambda deliveries: deliveries.history(after_seq, limit), reads=True)

    async def last_seq(self) -> int:
        return await self._writer.submit(lambda deliveries: deliveries.last_seq(), reads=True)

    async def stats(self) -> Stats:
        return await self._writer.submit(lambda deliveries: deliveries.stats(self._writer.bytes_used()), reads=True)

    async def prune(self, now: datetime, /) -> Pruned:
        events, calls, dropped, orphaned, more = 0, 0, Counter[str](), Counter[str](), True
        now_us = us_of(now)
        while more:
            ordering_keys = {sink: claims.ordering_keys() for sink, claims in self._claims.items()}
            part, more = await self._writer.submit(
                lambda deliveries, ordering_keys=ordering_keys: self._pruner.slice(deliveries, now_us, ordering_keys)  # type: ignore[misc]
            )
            events, calls = events + part.events, calls + part.calls
            dropped.update(part.dropped)
            orphaned.update(part.orphaned)
        for sink in dropped:  # deliveries behind the dropped ones may be due
            self._of(sink).invalidate_and_wake()
        return Pruned(events=events, calls=calls, dropped=dict(dropped), orphaned=dict(orphaned))

    def keep(self, *, retention_h: float, outbox_max_mb: float, dead_letter_days: float) -> None:
        limits = Limits(retention_h=retention_h, outbox_max_mb=outbox_max_mb, dead_letter_days=dead_letter_days)
        self._pruner.change(limits)

    async def check(self) -> None:
        await self._writer.submit(lambda deliveries: deliveries.beat())

    def warnings(self) -> Sequence[str]:
        return tuple(self._writer.warnings.values())

    # Helpers

    def _of(self, sink: str) -> _SinkClaims:
        if sink not in self._claims:
            self._claims[sink] = _SinkClaims()
        return self._claims[sink]

    def _now_us(self) -> int:
        return us_of(self._clock.now())

    async def _settle(self, delivery: Delivery, run: Callable[[Deliveries], object]) -> None:
        claims = self._of(delivery.sink)

        def settled(_: object) -> None:
            claims.give_back(delivery)
            claims.invalidate_and_wake(fresh=False)

        await self._writer.submit(run, after=settled)

    async def _due_in_s(self, sink: str, claims: _SinkClaims, fresh_after: int | None) -> float:
        ordering_keys = claims.ordering_keys()
        if fresh_after is not None:
            return 0.0 if await self._has_fresh(sink, fresh_after, ordering_keys) else float("inf")
        if (known_s := claims.due_in_s(self._now_us())) is not None:
            return known_s
        due_us = await self._writer.submit(lambda deliveries: deliveries.next_due_us(sink, ordering_keys), reads=True)
        if due_us is None:
            return float("inf")
        return (time_of(due_us) - self._clock.now()).total_seconds()

    async def _has_fresh(self, sink: str, after_seq: int, ordering_keys: frozenset[int]) -> bool:
        found = await self._writer.submit(
            lambda deliveries: deliveries.claim_probe(sink, after_seq, True, ordering_keys, 0), reads=True
        )
        return found is not None

    def _offer(self, due_deliveries: Sequence[DueDelivery]) -> None:
        for due in due_deliveries:
            self._of(due.delivery.sink).offer(due)

    def _settled(self, taken: Sequence[Acked], followed: Collection[str]) -> None:
        for one in taken:
            self._of(one.delivery.sink).give_back(one.delivery)
        for sink in followed:
            self._of(sink).invalidate_and_wake(fresh=False)

    def _written_elsewhere(self) -> None:
        self._pruner.begin_again()
        for claims in self._claims.values():
            claims.invalidate_and_wake()


__all__ = ["OutboxRefused", "SqliteOutbox", "open_outbox"]
