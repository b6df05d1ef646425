"""The delivery worker with the real outbox, a clock that the test turns, and a remote side that it scripts."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from callcast.calls.model import Event
from callcast.delivery.worker import DEFAULT_FIX, UNSTORED_MAX, DeliveryWorker, SinkTrouble
from callcast.observability.outbox_health import OutboxHealth
from callcast.outbox.opening import open_admin
from callcast.outbox.sqlite.pruning import Limits
from callcast.outbox.sqlite.store import SqliteOutbox, open_outbox
from callcast.ports.outbox import SERVICE, Acked, OutboxUnavailable
from callcast.ports.retry import RetryPolicy
from callcast.ports.sink import Delivered, Delivery, Filter, Outcome, Rejected, Retry
from tests.builders import NINE, change, event
from tests.clock import TurnedClock
from tests.outbox import busy

Answer = Callable[[Delivery], Awaitable[Outcome]]


class RemoteSide:
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
            sent = delivery.event
            self.sent.append((self._clock.monotonic(), sent.key.split("/")[-1], sent.type, delivery.attempt))
            await asyncio.sleep(0)  # as every remote side: the loop turns before its answer
            return await self.answer(delivery) if callable(self.answer) else self.answer
        finally:
            self.open -= 1

    def times(self, call: str) -> list[float]:
        return [at_s for at_s, key, _, _ in self.sent if key == call]


class RecordedTelemetry:
    """Telemetry and a log that keep what is reported."""

    def __init__(self) -> None:
        self.attempts: list[str | None] = []
        self.latencies: list[float] = []
        self.expired = 0
        self.dead = 0
        self.replayed = 0
        self.up: list[bool] = []
        self.logged: list[str] = []
        self.facts: dict[str, dict[str, object]] = {}  # of the last line of each event

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
        self.facts[event] = facts

    warning = error = info


async def cancelled_twice(*tasks: asyncio.Task[None]) -> None:
    """Stop workers; what has not ended then is cancelled, as by the supervisor after `service.shutdown_s`."""
    for _ in range(2):
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=0.2)
    await asyncio.gather(*tasks, return_exceptions=True)


class Bench:
    """One delivery worker, its outbox, its remote side, and the clock that moves them all."""

    def __init__(
        self, path: Path, clock: TurnedClock, outbox: SqliteOutbox, remote: RemoteSide, telemetry: RecordedTelemetry
    ) -> None:
        self.path = path
        self.clock = clock
        self.outbox = outbox
        self.remote = remote
        self.telemetry = telemetry
        self.task: asyncio.Task[None] | None = None

    def delivery_worker(
        self,
        concurrency: int = 8,
        timeout_s: float = 15,
        policy: RetryPolicy | None = None,
        hold: bytes | None = None,
    ) -> DeliveryWorker:
        return DeliveryWorker(
            "crm",
            self.remote,
            self.outbox,
            self.clock,
            policy or RetryPolicy(),
            self.telemetry,
            outbox_user=OutboxHealth(self.clock, self.telemetry).user(sink="crm"),
            concurrency=concurrency,
            timeout_s=timeout_s,
            random=lambda: 0.5,
            log=self.telemetry,
            hold=hold,
        )

    async def start(self, **settings: Any) -> None:
        self.task = asyncio.create_task(self.delivery_worker(**settings).run())
        await self.clock.settle()

    async def stop(self) -> None:
        if self.task is not None:
            await cancelled_twice(self.task)
            self.task = None

    async def record(self, *events: Event) -> None:
        await self.outbox.record("acme", None, change(*events))
        await self.clock.settle()

    async def pending(self) -> int:
        return sum(sink.pending for sink in (await self.outbox.stats()).sinks)


@asynccontextmanager
async def bench_in(path: Path) -> AsyncIterator[Bench]:
    clock = TurnedClock()
    async with open_outbox(path, clock, retention_h=72, outbox_max_mb=100, dead_letter_days=30) as outbox:
        clock.busy = busy(outbox)
        await outbox.subscribe({"crm": Filter()})
        bench = Bench(path, clock, outbox, RemoteSide(clock), RecordedTelemetry())
        try:
            yield bench
        finally:
            await bench.stop()


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with bench_in(tmp_path) as bench:
        yield bench


async def test_what_is_recorded_is_sent_and_settled(bench: Bench) -> None:
    """An event that is recorded while all is quiet goes out without any time passing, and is no longer pending."""
    await bench.start()
    await bench.clock.turn(600)
    await bench.record(event())
    assert bench.remote.sent == [(600.0, "s-1", "call.ringing", 1)]
    assert await bench.pending() == 0
    assert bench.telemetry.attempts == [None]
    assert bench.telemetry.latencies == [0.0]


DOWN = Retry("503", "service unavailable")


async def fail_five(bench: Bench) -> None:
    """Five calls fail, one after the other, one attempt each: now the sink is failing."""
    bench.remote.answer = DOWN
    for n in range(5):
        await bench.record(event(f"first{n}"))
    assert bench.telemetry.up == [True, False]


# Retries


async def test_retries_of_a_final_event(bench: Bench) -> None:
    """A final event is tried at its delays for as long as others prove the sink healthy."""
    bench.remote.answer = lambda one: answering(DOWN if one.event.key == "101/poison" else Delivered())
    await bench.start()
    await bench.record(event("poison", "call.ended", 1))
    for n in range(130):
        await bench.record(event(f"good{n}", "call.ended", 1))
        await bench.clock.turn(20)
    assert bench.remote.times("poison") == [0, 1, 6, 36, 156, 456, 2256]


async def test_giving_up(bench: Bench) -> None:
    """A final event whose time to live is over becomes a dead letter at that time, and is logged."""
    bench.remote.answer = lambda one: answering(DOWN if one.event.key == "101/poison" else Delivered())
    await bench.start(policy=RetryPolicy(give_up_after_h=0.1))
    await bench.record(event("poison", "call.ended", 1))
    for n in range(36):
        await bench.record(event(f"good{n}", "call.ended", 1))
        await bench.clock.turn(10)
        assert bench.telemetry.dead == (1 if n == 35 else 0)
    assert bench.remote.times("poison") == [0, 1, 6, 36, 156]
    assert bench.telemetry.expired == 0
    assert "event_dead_lettered" in bench.telemetry.logged


async def answering(outcome: Outcome) -> Outcome:
    return outcome


async def test_retries_of_a_live_event(bench: Bench) -> None:
    """A live event is tried after 1, 2, 5, 10, 20 s until its time is over, then it expires and is no letter."""
    bench.remote.answer = lambda one: answering(DOWN if one.event.key == "101/poison" else Delivered())
    await bench.start()
    await bench.record(event("poison"))
    for second in range(62):
        await bench.record(event(f"good{second}"))
        await bench.clock.turn(1)
    assert bench.remote.times("poison") == [0, 1, 3, 8, 18, 38, 58]
    assert (bench.telemetry.dead, bench.telemetry.expired) == (0, 1)
    assert await bench.pending() == 0


async def test_the_end_follows_an_expired_ringing(bench: Bench) -> None:
    """When a live event expires, the call's end behind it goes out, at once."""
    bench.remote.answer = lambda one: answering(DOWN if one.event.type == "call.ringing" else Delivered())
    await bench.start()
    await bench.record(event("a"), event("a", "call.ended", 2))
    for second in range(61):
        await bench.record(event(f"good{second}", "call.ended", 1))
        await bench.clock.turn(1)
    assert bench.remote.sent.count((60.0, "a", "call.ended", 1)) == 1


