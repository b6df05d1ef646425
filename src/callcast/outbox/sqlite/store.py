"""The asynchronous interface of the SQLite outbox."""

import math
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import datetime
from pathlib import Path

from callcast.calls.model import Call, ChangeSet, Known, PollRecord
from callcast.outbox.claims import READ_MAX, Due, Queues, SinkQueue
from callcast.outbox.sqlite import calls as stored_calls
from callcast.outbox.sqlite.codec import us_of
from callcast.outbox.sqlite.deliveries import Deliveries
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


class SqliteOutbox(Outbox):
    def __init__(self, directory: Path, clock: Clock, limits: Limits) -> None:
        self._clock = clock
        self._writer = WriterThread(directory, clock, self._written_elsewhere)
        self._pruner = Pruner(limits)
        self._queues = Queues()

    @property
    def resets(self) -> int:
        """How often the file was unreadable, deleted or replaced."""
        return self._writer.file.resets

    async def open(self) -> None:
        self._writer.start()
        with suppress(OutboxUnavailable):  # the methods raise it until the disk works
            await self.last_seq()

    async def close(self) -> None:
        for queue in self._queues.values():
            queue.stop()
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
        await self._writer.submit(
            lambda deliveries: deliveries.record(source, poll, change, now_us), after=self._queues.offer
        )

    async def note(self, source: str, name: str, value: bytes | None, /) -> None:
        await self._writer.submit(lambda deliveries: stored_calls.keep_note(deliveries.connection, source, name, value))

    # Deliveries

    async def subscribe(self, filters: Mapping[str, Filter], /) -> None:
        wanted, now_us = dict(filters), self._now_us()
        await self._writer.submit(lambda deliveries: deliveries.subscribe(wanted, now_us))

    async def claim(self, sink: str, /, *, limit: int) -> Sequence[Delivery]:
        queue = self._queues[sink]
        async with queue.lock:
            await self._read(sink, queue, limit)
            return queue.take(limit)

    async def _read(self, sink: str, queue: SinkQueue, limit: int) -> None:
        """Read the due deliveries if the queue does not know the first `limit` of them."""
        now_us = self._now_us()
        if queue.must_read(limit, now_us):
            most, claimed = max(limit, READ_MAX), len(queue.claimed)
            await self._writer.submit(
                lambda deliveries: deliveries.front(sink, most, claimed, now_us), reads=True, after=queue.refresh
            )

    async def claim_probe(self, sink: str, /, *, after_seq: int, fresh: bool = False) -> Delivery | None:
        queue = self._queues[sink]
        async with queue.lock:
            found = await self._find_probe(sink, queue, after_seq, fresh)
            return queue.take_probe(found) if found else None

    def _find_probe(self, sink: str, queue: SinkQueue, after_seq: int, fresh: bool) -> Awaitable[Due | None]:
        claimed, now_us = queue.ordering_keys(), self._now_us()
        return self._writer.submit(
            lambda deliveries: deliveries.probe(sink, after_seq, fresh, claimed, now_us), reads=True
        )

    async def ack(self, acked: Sequence[Acked], /) -> None:
        now_us = self._now_us()
        await self._settle(
            [one.delivery for one in acked], lambda deliveries: deliveries.settle(acked, now_us), patient=True
        )

    async def retry(
        self, delivery: Delivery, /, *, at: datetime, reason: str, detail: str, took_s: float, held: bool = False
    ) -> None:
        queue, now_us, at_us = self._queues[delivery.sink], self._now_us(), us_of(at)

        def retried(_: None) -> None:
            queue.retry_at(at_us)
            queue.settled(delivery)

        await self._writer.submit(
            lambda deliveries: deliveries.retry(delivery, at_us, held, reason, detail, took_s, now_us), after=retried
        )

    async def dead_letter(self, delivery: Delivery, /, *, reason: str, detail: str, took_s: float) -> None:
        now_us = self._now_us()
        await self._settle(
            [delivery], lambda deliveries: deliveries.dead_letter(delivery, reason, detail, took_s, now_us)
        )

    async def expire(self, delivery: Delivery, /) -> None:
        now_us = self._now_us()
        await self._settle([delivery], lambda deliveries: deliveries.expire(delivery, now_us))

    async def _settle(
        self, given: Sequence[Delivery], run: Callable[[Deliveries], Sequence[Due]], *, patient: bool = False
    ) -> None:
        def settled(due: Sequence[Due]) -> None:
            for delivery in given:
                self._queues[delivery.sink].settled(delivery)
            self._queues.offer(due)

        await self._writer.submit(run, patient=patient, after=settled)

    async def expire_overdue(self, sink: str, /, *, live_before: datetime, final_before: datetime) -> Overdue:
        queue, now_us = self._queues[sink], self._now_us()
        live_us, final_us = us_of(live_before), us_of(final_before)
        async with queue.lock:
            claimed = queue.ordering_keys()
            return await self._writer.submit(
                lambda deliveries: deliveries.expire_overdue(sink, live_us, final_us, claimed, now_us),
                after=lambda overdue: None if overdue == Overdue() else queue.invalidate(),
            )

    async def release(self, delivery: Delivery, /) -> None:
        queue = self._queues[delivery.sink]
        queue.settled(delivery)
        queue.invalidate()

    async def make_due(self, sink: str, /, *, held: bool = True) -> None:
        queue, more = self._queues[sink], True
        while more:
            more = await self._writer.submit(
                lambda deliveries: deliveries.make_due(sink, held=held), after=lambda _: queue.invalidate()
            )

    async def wait(self, sink: str, /, *, timeout_s: float, fresh_after: int | None = None) -> None:
        queue = self._queues[sink]
        waiter = queue.waiter(fresh_only=fresh_after is not None)
        try:
            if fresh_after is None:
                async with queue.lock:
                    await self._read(sink, queue, 1)
                pause_s = queue.due_in_s(self._now_us())
            else:
                pause_s = 0.0 if await self._find_probe(sink, queue, fresh_after, True) else math.inf
            if (pause_s := min(timeout_s, pause_s)) > 0:
                queue.wake_in(pause_s, self._clock)
                await waiter
        finally:
            waiter.cancel()

    # Reading and pruning

    async def history(self, *, after_seq: int, limit: int) -> Sequence[Stored]:
        return await self._writer.submit(lambda deliveries: deliveries.history(after_seq, limit), reads=True)

    async def last_seq(self) -> int:
        return await self._writer.submit(lambda deliveries: deliveries.last_seq(), reads=True)

    async def stats(self) -> Stats:
        file = self._writer.file
        return await self._writer.submit(lambda deliveries: deliveries.stats(file.bytes_used()), reads=True)

    async def prune(self, now: datetime, /) -> Pruned:
        events, calls, dropped, orphaned, more = 0, 0, Counter[str](), Counter[str](), True
        while more:
            part, more = await self._prune_slice(us_of(now))
            events, calls = events + part.events, calls + part.calls
            dropped.update(part.dropped)
            orphaned.update(part.orphaned)
        return Pruned(events=events, calls=calls, dropped=dict(dropped), orphaned=dict(orphaned))

    async def _prune_slice(self, now_us: int) -> tuple[Pruned, bool]:
        """Nothing is claimed meanwhile: a delivery is either sent or dropped."""

        def pruned(result: tuple[Pruned, bool]) -> None:
            for sink in {*result[0].dropped, *result[0].orphaned}:  # deliveries behind the dropped ones may be due
                self._queues[sink].invalidate()

        async with AsyncExitStack() as locks:
            for queue in tuple(self._queues.values()):
                await locks.enter_async_context(queue.lock)
            claimed = {sink: queue.ordering_keys() for sink, queue in self._queues.items()}
            return await self._writer.submit(
                lambda deliveries: self._pruner.slice(deliveries, now_us, claimed), after=pruned
            )

    def keep(self, *, retention_h: float, outbox_max_mb: float, dead_letter_days: float) -> None:
        limits = Limits(retention_h=retention_h, outbox_max_mb=outbox_max_mb, dead_letter_days=dead_letter_days)
        self._pruner.change(limits)

    async def check(self) -> None:
        await self._writer.submit(lambda deliveries: deliveries.beat())

    def warnings(self) -> Sequence[str]:
        return tuple(self._writer.file.warnings.values())

    # Helpers

    def _now_us(self) -> int:
        return us_of(self._clock.now())

    def _written_elsewhere(self) -> None:
        self._pruner.begin_again()
        for queue in self._queues.values():
            queue.invalidate()


__all__ = ["OutboxRefused", "SqliteOutbox", "open_outbox"]
