"""What the outbox costs: commits a second, one event's way through it, and both beside a million others.

    python bench/outbox.py [--stored 1000,100000] [--dir DIRECTORY]

Prints one JSON line per figure; everything goes through the real async API onto the real disk.
"""

import argparse
import asyncio
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from callcast.core.ids import event_id
from callcast.core.model import (
    Call,
    CallEvent,
    Change,
    Direction,
    Evidence,
    Observation,
    Party,
    Provider,
    State,
)
from callcast.core.retry import RetryPolicy
from callcast.core.sink import Delivered, Delivery, Filter, Outcome
from callcast.deliverer import Deliverer
from callcast.outboxes.sqlite import SqliteOutbox, open_outbox

NINE = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
SINKS = {"crm": Filter(), "wallboard": Filter(), "lines": Filter()}
LIMITS = {"retention_h": 72.0, "outbox_max_mb": 100_000.0, "dead_letter_days": 30.0}


class RealClock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    wall = now

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float, /) -> None:
        await asyncio.sleep(seconds)


def ended(name: str) -> Change:
    call = Call(
        source="acme",
        call_id=f"62264425016/s-{name}",
        session_id=f"s-{name}",
        extension_id="62264425016",
        account_id="809646016",
        sequence=3,
        direction=Direction.INBOUND,
        state=State.ENDED,
        from_party=Party(number="+16505550100", name="WIRELESS CALLER", location="San Mateo, CA"),
        to_party=Party(number="+16505550101", name="Front Desk", location="San Mateo, CA"),
        started_at=NINE,
        answered_at=NINE + timedelta(seconds=4),
        ended_at=NINE + timedelta(seconds=10),
        provider=Provider(name="ringcentral", record_id=f"r-{name}", session_id="538332041016", result="Accepted"),
        record_ids=(f"r-{name}",),
    )
    observation = Observation(after=NINE, before=NINE, exact=True, evidence=Evidence.ACTIVE_CALLS, first_look=False)
    event = CallEvent(
        id=event_id("call.ended", name),
        type="call.ended",
        time=NINE,
        call=call,
        previous_state=State.CONNECTED,
        sequence=3,
        observation=observation,
    )
    return Change(calls=(call,), events=(event,))


def fsync_ms(directory: Path) -> float:
    """Median of one appended page made durable: the floor of every commit."""
    taken = []
    file = os.open(directory / "fsync", os.O_CREAT | os.O_WRONLY)
    for _ in range(200):
        began = time.perf_counter()
        os.write(file, b"x" * 4096)
        os.fdatasync(file)
        taken.append(time.perf_counter() - began)
    os.close(file)
    return statistics.median(taken) * 1e3


def say(**figures: object) -> None:
    print(json.dumps({key: round(v, 4) if isinstance(v, float) else v for key, v in figures.items()}), flush=True)


async def timed(work: Callable[[], Awaitable[object]], times: int) -> list[float]:
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        await work()
        taken.append(time.perf_counter() - began)
    return taken


async def commits(outbox: SqliteOutbox, together: int, label: str, rounds: int = 200) -> None:
    """`together` events recorded at once, each by its own call of `record`, until all are on the disk."""
    count = 0

    async def burst() -> None:
        nonlocal count
        changes = [ended(f"{label}-{count + n}") for n in range(together)]
        count += together
        await asyncio.gather(*(outbox.record(None, change) for change in changes))

    taken = await timed(burst, rounds)
    median = statistics.median(taken)
    say(what="record", together=together, median_ms=median * 1e3, events_per_s=together / median)


async def one_way(outbox: SqliteOutbox, stored: int, rounds: int = 300) -> None:
    """Record, claim and settle one event at a time, beside `stored` others."""
    parts: dict[str, list[float]] = {"record": [], "claim": [], "done": []}
    cpu_s = time.process_time()
    for n in range(rounds):
        for part, took_s in zip(parts, await once(outbox, f"way-{stored}-{n}"), strict=True):
            parts[part].append(took_s)
    medians = {f"{part}_ms": statistics.median(taken) * 1e3 for part, taken in parts.items()}
    cpu_ms = (time.process_time() - cpu_s) / rounds * 1e3
    say(what="one_event", stored=stored, **medians, all_ms=sum(medians.values()), cpu_ms=cpu_ms)