async def test_attempts_are_counted(bench: Bench) -> None:
    """The attempt's number grows with each try, and survives the delivery worker."""
    bench.remote.answer = DOWN
    await bench.start()
    await bench.record(event("a", "call.ended", 1))
    await bench.clock.turn(2)
    await bench.stop()
    await bench.start()
    await bench.clock.turn(10)
    assert [attempt for _, _, _, attempt in bench.remote.sent] == [1, 2, 3]


async def test_order_and_concurrency(bench: Bench) -> None:
    """Calls go side by side up to the limit; of one call the next goes only after the last has been answered."""
    gate = asyncio.Event()

    async def wait(_: Delivery) -> Outcome:
        await gate.wait()
        return Delivered()

    bench.remote.answer = wait
    await bench.start(concurrency=3)
    for name in ("a", "b", "c", "d"):
        await bench.record(event(name), event(name, "call.ended", 2))
    assert [(call, type_) for _, call, type_, _ in bench.remote.sent] == [(n, "call.ringing") for n in ("a", "b", "c")]
    gate.set()
    await bench.clock.settle()
    assert bench.remote.most_open == 3
    assert len(bench.remote.sent) == 8
    for name in ("a", "b", "c", "d"):
        assert [type_ for _, call, type_, _ in bench.remote.sent if call == name] == ["call.ringing", "call.ended"]


# Failing, probing, recovering


