"""The deliverer against the real outbox, with a clock turned by hand and a far side that answers as told."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from callcast.core.retry import RetryPolicy
from callcast.core.sink import Delivered, Delivery, Filter, Outcome
from callcast.deliverer import Deliverer
from callcast.outboxes.sqlite import SqliteOutbox, open_outbox
from tests.clock import TurnedClock
from tests.made import change, event

Answer = Callable[[Delivery], Awaitable[Outcome]]


class FarSide:
    """A sink that keeps what it is sent, with the time, and answers as the test says."""

    def __init__(self, clock: TurnedClock) -> None:
        self.answer: Outcome | Answer = Delivered()
        self.sent: list[tuple[float, str, str, int]] = []
        self.open = 0
        self.most_open = 0
        self._clock = clock

    async def send(self, delivery: Delivery, /) -> Outcome:
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            said = delivery.event
            self.sent.append((self._clock.monotonic(), said.key.split("/")[-1], said.type, delivery.attempt))
            return await self.answer(delivery) if callable(self.answer) else self.answer
        finally:
            self.open -= 1

    def times(self, call: str) -> list[float]:
        return [at_s for at_s, key, _, _ in self.sent if key == call]


class Told:
    """An observer and a log that keep what they are told."""

    def __init__(self) -> None:
        self.attempts: list[str | None] = []
        self.latencies: list[float] = []
        self.expired = 0
        self.dead = 0
        self.replayed = 0
        self.up: list[bool] = []
        self.logged: list[str] = []

    def delivery_attempted(self, sink: str, failed: str | None, took_s: float) -> None:
        self.attempts.append(failed)

    def event_delivered(self, sink: str, latency_s: float) -> None:
        self.latencies.append(latency_s)

    def event_replayed(self, sink: str) -> None:
        self.replayed += 1

    def event_expired(self, sink: str) -> None:
        self.expired += 1

    def event_dead_lettered(self, sink: str) -> None:
        self.dead += 1

    def sink_up(self, sink: str, up: bool) -> None:
        self.up.append(up)

    def info(self, event: str, /, **facts: object) -> None:
        self.logged.append(event)

    warning = error = info


class Bench:
    """One deliverer, its outbox, its far side, and the clock that moves them all."""

    def __init__(self, clock: TurnedClock, outbox: SqliteOutbox, far: FarSide, told: Told) -> None:
        self.clock = clock
        self.outbox = outbox
        self.far = far
        self.told = told
        self.task: asyncio.Task[None] | None = None

    def deliverer(self, concurrency: int = 8, timeout_s: float = 15, shutdown_s: float = 10) -> Deliverer:
        return Deliverer(
            "crm",
            self.far,
            self.outbox,
            self.clock,
            RetryPolicy(),
            self.told,
            concurrency=concurrency,
            timeout_s=timeout_s,
            random=lambda: 0.5,
            log=self.told,
            shutdown_s=shutdown_s,
        )

    async def start(self, **settings: float) -> None:
        self.task = asyncio.create_task(self.deliverer(**settings).run())  # type: ignore[arg-type]
        await self.clock.settle()

    async def stop(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)
            self.task = None

    async def record(self, *events) -> None:
        await self.outbox.record(None, change(*events))
        await self.clock.settle()

    async def owed(self) -> int:
        return sum(sink.owed for sink in (await self.outbox.stats()).sinks)


@asynccontextmanager
async def bench_in(path: Path) -> AsyncIterator[Bench]:
    clock = TurnedClock()
    async with open_outbox(path, clock, retention_h=72, outbox_max_mb=100, dead_letter_days=30) as outbox:
        clock.busy = lambda: outbox.queued > 0
        await outbox.subscribe({"crm": Filter()})
        bench = Bench(clock, outbox, FarSide(clock), Told())
        try:
            yield bench
        finally:
            await bench.stop()


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with bench_in(tmp_path) as bench:
        yield bench


async def test_what_is_recorded_is_sent_and_settled(bench: Bench) -> None:
    """An event that is recorded while all is quiet goes out without any time passing, and is owed no longer."""
    await bench.start()
    await bench.clock.turn(600)
    await bench.record(event())
    assert bench.far.sent == [(600.0, "s-1", "call.ringing", 1)]
    assert await bench.owed() == 0
    assert bench.told.attempts == [None]
    assert bench.told.latencies == [0.0]