async def once(outbox: SqliteOutbox, name: str) -> tuple[float, float, float]:
    change = ended(name)
    began = time.perf_counter()
    await outbox.record(None, change)
    recorded = time.perf_counter()
    (delivery,) = await outbox.claim("crm", limit=1)
    claimed = time.perf_counter()
    await outbox.done(delivery, took_s=0.001)
    return recorded - began, claimed - recorded, time.perf_counter() - claimed


class Instant:
    """A far side that answers at once, and says when it has answered often enough."""

    def __init__(self, events: int) -> None:
        self.enough = asyncio.Event()
        self._left = events

    async def send(self, delivery: Delivery, /) -> Outcome:  # noqa: ARG002
        self._left -= 1
        if self._left <= 0:
            self.enough.set()
        return Delivered()


class Deaf:
    """An observer and a log that keep nothing."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: None


async def drain(outbox: SqliteOutbox, sinks: list[str], events: int, concurrency: int) -> None:
    """Deliver a backlog with the real deliverers, side by side, to far sides that answer at once."""
    fars = [Instant(events) for _ in sinks]
    ear: Any = Deaf()
    began = time.perf_counter()
    running = [
        asyncio.ensure_future(
            Deliverer(
                sink,
                far,
                outbox,
                RealClock(),
                RetryPolicy(),
                ear,
                concurrency=concurrency,
                timeout_s=15,
                random=lambda: 0.5,
                log=ear,
            ).run()
        )
        for sink, far in zip(sinks, fars, strict=True)
    ]
    await asyncio.gather(*(far.enough.wait() for far in fars))
    took_s = time.perf_counter() - began
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    say(what="drain", sinks=len(sinks), concurrency=concurrency, events=events, took_s=took_s, per_s=events / took_s)


async def fill(outbox: SqliteOutbox, count: int, label: str) -> None:
    for start in range(0, count, 2000):
        changes = [ended(f"{label}-{n}") for n in range(start, min(start + 2000, count))]
        await asyncio.gather(*(outbox.record(None, change) for change in changes))


async def main(directory: Path, stored: list[int]) -> None:
    say(what="fsync", median_ms=fsync_ms(directory))
    async with open_outbox(directory / "rates", RealClock(), **LIMITS) as outbox:
        await outbox.subscribe(SINKS)
        for together in (1, 10, 100):
            await commits(outbox, together, str(together), rounds=200 if together < 100 else 50)
        await drain(outbox, ["wallboard"], 5000, 8)
        await drain(outbox, ["crm"], 5000, 1)
    async with open_outbox(directory / "drain", RealClock(), **LIMITS) as outbox:
        await outbox.subscribe(SINKS)
        await fill(outbox, 5000, "drain")
        await drain(outbox, list(SINKS), 5000, 8)
    async with open_outbox(directory / "stored", RealClock(), **LIMITS) as outbox:
        await outbox.subscribe({"slow": Filter()})
        have = 0
        for wanted in stored:
            await fill(outbox, wanted - have, f"fill{wanted}")
            have = wanted
            await outbox.subscribe({"crm": Filter(), "slow": Filter()})
            await one_way(outbox, wanted)
            taken = await timed(outbox.stats, 20)
            say(what="stats", stored=wanted, median_ms=statistics.median(taken) * 1e3)
            await outbox.subscribe({"slow": Filter()})
            have += 300


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stored", default="1000,100000")
    parser.add_argument("--dir", type=Path, default=None)
    chosen = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="callcast-bench-", dir=chosen.dir))
    try:
        asyncio.run(main(place, [int(n) for n in chosen.stored.split(",")]))
    finally:
        shutil.rmtree(place)