async def test_a_serial_sink_does_not_wait_for_the_disk(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sink that takes one at a time gets the next while the disk still takes the last: one at a time all the same."""
    works, gate = bench.outbox.ack, asyncio.Event()

    async def slowly(taken: Sequence[Acked], /) -> None:
        await gate.wait()
        await works(taken)

    async def settled() -> None:
        for _ in range(60):  # each waits for a few turns of the loop, and one after another takes more
            await bench.clock.settle()

    monkeypatch.setattr(bench.outbox, "ack", slowly)
    await bench.start(concurrency=1)
    await bench.record(*(event(f"c{n}") for n in range(UNSTORED_MAX + 50)))
    await settled()
    assert [key for _, key, _, _ in bench.remote.sent] == [f"c{n}" for n in range(UNSTORED_MAX)], "no more unsettled"
    gate.set()
    await settled()
    assert len(bench.remote.sent) == UNSTORED_MAX + 50
    assert bench.remote.most_open == 1
    assert await bench.pending() == 0


async def test_what_waits_its_turn_is_given_back(bench: Bench) -> None:
    """A delivery worker that stops waits for the delivery in flight, and sends nothing more of what it has
    claimed.
    """
    gate = asyncio.Event()

    async def wait(_: Delivery) -> Outcome:
        await gate.wait()
        return Delivered()

    bench.remote.answer = wait
    await bench.start(concurrency=1)
    await bench.record(*(event(f"c{n}", "call.ended", 1) for n in range(3)))
    assert bench.task is not None
    bench.task.cancel()
    await bench.clock.settle()
    gate.set()
    await asyncio.gather(bench.task, return_exceptions=True)
    assert [key for _, key, _, _ in bench.remote.sent] == ["c0"]
    assert [one.event.key for one in await bench.outbox.claim("crm", limit=9)] == ["101/c1", "101/c2"]


async def test_what_waits_while_the_sink_fails_is_given_back(bench: Bench) -> None:
    """What was claimed ahead is no probe: after a failure of the sink it waits with all the others."""
    bench.remote.answer = Retry("429", "", after_s=90, holds_sink=True)
    await bench.start(concurrency=1)
    await bench.record(*(event(f"c{n}", "call.ended", 1) for n in range(3)))
    assert [key for _, key, _, _ in bench.remote.sent] == ["c0"]
    assert len(await bench.outbox.claim("crm", limit=9)) == 2


async def test_what_is_new_overtakes_what_was_brought_back(bench: Bench) -> None:
    """An event that is recorded while brought back ones wait their turn goes before them."""
    gate = asyncio.Event()

    async def wait(_: Delivery) -> Outcome:
        await gate.wait()
        return Delivered()

    await bench.start(concurrency=1)
    await bench.record(*(event(f"old{n}", "call.ended", 1) for n in range(3)))
    bench.remote.sent.clear()
    bench.remote.answer = wait
    with open_admin(bench.path) as admin:
        assert admin.replay(NINE, sink="crm", since=NINE, until=NINE) == 3
    async with asyncio.timeout(30):
        while not bench.remote.sent:  # noqa: ASYNC110 (the outbox asks its file)
            await asyncio.sleep(0.01)
    await bench.record(event("new"))
    gate.set()
    await bench.clock.settle()
    assert [key for _, key, _, _ in bench.remote.sent] == ["old0", "new", "old1", "old2"]


async def test_five_in_a_row_make_a_sink_failing(bench: Bench) -> None:
    """Four failures do not, a success in between starts the count again, the fifth in a row does."""
    await bench.start()
    for name in ("a", "b", "c", "d"):
        bench.remote.answer = DOWN
        await bench.record(event(name, "call.ended", 1))
    bench.remote.answer = Delivered()
    await bench.record(event("e", "call.ended", 1))
    bench.remote.answer = DOWN
    for name in ("f", "g", "h", "i"):
        await bench.record(event(name, "call.ended", 1))
    assert bench.telemetry.up == [True]
    await bench.record(event("j", "call.ended", 1))
    assert bench.telemetry.up == [True, False]
    assert bench.telemetry.logged == ["sink_failed"]


class FixSuggestingFarSide(RemoteSide):
    def fix(self, outcome: Retry | Rejected, /) -> str:
        return "check secrets" if outcome.reason == "http_401" else ""


async def test_a_failing_sink_says_what_to_do_about_this_cause(bench: Bench) -> None:
    """The fix that the sink suggests, else the general one; since when it fails, and at last how long it did."""
    bench.remote = FixSuggestingFarSide(bench.clock)
    bench.remote.answer = Retry("http_401", "answered 401")
    delivery_worker = bench.delivery_worker()
    bench.task = asyncio.create_task(delivery_worker.run())
    await bench.clock.settle()
    assert delivery_worker.trouble is None
    for n in range(5):
        await bench.record(event(f"c{n}", "call.ended", 1))
    began = bench.clock.now()
    facts = {"reason": "http_401", "detail": "answered 401", "fix": "check secrets"}
    assert bench.telemetry.facts["sink_failed"] == {"sink": "crm", **facts}
    assert delivery_worker.trouble == SinkTrouble(began, **facts)
    bench.remote.answer = DOWN
    await bench.clock.turn(3 * 3600)
    assert delivery_worker.trouble == SinkTrouble(began, DOWN.reason, DOWN.detail, DEFAULT_FIX)
    bench.remote.answer = Delivered()
    await bench.clock.turn(60)
    assert delivery_worker.trouble is None
    assert bench.telemetry.facts["sink_recovered"]["lasted"] == "3 h"


async def test_probes_each_for_another_call(bench: Bench) -> None:
    """A failing sink gets probes 1, 2, 5, 10 and 20 s after one another and then every 30 s, each for another call,
    round and round; the rest waits.
    """
    await bench.start()
    bench.remote.answer = DOWN
    for n in range(8):
        await bench.record(event(f"c{n}", "call.ended", 1))
    await bench.clock.turn(30 * 7)
    probes = bench.remote.sent[8:]
    assert [at_s for at_s, *_ in probes] == [1, 3, 8, 18, 38, 68, 98, 128, 158, 188]
    assert [call for _, call, _, _ in probes] == [f"c{n % 8}" for n in range(10)]


async def test_a_new_call_is_a_probe_at_once(bench: Bench) -> None:
    """While a sink fails, the first event of a new call is sent at once; the call's next event waits."""
    await bench.start()
    await fail_five(bench)
    await bench.clock.turn(10)
    await bench.record(event("new"))
    await bench.clock.turn(1)
    await bench.record(event("new", "call.ended", 2))
    await bench.clock.turn(10)
    assert [sent[:2] for sent in bench.remote.sent[5:] if sent[1] == "new"] == [(10.0, "new")]


async def test_old_new_calls_are_no_probes(bench: Bench) -> None:
    """Calls that were waiting when the sink began to fail are not all sent at once as probes."""
    gate = asyncio.Event()

    async def wait(_: Delivery) -> Outcome:
        await gate.wait()
        return DOWN

    bench.remote.answer = wait
    await bench.start(concurrency=5)
    await bench.record(*(event(f"c{n}", "call.ended", 1) for n in range(50)))
    gate.set()
    await bench.clock.settle()
    failed = len(bench.remote.sent)
    assert 5 <= failed <= 5 * 5, "as many as overlap count as one failure"
    await bench.clock.turn(29)
    assert [at_s for at_s, *_ in bench.remote.sent[failed:]] == [1, 3, 8, 18]


async def test_each_outage_has_its_own_new_calls(bench: Bench) -> None:
    """In a second outage, too, only calls that began after its start are probes at once."""
    await bench.start(concurrency=5)
    await fail_five(bench)
    bench.remote.answer = Delivered()
    await bench.clock.turn(30)
    assert bench.telemetry.up == [True, False, True]
    gate = asyncio.Event()

    async def wait(_: Delivery) -> Outcome:
        await gate.wait()
        return DOWN

    bench.remote.answer = wait
    before = len(bench.remote.sent)
    await bench.record(*(event(f"c{n}", "call.ended", 1) for n in range(50)))
    gate.set()
    await bench.clock.settle()
    failed = len(bench.remote.sent) - before
    assert 5 <= failed <= 5 * 5, "as many as overlap count as one failure"
    await bench.clock.turn(20)
    assert len(bench.remote.sent) - before == failed + 4


async def test_what_was_claimed_too_late_is_given_back(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sink that begins to fail while a claim is under way is sent nothing of that claim, but a probe later."""
    gate = asyncio.Event()
    works = bench.outbox.claim

    async def wait(_: Delivery) -> Outcome:
        await gate.wait()
        return DOWN

    async def claim(sink: str, /, *, limit: int) -> Sequence[Delivery]:
        found = await works(sink, limit=limit)
        if "101/late" in (one.event.key for one in found):
            gate.set()
            for _ in range(20):  # turns of the loop, in which the five are answered
                await asyncio.sleep(0)
        return found

    await bench.start()
    bench.remote.answer = DOWN
    for n in range(4):
        await bench.record(event(f"c{n}", "call.ended", 1))
    bench.remote.answer = wait
    monkeypatch.setattr(bench.outbox, "claim", claim)
    await bench.record(event("c4", "call.ended", 1))
    await bench.record(event("late", "call.ended", 1))
    assert [call for _, call, _, _ in bench.remote.sent] == [f"c{n}" for n in range(5)]
    assert bench.telemetry.up == [True, False]
    await bench.clock.turn(100)
    assert len(bench.remote.times("late")) == 1


async def test_two_probes_at_a_time(bench: Bench) -> None:
    """While two wait for their answers nothing else goes out, however long it takes and however many calls are new."""
    await bench.start()
    await fail_five(bench)
    gate = asyncio.Event()

    async def wait(_: Delivery) -> Outcome:
        await gate.wait()
        return DOWN

    bench.remote.answer = wait
    bench.remote.most_open = 0
    await bench.clock.turn(1)
    assert bench.remote.open == 1
    await bench.clock.turn(2)
    assert bench.remote.open == 2, "the second one goes out although the first waits"
    for n in range(4):
        await bench.record(event(f"new{n}"))
        await bench.clock.turn(30)
    assert (bench.remote.open, bench.remote.most_open) == (2, 2)
    gate.set()
    await bench.clock.settle()
    assert bench.remote.most_open == 2


async def test_a_serial_sink_gets_one_probe_at_a_time(bench: Bench) -> None:
    """A sink that takes one at a time does so while it is failing too."""
    await bench.start(concurrency=1)
    await fail_five(bench)
    gate = asyncio.Event()

    async def wait(_: Delivery) -> Outcome:
        await gate.wait()
        return DOWN

    bench.remote.answer = wait
    await bench.clock.turn(60)
    assert (bench.remote.open, bench.remote.most_open) == (1, 1)
    gate.set()


async def test_attempts_that_overlap_have_one_cause(bench: Bench) -> None:
    """Eight that fail side by side count once; a fifth round of them makes the sink failing, and no earlier one."""
    bench.remote.answer = DOWN
    await bench.start(concurrency=8)
    for first in range(0, 8 * 4, 8):
        await bench.record(*(event(f"a{first + n}", "call.ended", 1) for n in range(8)))
    assert bench.telemetry.attempts == ["503"] * 8 * 4
    assert bench.telemetry.up == [True]
    await bench.record(event("last", "call.ended", 1))
    assert bench.telemetry.up == [True, False]


async def test_a_success_ends_the_outage_although_probes_still_wait(bench: Bench) -> None:
    """Of two probes the second is answered: everything goes out, and the first is not waited for."""
    await bench.start()
    await fail_five(bench)
    lost = asyncio.Event()

    async def answer(one: Delivery) -> Outcome:
        if one.event.key == "101/first0":
            await lost.wait()
            return DOWN
        return Delivered()

    bench.remote.answer = answer
    await bench.clock.turn(3)
    assert bench.telemetry.up == [True, False, True]
    assert {call for at_s, call, _, _ in bench.remote.sent if at_s == 3} == {f"first{n}" for n in range(1, 5)}
    assert await bench.pending() == 1
    lost.set()


async def test_the_first_success_makes_all_due(bench: Bench) -> None:
    """After an outage everything final arrives in order at the first good probe; what was live has expired."""
    await bench.start()
    bench.remote.answer = DOWN
    for n in range(20):
        await bench.record(event(f"c{n}"), event(f"c{n}", "call.ended", 2))
    await bench.clock.turn(20 * 60)
    assert bench.telemetry.expired == 20
    bench.remote.answer = Delivered()
    before = len(bench.remote.sent)
    await bench.clock.turn(30)
    arrived = bench.remote.sent[before:]
    assert sorted(call for _, call, _, _ in arrived) == sorted(f"c{n}" for n in range(20))
    assert {type_ for _, _, type_, _ in arrived} == {"call.ended"}
    assert len({at_s for at_s, *_ in arrived}) == 1
    assert [call for _, call, _, _ in arrived[1:]] == sorted(
        (call for _, call, _, _ in arrived[1:]), key=lambda call: int(call[1:])
    )
    assert await bench.pending() == 0
    assert bench.telemetry.up == [True, False, True]
    assert bench.telemetry.logged[-1] == "sink_recovered"


async def test_a_failing_sink_still_lets_go(bench: Bench) -> None:
    """While a sink fails, live events expire in time although nothing is claimed, and so do final ones once tried."""
    await bench.start(policy=RetryPolicy(give_up_after_h=0.1))
    await fail_five(bench)
    await bench.record(*(event(f"c{n}", "call.ended", 1) for n in range(5)))
    await bench.clock.turn(70)
    assert (bench.telemetry.expired, bench.telemetry.dead) == (5, 0)
    await bench.clock.turn(280)
    assert bench.telemetry.dead == 0
    assert await bench.pending() == 5
    await bench.clock.turn(20)
    assert bench.telemetry.dead == 5
    assert await bench.pending() == 0


async def restarted(bench: Bench, days: float) -> None:
    """Another start, and the wall clock says that it is so many days later."""
    await bench.stop()
    await bench.outbox.close()
    bench.clock._start += timedelta(days=days)
    limits = Limits(retention_h=72, outbox_max_mb=100, dead_letter_days=30)
    bench.outbox = SqliteOutbox(bench.path, bench.clock, limits)
    bench.clock.busy = busy(bench.outbox)
    await bench.outbox.open()
    await bench.outbox.subscribe({"crm": Filter()})


async def test_nothing_final_dies_of_a_clock_that_was_put_right(bench: Bench) -> None:
    """The clock was ten days behind: ends are sent once more whatever their age; live events have expired."""
    bench.remote.answer = DOWN
    await bench.start(concurrency=20)
    await bench.record(*(event(f"e{n}", "call.ended", 1) for n in range(20)), event("live"))
    await restarted(bench, days=10)
    bench.remote.sent.clear()
    bench.remote.answer = Delivered()
    await bench.start()
    await bench.clock.turn(60)
    assert sorted(call for _, call, _, _ in bench.remote.sent) == sorted(f"e{n}" for n in range(20))
    assert (bench.telemetry.dead, bench.telemetry.expired) == (0, 1)
    assert await bench.pending() == 0
    await bench.outbox.close()


async def test_what_is_too_old_gets_one_attempt_and_dies_of_it(bench: Bench) -> None:
    """Ten days later, and the sink is still down: each is tried once since the start, and is a letter then."""
    bench.remote.answer = DOWN
    await bench.start()
    await bench.record(*(event(f"e{n}", "call.ended", 1) for n in range(3)))
    await restarted(bench, days=10)
    bench.remote.sent.clear()
    await bench.start()
    await bench.clock.turn(60)
    assert sorted(call for _, call, _, _ in bench.remote.sent) == ["e0", "e1", "e2"]
    assert bench.telemetry.dead == 3
    with open_admin(bench.path) as admin:
        assert {dead_letter.reason for dead_letter in admin.dead_letters()} == {"503"}
    await bench.outbox.close()


async def test_a_live_event_expires_at_the_start(bench: Bench) -> None:
    """Time in which nothing ran counts: what has waited for longer than it lives is gone before anything is sent."""
    bench.remote.answer = Retry("408", "", after_s=50)
    await bench.start()
    await bench.record(event("a"), event("a", "call.ended", 2))
    await restarted(bench, days=61 / 86400)
    bench.remote.answer = Delivered()
    await bench.start()
    assert bench.telemetry.expired == 1
    assert bench.remote.sent[1:] == [(0.0, "a", "call.ended", 1)]
    await bench.outbox.close()


async def test_reconnected_makes_all_due(bench: Bench) -> None:
    """A sink that says it has reconnected gets everything at once, without a probe."""
    back = asyncio.Event()

    async def reconnected() -> None:
        await back.wait()
        back.clear()

    bench.remote.reconnected = reconnected  # type: ignore[attr-defined]
    await bench.start()
    await fail_five(bench)
    await bench.clock.turn(3)
    bench.remote.answer = Delivered()
    back.set()
    await bench.clock.settle()
    assert [at_s for at_s, *_ in bench.remote.sent[7:]] == [3.0] * 5
    assert bench.telemetry.up == [True, False, True]


async def test_a_reconnection_ends_no_trouble_of_long_ago(bench: Bench) -> None:
    """A single failure made no outage: the reconnection hours later has nothing that lasted."""
    back = asyncio.Event()

    async def reconnected() -> None:
        await back.wait()
        back.clear()

    bench.remote.reconnected = reconnected  # type: ignore[attr-defined]
    await bench.start()
    bench.remote.answer = DOWN
    await bench.record(event("a", "call.ended", 1))
    bench.remote.answer = Delivered()
    await bench.clock.turn(3 * 3600)
    back.set()
    await bench.clock.settle()
    assert bench.telemetry.facts["sink_recovered"] == {"sink": "crm", "how": "reconnected"}


async def test_a_sink_in_doubt_is_probed_before_anything_is_due(bench: Bench) -> None:
    """Two calls have failed, too few times for an outage: what waits is tried at the pace of recovery probes."""

    async def hang(_: Delivery) -> Outcome:
        await bench.clock.sleep(15)
        return DOWN

    bench.remote.answer = hang
    await bench.start()
    await bench.record(event("a", "call.ended", 1), event("b", "call.ended", 1))
    await bench.clock.turn(52)
    assert bench.telemetry.up == [True]
    assert bench.remote.times("a") == [0, 16, 31, 46], "after their own delays: 0, 16, 36, 81"
    assert bench.remote.times("b") == [0, 16, 33]
    bench.remote.answer = Delivered()
    await bench.clock.turn(10)
    assert bench.remote.times("b") == [0, 16, 33, 56]
    assert bench.remote.times("a") == [0, 16, 31, 46, 61], "it was on its way, and waits no longer either"
    assert await bench.pending() == 0


async def test_two_events_in_trouble_of_their_own_are_no_doubt(bench: Bench) -> None:
    """While others are taken they are tried after their own delays, however often they fail side by side."""
    bench.remote.answer = lambda one: answering(DOWN if "poison" in one.event.key else Delivered())
    await bench.start()
    await bench.record(event("poison1", "call.ended", 1), event("poison2", "call.ended", 1))
    await bench.clock.turn(0.5)
    for n in range(50):
        await bench.record(event(f"good{n}", "call.ended", 1))
        await bench.clock.turn(3)
    assert bench.remote.times("poison1") == bench.remote.times("poison2") == [0, 1, 6, 36]


async def test_a_held_sink_gets_no_probe_that_was_claimed_before(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The remote side asks for a pause while the outbox looks for the next probe: it is given back."""
    await bench.start()
    await fail_five(bench)
    works, gate = bench.outbox.claim_probe, asyncio.Event()

    async def claim_probe(sink: str, /, *, after_seq: int, fresh: bool = False) -> Delivery | None:
        found = await works(sink, after_seq=after_seq, fresh=fresh)
        if found is not None and found.event.key == "101/first1":
            gate.set()
            for _ in range(20):  # turns of the loop, in which the first probe is answered
                await asyncio.sleep(0)
        return found

    async def answer(_: Delivery) -> Outcome:
        await gate.wait()
        return Retry("http_429", after_s=90, holds_sink=True)

    bench.remote.answer = answer
    monkeypatch.setattr(bench.outbox, "claim_probe", claim_probe)
    await bench.clock.turn(80)
    assert [(at_s, call) for at_s, call, *_ in bench.remote.sent[5:]] == [(1, "first0")]


async def test_one_event_in_trouble_is_no_doubt(bench: Bench) -> None:
    """It is tried after its own delays."""
    bench.remote.answer = DOWN
    await bench.start()
    await bench.record(event("a", "call.ended", 1))
    await bench.clock.turn(155)
    assert bench.remote.times("a") == [0, 1, 6, 36]


async def test_what_fails_after_the_recovery_is_due_at_once(bench: Bench) -> None:
    """An attempt that began in the outage and fails after its end waits for nothing more, as all that waited."""
    await bench.start()
    await fail_five(bench)
    lost = asyncio.Event()

    async def answer(one: Delivery) -> Outcome:
        if one.event.key == "101/first0" and one.attempt == 2:
            await lost.wait()
            return DOWN
        return Delivered()

    bench.remote.answer = answer
    await bench.clock.turn(3)
    assert await bench.pending() == 1
    lost.set()
    await bench.clock.settle()
    assert bench.remote.times("first0") == [0, 1, 3]
    assert await bench.pending() == 0


# The remote side's wishes


async def test_a_hold_of_the_sink(bench: Bench) -> None:
    """A hold is for the whole backlog of the sink, new calls too, and ends at the announced time."""
    bench.remote.answer = Retry("429", "slow down", after_s=90, holds_sink=True)
    await bench.start()
    await bench.record(event("a", "call.ended", 1))
    bench.remote.answer = Delivered()
    await bench.record(event("b", "call.ended", 1), event("c"))
    await bench.clock.turn(89)
    assert len(bench.remote.sent) == 1
    assert bench.telemetry.expired == 1
    await bench.clock.turn(1)
    assert bench.remote.sent[1:] == [(90.0, "a", "call.ended", 2), (90.0, "b", "call.ended", 1)]


async def test_a_hold_of_the_sink_is_kept_over_a_restart(bench: Bench) -> None:
    """The remote side requested a pause, and gets it; one that a wrong clock made longer ends after an hour."""
    bench.remote.answer = Retry("429", "slow down", after_s=90, holds_sink=True)
    await bench.start()
    await bench.record(event("a", "call.ended", 1))
    await bench.stop()
    bench.remote.answer = Delivered()
    hold = (await bench.outbox.known(SERVICE)).notes["held_until.crm"]
    await bench.start(hold=hold)
    await bench.record(event("b", "call.ended", 1))
    await bench.clock.turn(89)
    assert len(bench.remote.sent) == 1
    await bench.clock.turn(1)
    assert len(bench.remote.sent) == 3
    await bench.stop()
    await bench.start(hold=b"2099-01-01T00:00:00+00:00")
    await bench.record(event("c", "call.ended", 1))
    await bench.clock.turn(3599)
    assert len(bench.remote.sent) == 3
    await bench.clock.turn(1)
    assert len(bench.remote.sent) == 4


async def test_a_hold_is_an_hour_at_most(bench: Bench) -> None:
    """A remote side that asks for a day gets an hour; a held sink sends no probe meanwhile."""
    bench.remote.answer = Retry("503", "", after_s=86400, holds_sink=True)
    await bench.start()
    await bench.record(*(event(f"c{n}", "call.ended", 1) for n in range(6)))
    await bench.clock.turn(3599)
    assert len(bench.remote.sent) == 6
    await bench.clock.turn(1)
    assert len(bench.remote.sent) == 12


async def test_a_hold_of_one_event(bench: Bench) -> None:
    """A wish without a hold is for this event alone."""
    bench.remote.answer = Retry("408", "", after_s=100)
    await bench.start()
    await bench.record(event("a", "call.ended", 1))
    bench.remote.answer = Delivered()
    await bench.record(event("b", "call.ended", 1))
    await bench.clock.turn(200)
    assert bench.remote.sent[1:] == [(0.0, "b", "call.ended", 1), (100.0, "a", "call.ended", 2)]


async def test_a_short_wish_shortens_nothing(bench: Bench) -> None:
    """A remote side that asks for less than our own delay gets our own."""
    bench.remote.answer = Retry("408", "", after_s=0.25)
    await bench.start()
    await bench.record(event("a", "call.ended", 1))
    await bench.clock.turn(7)
    assert bench.remote.times("a") == [0, 1, 6]


async def test_gone(bench: Bench) -> None:
    """A remote side that says it is gone gets one probe an hour, none for new calls, and is loud about it."""
    bench.remote.answer = Retry("410", "gone", gone=True)
    await bench.start()
    await bench.record(event("a", "call.ended", 1))
    assert (bench.telemetry.up, bench.telemetry.logged) == ([True, False], ["sink_gone"])
    await bench.record(event("b"))
    await bench.clock.turn(2 * 3600 + 1)
    assert [at_s for at_s, *_ in bench.remote.sent] == [0.0, 3600.0, 7200.0]
    bench.remote.answer = Delivered()
    await bench.clock.turn(3600)
    assert await bench.pending() == 0
    assert bench.telemetry.up == [True, False, True]


async def test_rejected(bench: Bench) -> None:
    """What a sink will never take becomes a dead letter at once, and the call goes on."""
    bench.remote.answer = lambda one: answering(Rejected("413") if one.event.type == "call.ringing" else Delivered())
    await bench.start()
    await bench.record(event("a"), event("a", "call.ended", 2))
    assert [type_ for _, _, type_, _ in bench.remote.sent] == ["call.ringing", "call.ended"]
    assert bench.telemetry.dead == 1
    assert bench.telemetry.attempts == ["413", None]


async def test_a_no_alone_is_no_no(bench: Bench) -> None:
    """400 for everything (a wrong secret, a wrong clock) kills nothing; after the mend all of it arrives."""
    bench.remote.answer = Rejected("400", unless_alone=True)
    await bench.start()
    for n in range(10):
        await bench.record(event(f"c{n}", "call.ended", 1))
        await bench.clock.turn(60)
    assert bench.telemetry.dead == 0
    bench.remote.answer = Delivered()
    await bench.clock.turn(30)
    assert await bench.pending() == 0
    assert bench.telemetry.dead == 0


async def test_a_no_among_others_is_one(bench: Bench) -> None:
    """400 is a no once another call's event was taken after the first attempt; one of the same call proves nothing."""
    bench.remote.answer = Delivered()
    await bench.start()
    await bench.record(event("before", "call.ended", 1))
    await bench.clock.turn(1)
    bench.remote.answer = lambda one: answering(
        Rejected("400", unless_alone=True) if one.event.key == "101/bad" else Delivered()
    )
    await bench.record(event("bad", "call.ended", 1))
    await bench.clock.turn(1.5)
    assert len(bench.remote.times("bad")) == 2
    assert bench.telemetry.dead == 0, "the success before the first attempt proves nothing"
    await bench.record(event("good", "call.ended", 1))
    await bench.clock.turn(10)
    assert bench.telemetry.dead == 1
    assert len(bench.remote.times("bad")) == 3


# Trouble


async def test_a_send_that_hangs(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sink that does not return in time has failed with `timeout`, and nothing of it is left running."""

    async def hang(_: Delivery) -> Outcome:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr("callcast.delivery.worker.GRACE_S", 0)
    bench.remote.answer = hang
    await bench.start(timeout_s=0.01)
    await bench.record(event("a"))
    while not bench.telemetry.attempts:  # noqa: ASYNC110 (the test's own time limit ends it)
        await asyncio.sleep(0.001)
    assert bench.telemetry.attempts == ["timeout"]
    assert bench.remote.open == 0


async def test_a_sink_reports_its_own_timeout(bench: Bench) -> None:
    """A sink with a time limit of its own: its reason is counted, not the delivery worker's."""

    async def lost(_: Delivery) -> Outcome:
        await asyncio.sleep(0.02)
        return Retry("dns", "no such name in time")

    bench.remote.answer = lost
    await bench.start(timeout_s=0.01)
    await bench.record(event("a"))
    while not bench.telemetry.attempts:  # noqa: ASYNC110 (the test's own time limit ends it)
        await asyncio.sleep(0.001)
    assert bench.telemetry.attempts == ["dns"]


@pytest.mark.parametrize("fault", [ValueError("a fault"), TimeoutError("its own")])
async def test_a_fault_ends_the_run(bench: Bench, fault: Exception) -> None:
    """An exception that a sink raises is a fault of the program and comes out of `run`; the event stays pending."""

    async def fall(_: Delivery) -> Outcome:
        raise fault

    bench.remote.answer = fall
    await bench.start()
    await bench.record(event("a"))
    assert bench.task is not None
    with pytest.raises(type(fault), match=str(fault)):
        await bench.task
    bench.task = None
    assert await bench.pending() == 1


async def test_a_stop_lets_the_flying_land(bench: Bench) -> None:
    """A cancelled delivery worker claims nothing more, but waits for the answers that are due, and keeps them."""
    gate = asyncio.Event()

    async def wait(_: Delivery) -> Outcome:
        await gate.wait()
        return Delivered()

    bench.remote.answer = wait
    await bench.start(concurrency=1)
    await bench.record(event("a"), event("b"))
    assert bench.task is not None
    bench.task.cancel()
    await bench.clock.settle()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await bench.task
    bench.task = None
    assert [call for _, call, _, _ in bench.remote.sent] == ["a"]
    assert await bench.pending() == 1


async def test_a_stop_has_an_end(bench: Bench) -> None:
    """Cancelled twice, what still flies is cancelled and released: it is pending, and counts no attempt."""

    async def hang(_: Delivery) -> Outcome:
        await asyncio.Event().wait()
        raise AssertionError

    bench.remote.answer = hang
    await bench.start()
    await bench.record(event("a"))
    await bench.stop()
    assert bench.remote.open == 0
    bench.remote.answer = Delivered()
    await bench.start()
    assert [attempt for _, _, _, attempt in bench.remote.sent] == [1, 1]


async def test_an_impatient_stop_leaves_nothing_in_flight(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped at once while the disk is full: what was taken is still pending, and goes out again later."""
    works = bench.outbox.ack

    async def ack(_: Sequence[Acked], /) -> None:
        raise OutboxUnavailable("full")

    monkeypatch.setattr(bench.outbox, "ack", ack)
    await bench.start()
    await bench.record(event("a"), event("a", "call.ended", 2))
    assert bench.task is not None
    for _ in range(2):
        bench.task.cancel()
        await bench.clock.settle()
    assert bench.task.done()
    monkeypatch.setattr(bench.outbox, "ack", works)
    await bench.start()
    assert [type_ for _, _, type_, _ in bench.remote.sent] == ["call.ringing", "call.ringing", "call.ended"]
    assert await bench.pending() == 0


async def test_an_impatient_stop_settles_what_the_disk_takes(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped at once while the disk is slow: what was taken is settled all the same, and never sent again."""
    works, calls = bench.outbox.ack, 0

    async def ack(taken: Sequence[Acked], /) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            await asyncio.Event().wait()
        await works(taken)

    monkeypatch.setattr(bench.outbox, "ack", ack)
    await bench.start()
    await bench.record(event("a"), event("b"))
    assert bench.task is not None
    for _ in range(2):
        bench.task.cancel()
        await bench.clock.settle()
    await asyncio.gather(bench.task, return_exceptions=True)
    assert await bench.pending() == 0
    await bench.start()
    assert [call for _, call, _, _ in bench.remote.sent] == ["a", "b"]


async def test_a_disk_in_trouble_sends_nothing_twice(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that the disk does not take is kept until it does; the event is not sent again for that."""
    works = bench.outbox.ack
    trouble = 5

    async def ack(taken: Sequence[Acked], /) -> None:
        nonlocal trouble
        trouble -= 1
        if trouble >= 0:
            raise OutboxUnavailable("full")
        await works(taken)

    monkeypatch.setattr(bench.outbox, "ack", ack)
    await bench.start()
    await bench.record(event("a"), event("a", "call.ended", 2))
    await bench.clock.turn(4.5)
    assert len(bench.remote.sent) == 1
    await bench.clock.turn(1)
    assert [type_ for _, _, type_, _ in bench.remote.sent] == ["call.ringing", "call.ended"]
    assert await bench.pending() == 0
    assert bench.telemetry.logged == ["outbox_failed", "outbox_recovered"]


async def test_a_disk_in_trouble_ends_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """While nothing can be claimed the delivery worker tries again, and delivers when the disk is back."""
    works = bench.outbox.claim

    async def claim(sink: str, /, *, limit: int) -> object:
        raise OutboxUnavailable("full")

    monkeypatch.setattr(bench.outbox, "claim", claim)
    await bench.start()
    await bench.record(event("a", "call.ended", 1))
    await bench.clock.turn(60)
    monkeypatch.setattr(bench.outbox, "claim", works)
    await bench.clock.turn(1)
    assert len(bench.remote.sent) == 1


async def test_one_sinks_trouble_is_its_own(bench: Bench) -> None:
    """A sink that hangs for ever, and one that fails, delay nothing of a healthy one."""
    await bench.outbox.subscribe({"crm": Filter(), "hangs": Filter(), "fails": Filter()})

    async def hang(_: Delivery) -> Outcome:
        await asyncio.Event().wait()
        raise AssertionError

    others = []
    for name, answer in (("hangs", hang), ("fails", lambda _: answering(DOWN))):
        remote = RemoteSide(bench.clock)
        remote.answer = answer
        one = bench.delivery_worker()
        one.name, one._sink = name, remote
        others.append(asyncio.create_task(one.run()))
    await bench.start()
    for n in range(20):
        await bench.record(event(f"c{n}", "call.ended", 1))
        await bench.clock.turn(1)
    assert [at_s for at_s, *_ in bench.remote.sent] == [float(n) for n in range(20)]
    await cancelled_twice(*others)


@pytest.mark.parametrize("answer", [DOWN, Rejected("413"), "expired", "hangs"])
async def test_a_stop_while_the_disk_is_full_keeps_no_claim(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, answer: Outcome | str
) -> None:
    """Stopped at once while the disk takes no outcome: the delivery is free for the next delivery worker, and so its
    call.
    """
    full = True

    def refusing(works: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        async def settle(*given: Any, **named: Any) -> None:
            if full:
                raise OutboxUnavailable("full")
            await works(*given, **named)

        return settle

    async def hang(_: Delivery) -> Outcome:
        await asyncio.Event().wait()
        raise AssertionError

    for way in ("retry", "dead_letter", "expire"):
        monkeypatch.setattr(bench.outbox, way, refusing(getattr(bench.outbox, way)))
    if answer == "expired":
        await bench.outbox.record("acme", None, change(event("a")))
        await bench.clock.turn(61)
    bench.remote.answer = hang if isinstance(answer, str) else answer
    await bench.start()
    await bench.record(event("a"), event("a", "call.ended", 2))
    assert bench.task is not None
    for _ in range(2):
        bench.task.cancel()
        await bench.clock.settle()
    assert bench.task.done()
    full = False
    bench.remote.answer = Delivered()
    await bench.start()
    await bench.clock.turn(40)
    assert bench.remote.sent[-1][1:3] == ("a", "call.ended")
    assert await bench.pending() == 0


async def test_what_was_answered_is_kept_of_a_success_too(bench: Bench) -> None:
    """`explain` shows the HTTP status of each attempt, also of the one that delivered."""
    bench.remote.answer = Delivered("answered 202")
    await bench.start()
    await bench.record(event("a"))
    await bench.stop()
    with open_admin(bench.path) as admin:
        (call,) = admin.find("a")
        (history,) = admin.history_of(call).events
    assert [(one.outcome, one.detail) for one in history.attempts] == [("delivered", "answered 202")]
