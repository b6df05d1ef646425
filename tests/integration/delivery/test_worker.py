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


class Setup:
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
async def setup_in(path: Path) -> AsyncIterator[Setup]:
    clock = TurnedClock()
    async with open_outbox(path, clock, retention_h=72, outbox_max_mb=100, dead_letter_days=30) as outbox:
        clock.busy = busy(outbox)
        await outbox.subscribe({"crm": Filter()})
        setup = Setup(path, clock, outbox, RemoteSide(clock), RecordedTelemetry())
        try:
            yield setup
        finally:
            await setup.stop()


@pytest.fixture
async def setup(tmp_path: Path) -> AsyncIterator[Setup]:
    async with setup_in(tmp_path) as setup:
        yield setup


async def test_what_is_recorded_is_sent_and_settled(setup: Setup) -> None:
    """An event that is recorded while all is quiet goes out without any time passing, and is no longer pending."""
    await setup.start()
    await setup.clock.turn(600)
    await setup.record(event())
    assert setup.remote.sent == [(600.0, "s-1", "call.ringing", 1)]
    assert await setup.pending() == 0
    assert setup.telemetry.attempts == [None]
    assert setup.telemetry.latencies == [0.0]


DOWN = Retry("503", "service unavailable")


async def fail_five(setup: Setup) -> None:
    """Five calls fail, one after the other, one attempt each: now the sink is failing."""
    setup.remote.answer = DOWN
    for n in range(5):
        await setup.record(event(f"first{n}"))
    assert setup.telemetry.up == [True, False]


# Retries


async def test_retries_of_a_final_event(setup: Setup) -> None:
    """A final event is tried at its delays for as long as others prove the sink healthy."""
    setup.remote.answer = lambda one: answering(DOWN if one.event.key == "101/poison" else Delivered())
    await setup.start()
    await setup.record(event("poison", "call.ended", 1))
    for n in range(130):
        await setup.record(event(f"good{n}", "call.ended", 1))
        await setup.clock.turn(20)
    assert setup.remote.times("poison") == [0, 1, 6, 36, 156, 456, 2256]


async def test_giving_up(setup: Setup) -> None:
    """A final event whose time to live is over becomes a dead letter at that time, and is logged."""
    setup.remote.answer = lambda one: answering(DOWN if one.event.key == "101/poison" else Delivered())
    await setup.start(policy=RetryPolicy(give_up_after_h=0.1))
    await setup.record(event("poison", "call.ended", 1))
    for n in range(36):
        await setup.record(event(f"good{n}", "call.ended", 1))
        await setup.clock.turn(10)
        assert setup.telemetry.dead == (1 if n == 35 else 0)
    assert setup.remote.times("poison") == [0, 1, 6, 36, 156]
    assert setup.telemetry.expired == 0
    assert "event_dead_lettered" in setup.telemetry.logged


async def answering(outcome: Outcome) -> Outcome:
    return outcome


async def test_retries_of_a_live_event(setup: Setup) -> None:
    """A live event is tried after 1, 2, 5, 10, 20 s until its time is over, then it expires and is no letter."""
    setup.remote.answer = lambda one: answering(DOWN if one.event.key == "101/poison" else Delivered())
    await setup.start()
    await setup.record(event("poison"))
    for second in range(62):
        await setup.record(event(f"good{second}"))
        await setup.clock.turn(1)
    assert setup.remote.times("poison") == [0, 1, 3, 8, 18, 38, 58]
    assert (setup.telemetry.dead, setup.telemetry.expired) == (0, 1)
    assert await setup.pending() == 0


async def test_the_end_follows_an_expired_ringing(setup: Setup) -> None:
    """When a live event expires, the call's end behind it goes out, at once."""
    setup.remote.answer = lambda one: answering(DOWN if one.event.type == "call.ringing" else Delivered())
    await setup.start()
    await setup.record(event("a"), event("a", "call.ended", 2))
    for second in range(61):
        await setup.record(event(f"good{second}", "call.ended", 1))
        await setup.clock.turn(1)
    assert setup.remote.sent.count((60.0, "a", "call.ended", 1)) == 1


async def test_attempts_are_counted(setup: Setup) -> None:
    """The attempt's number grows with each try, and survives the delivery worker."""
    setup.remote.answer = DOWN
    await setup.start()
    await setup.record(event("a", "call.ended", 1))
    await setup.clock.turn(2)
    await setup.stop()
    await setup.start()
    await setup.clock.turn(10)
    assert [attempt for _, _, _, attempt in setup.remote.sent] == [1, 2, 3]


async def test_order_and_concurrency(setup: Setup) -> None:
    """Calls go side by side up to the limit; of one call the next goes only after the last has been answered."""
    gate = asyncio.Event()

    async def wait(_: Delivery) -> Outcome:
        await gate.wait()
        return Delivered()

    setup.remote.answer = wait
    await setup.start(concurrency=3)
    for name in ("a", "b", "c", "d"):
        await setup.record(event(name), event(name, "call.ended", 2))
    assert [(call, type_) for _, call, type_, _ in setup.remote.sent] == [(n, "call.ringing") for n in ("a", "b", "c")]
    gate.set()
    await setup.clock.settle()
    assert setup.remote.most_open == 3
    assert len(setup.remote.sent) == 8
    for name in ("a", "b", "c", "d"):
        assert [type_ for _, call, type_, _ in setup.remote.sent if call == name] == ["call.ringing", "call.ended"]


# Failing, probing, recovering


async def test_a_serial_sink_does_not_wait_for_the_disk(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sink that takes one at a time gets the next while the disk still takes the last: one at a time all the same."""
    works, gate = setup.outbox.ack, asyncio.Event()

    async def slowly(taken: Sequence[Acked], /) -> None:
        await gate.wait()
        await works(taken)

    async def settled() -> None:
        for _ in range(60):  # each waits for a few turns of the loop, and one after another takes more
            await setup.clock.settle()

    monkeypatch.setattr(setup.outbox, "ack", slowly)
    await setup.start(concurrency=1)
    await setup.record(*(event(f"c{n}") for n in range(UNSTORED_MAX + 50)))
    await settled()
    assert [key for _, key, _, _ in setup.remote.sent] == [f"c{n}" for n in range(UNSTORED_MAX)], "no more unsettled"
    gate.set()
    await settled()
    assert len(setup.remote.sent) == UNSTORED_MAX + 50
    assert setup.remote.most_open == 1
    assert await setup.pending() == 0


async def test_what_waits_its_turn_is_given_back(setup: Setup) -> None:
    """A delivery worker that stops waits for the delivery in flight, and sends nothing more of what it has
    claimed.
    """
    gate = asyncio.Event()

    async def wait(_: Delivery) -> Outcome:
        await gate.wait()
        return Delivered()

    setup.remote.answer = wait
    await setup.start(concurrency=1)
    await setup.record(*(event(f"c{n}", "call.ended", 1) for n in range(3)))
    assert setup.task is not None
    setup.task.cancel()
    await setup.clock.settle()
    gate.set()
    await asyncio.gather(setup.task, return_exceptions=True)
    assert [key for _, key, _, _ in setup.remote.sent] == ["c0"]
    assert [one.event.key for one in await setup.outbox.claim("crm", limit=9)] == ["101/c1", "101/c2"]


async def test_what_waits_while_the_sink_fails_is_given_back(setup: Setup) -> None:
    """What was claimed ahead is no probe: after a failure of the sink it waits with all the others."""
    setup.remote.answer = Retry("429", "", after_s=90, holds_sink=True)
    await setup.start(concurrency=1)
    await setup.record(*(event(f"c{n}", "call.ended", 1) for n in range(3)))
    assert [key for _, key, _, _ in setup.remote.sent] == ["c0"]
    assert len(await setup.outbox.claim("crm", limit=9)) == 2


async def test_what_is_new_overtakes_what_was_brought_back(setup: Setup) -> None:
    """An event that is recorded while brought back ones wait their turn goes before them."""
    gate = asyncio.Event()

    async def wait(_: Delivery) -> Outcome:
        await gate.wait()
        return Delivered()

    await setup.start(concurrency=1)
    await setup.record(*(event(f"old{n}", "call.ended", 1) for n in range(3)))
    setup.remote.sent.clear()
    setup.remote.answer = wait
    with open_admin(setup.path) as admin:
        assert admin.replay(NINE, sink="crm", since=NINE, until=NINE) == 3
    async with asyncio.timeout(30):
        while not setup.remote.sent:  # noqa: ASYNC110 (the outbox asks its file)
            await asyncio.sleep(0.01)
    await setup.record(event("new"))
    gate.set()
    await setup.clock.settle()
    assert [key for _, key, _, _ in setup.remote.sent] == ["old0", "new", "old1", "old2"]


async def test_five_in_a_row_make_a_sink_failing(setup: Setup) -> None:
    """Four failures do not, a success in between starts the count again, the fifth in a row does."""
    await setup.start()
    for name in ("a", "b", "c", "d"):
        setup.remote.answer = DOWN
        await setup.record(event(name, "call.ended", 1))
    setup.remote.answer = Delivered()
    await setup.record(event("e", "call.ended", 1))
    setup.remote.answer = DOWN
    for name in ("f", "g", "h", "i"):
        await setup.record(event(name, "call.ended", 1))
    assert setup.telemetry.up == [True]
    await setup.record(event("j", "call.ended", 1))
    assert setup.telemetry.up == [True, False]
    assert setup.telemetry.logged == ["sink_failed"]


class FixSuggestingFarSide(RemoteSide):
    def fix(self, outcome: Retry | Rejected, /) -> str:
        return "check secrets" if outcome.reason == "http_401" else ""


async def test_a_failing_sink_says_what_to_do_about_this_cause(setup: Setup) -> None:
    """The fix that the sink suggests, else the general one; since when it fails, and at last how long it did."""
    setup.remote = FixSuggestingFarSide(setup.clock)
    setup.remote.answer = Retry("http_401", "answered 401")
    delivery_worker = setup.delivery_worker()
    setup.task = asyncio.create_task(delivery_worker.run())
    await setup.clock.settle()
    assert delivery_worker.trouble is None
    for n in range(5):
        await setup.record(event(f"c{n}", "call.ended", 1))
    began = setup.clock.now()
    facts = {"reason": "http_401", "detail": "answered 401", "fix": "check secrets"}
    assert setup.telemetry.facts["sink_failed"] == {"sink": "crm", **facts}
    assert delivery_worker.trouble == SinkTrouble(began, **facts)
    setup.remote.answer = DOWN
    await setup.clock.turn(3 * 3600)
    assert delivery_worker.trouble == SinkTrouble(began, DOWN.reason, DOWN.detail, DEFAULT_FIX)
    setup.remote.answer = Delivered()
    await setup.clock.turn(60)
    assert delivery_worker.trouble is None
    assert setup.telemetry.facts["sink_recovered"]["lasted"] == "3 h"


async def test_probes_each_for_another_call(setup: Setup) -> None:
    """A failing sink gets probes 1, 2, 5, 10 and 20 s after one another and then every 30 s, each for another call,
    round and round; the rest waits.
    """
    await setup.start()
    setup.remote.answer = DOWN
    for n in range(8):
        await setup.record(event(f"c{n}", "call.ended", 1))
    await setup.clock.turn(30 * 7)
    probes = setup.remote.sent[8:]
    assert [at_s for at_s, *_ in probes] == [1, 3, 8, 18, 38, 68, 98, 128, 158, 188]
    assert [call for _, call, _, _ in probes] == [f"c{n % 8}" for n in range(10)]


async def test_a_new_call_is_a_probe_at_once(setup: Setup) -> None:
    """While a sink fails, the first event of a new call is sent at once; the call's next event waits."""
    await setup.start()
    await fail_five(setup)
    await setup.clock.turn(10)
    await setup.record(event("new"))
    await setup.clock.turn(1)
    await setup.record(event("new", "call.ended", 2))
    await setup.clock.turn(10)
    assert [sent[:2] for sent in setup.remote.sent[5:] if sent[1] == "new"] == [(10.0, "new")]


async def test_old_new_calls_are_no_probes(setup: Setup) -> None:
    """Calls that were waiting when the sink began to fail are not all sent at once as probes."""
    gate = asyncio.Event()

    async def wait(_: Delivery) -> Outcome:
        await gate.wait()
        return DOWN

    setup.remote.answer = wait
    await setup.start(concurrency=5)
    await setup.record(*(event(f"c{n}", "call.ended", 1) for n in range(50)))
    gate.set()
    await setup.clock.settle()
    failed = len(setup.remote.sent)
    assert 5 <= failed <= 5 * 5, "as many as overlap count as one failure"
    await setup.clock.turn(29)
    assert [at_s for at_s, *_ in setup.remote.sent[failed:]] == [1, 3, 8, 18]


async def test_each_outage_has_its_own_new_calls(setup: Setup) -> None:
    """In a second outage, too, only calls that began after its start are probes at once."""
    await setup.start(concurrency=5)
    await fail_five(setup)
    setup.remote.answer = Delivered()
    await setup.clock.turn(30)
    assert setup.telemetry.up == [True, False, True]
    gate = asyncio.Event()

    async def wait(_: Delivery) -> Outcome:
        await gate.wait()
        return DOWN

    setup.remote.answer = wait
    before = len(setup.remote.sent)
    await setup.record(*(event(f"c{n}", "call.ended", 1) for n in range(50)))
    gate.set()
    await setup.clock.settle()
    failed = len(setup.remote.sent) - before
    assert 5 <= failed <= 5 * 5, "as many as overlap count as one failure"
    await setup.clock.turn(20)
    assert len(setup.remote.sent) - before == failed + 4


async def test_what_was_claimed_too_late_is_given_back(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sink that begins to fail while a claim is under way is sent nothing of that claim, but a probe later."""
    gate = asyncio.Event()
    works = setup.outbox.claim

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

    await setup.start()
    setup.remote.answer = DOWN
    for n in range(4):
        await setup.record(event(f"c{n}", "call.ended", 1))
    setup.remote.answer = wait
    monkeypatch.setattr(setup.outbox, "claim", claim)
    await setup.record(event("c4", "call.ended", 1))
    await setup.record(event("late", "call.ended", 1))
    assert [call for _, call, _, _ in setup.remote.sent] == [f"c{n}" for n in range(5)]
    assert setup.telemetry.up == [True, False]
    await setup.clock.turn(100)
    assert len(setup.remote.times("late")) == 1


async def test_two_probes_at_a_time(setup: Setup) -> None:
    """While two wait for their answers nothing else goes out, however long it takes and however many calls are new."""
    await setup.start()
    await fail_five(setup)
    gate = asyncio.Event()

    async def wait(_: Delivery) -> Outcome:
        await gate.wait()
        return DOWN

    setup.remote.answer = wait
    setup.remote.most_open = 0
    await setup.clock.turn(1)
    assert setup.remote.open == 1
    await setup.clock.turn(2)
    assert setup.remote.open == 2, "the second one goes out although the first waits"
    for n in range(4):
        await setup.record(event(f"new{n}"))
        await setup.clock.turn(30)
    assert (setup.remote.open, setup.remote.most_open) == (2, 2)
    gate.set()
    await setup.clock.settle()
    assert setup.remote.most_open == 2


async def test_a_serial_sink_gets_one_probe_at_a_time(setup: Setup) -> None:
    """A sink that takes one at a time does so while it is failing too."""
    await setup.start(concurrency=1)
    await fail_five(setup)
    gate = asyncio.Event()

    async def wait(_: Delivery) -> Outcome:
        await gate.wait()
        return DOWN

    setup.remote.answer = wait
    await setup.clock.turn(60)
    assert (setup.remote.open, setup.remote.most_open) == (1, 1)
    gate.set()


async def test_attempts_that_overlap_have_one_cause(setup: Setup) -> None:
    """Eight that fail side by side count once; a fifth round of them makes the sink failing, and no earlier one."""
    setup.remote.answer = DOWN
    await setup.start(concurrency=8)
    for first in range(0, 8 * 4, 8):
        await setup.record(*(event(f"a{first + n}", "call.ended", 1) for n in range(8)))
    assert setup.telemetry.attempts == ["503"] * 8 * 4
    assert setup.telemetry.up == [True]
    await setup.record(event("last", "call.ended", 1))
    assert setup.telemetry.up == [True, False]


async def test_a_success_ends_the_outage_although_probes_still_wait(setup: Setup) -> None:
    """Of two probes the second is answered: everything goes out, and the first is not waited for."""
    await setup.start()
    await fail_five(setup)
    lost = asyncio.Event()

    async def answer(one: Delivery) -> Outcome:
        if one.event.key == "101/first0":
            await lost.wait()
            return DOWN
        return Delivered()

    setup.remote.answer = answer
    await setup.clock.turn(3)
    assert setup.telemetry.up == [True, False, True]
    assert {call for at_s, call, _, _ in setup.remote.sent if at_s == 3} == {f"first{n}" for n in range(1, 5)}
    assert await setup.pending() == 1
    lost.set()


async def test_the_first_success_makes_all_due(setup: Setup) -> None:
    """After an outage everything final arrives in order at the first good probe; what was live has expired."""
    await setup.start()
    setup.remote.answer = DOWN
    for n in range(20):
        await setup.record(event(f"c{n}"), event(f"c{n}", "call.ended", 2))
    await setup.clock.turn(20 * 60)
    assert setup.telemetry.expired == 20
    setup.remote.answer = Delivered()
    before = len(setup.remote.sent)
    await setup.clock.turn(30)
    arrived = setup.remote.sent[before:]
    assert sorted(call for _, call, _, _ in arrived) == sorted(f"c{n}" for n in range(20))
    assert {type_ for _, _, type_, _ in arrived} == {"call.ended"}
    assert len({at_s for at_s, *_ in arrived}) == 1
    assert [call for _, call, _, _ in arrived[1:]] == sorted(
        (call for _, call, _, _ in arrived[1:]), key=lambda call: int(call[1:])
    )
    assert await setup.pending() == 0
    assert setup.telemetry.up == [True, False, True]
    assert setup.telemetry.logged[-1] == "sink_recovered"


async def test_a_failing_sink_still_lets_go(setup: Setup) -> None:
    """While a sink fails, live events expire in time although nothing is claimed, and so do final ones once tried."""
    await setup.start(policy=RetryPolicy(give_up_after_h=0.1))
    await fail_five(setup)
    await setup.record(*(event(f"c{n}", "call.ended", 1) for n in range(5)))
    await setup.clock.turn(70)
    assert (setup.telemetry.expired, setup.telemetry.dead) == (5, 0)
    await setup.clock.turn(280)
    assert setup.telemetry.dead == 0
    assert await setup.pending() == 5
    await setup.clock.turn(20)
    assert setup.telemetry.dead == 5
    assert await setup.pending() == 0


async def restarted(setup: Setup, days: float) -> None:
    """Another start, and the wall clock says that it is so many days later."""
    await setup.stop()
    await setup.outbox.close()
    setup.clock._start += timedelta(days=days)
    limits = Limits(retention_h=72, outbox_max_mb=100, dead_letter_days=30)
    setup.outbox = SqliteOutbox(setup.path, setup.clock, limits)
    setup.clock.busy = busy(setup.outbox)
    await setup.outbox.open()
    await setup.outbox.subscribe({"crm": Filter()})


async def test_nothing_final_dies_of_a_clock_that_was_put_right(setup: Setup) -> None:
    """The clock was ten days behind: ends are sent once more whatever their age; live events have expired."""
    setup.remote.answer = DOWN
    await setup.start(concurrency=20)
    await setup.record(*(event(f"e{n}", "call.ended", 1) for n in range(20)), event("live"))
    await restarted(setup, days=10)
    setup.remote.sent.clear()
    setup.remote.answer = Delivered()
    await setup.start()
    await setup.clock.turn(60)
    assert sorted(call for _, call, _, _ in setup.remote.sent) == sorted(f"e{n}" for n in range(20))
    assert (setup.telemetry.dead, setup.telemetry.expired) == (0, 1)
    assert await setup.pending() == 0
    await setup.outbox.close()


async def test_what_is_too_old_gets_one_attempt_and_dies_of_it(setup: Setup) -> None:
    """Ten days later, and the sink is still down: each is tried once since the start, and is a letter then."""
    setup.remote.answer = DOWN
    await setup.start()
    await setup.record(*(event(f"e{n}", "call.ended", 1) for n in range(3)))
    await restarted(setup, days=10)
    setup.remote.sent.clear()
    await setup.start()
    await setup.clock.turn(60)
    assert sorted(call for _, call, _, _ in setup.remote.sent) == ["e0", "e1", "e2"]
    assert setup.telemetry.dead == 3
    with open_admin(setup.path) as admin:
        assert {dead_letter.reason for dead_letter in admin.dead_letters()} == {"503"}
    await setup.outbox.close()


async def test_a_live_event_expires_at_the_start(setup: Setup) -> None:
    """Time in which nothing ran counts: what has waited for longer than it lives is gone before anything is sent."""
    setup.remote.answer = Retry("408", "", after_s=50)
    await setup.start()
    await setup.record(event("a"), event("a", "call.ended", 2))
    await restarted(setup, days=61 / 86400)
    setup.remote.answer = Delivered()
    await setup.start()
    assert setup.telemetry.expired == 1
    assert setup.remote.sent[1:] == [(0.0, "a", "call.ended", 1)]
    await setup.outbox.close()


async def test_reconnected_makes_all_due(setup: Setup) -> None:
    """A sink that says it has reconnected gets everything at once, without a probe."""
    back = asyncio.Event()

    async def reconnected() -> None:
        await back.wait()
        back.clear()

    setup.remote.reconnected = reconnected  # type: ignore[attr-defined]
    await setup.start()
    await fail_five(setup)
    await setup.clock.turn(3)
    setup.remote.answer = Delivered()
    back.set()
    await setup.clock.settle()
    assert [at_s for at_s, *_ in setup.remote.sent[7:]] == [3.0] * 5
    assert setup.telemetry.up == [True, False, True]


async def test_a_reconnection_ends_no_trouble_of_long_ago(setup: Setup) -> None:
    """A single failure made no outage: the reconnection hours later has nothing that lasted."""
    back = asyncio.Event()

    async def reconnected() -> None:
        await back.wait()
        back.clear()

    setup.remote.reconnected = reconnected  # type: ignore[attr-defined]
    await setup.start()
    setup.remote.answer = DOWN
    await setup.record(event("a", "call.ended", 1))
    setup.remote.answer = Delivered()
    await setup.clock.turn(3 * 3600)
    back.set()
    await setup.clock.settle()
    assert setup.telemetry.facts["sink_recovered"] == {"sink": "crm", "how": "reconnected"}


async def test_a_sink_in_doubt_is_probed_before_anything_is_due(setup: Setup) -> None:
    """Two calls have failed, too few times for an outage: what waits is tried at the pace of recovery probes."""

    async def hang(_: Delivery) -> Outcome:
        await setup.clock.sleep(15)
        return DOWN

    setup.remote.answer = hang
    await setup.start()
    await setup.record(event("a", "call.ended", 1), event("b", "call.ended", 1))
    await setup.clock.turn(52)
    assert setup.telemetry.up == [True]
    assert setup.remote.times("a") == [0, 16, 31, 46], "after their own delays: 0, 16, 36, 81"
    assert setup.remote.times("b") == [0, 16, 33]
    setup.remote.answer = Delivered()
    await setup.clock.turn(10)
    assert setup.remote.times("b") == [0, 16, 33, 56]
    assert setup.remote.times("a") == [0, 16, 31, 46, 61], "it was on its way, and waits no longer either"
    assert await setup.pending() == 0


async def test_two_events_in_trouble_of_their_own_are_no_doubt(setup: Setup) -> None:
    """While others are taken they are tried after their own delays, however often they fail side by side."""
    setup.remote.answer = lambda one: answering(DOWN if "poison" in one.event.key else Delivered())
    await setup.start()
    await setup.record(event("poison1", "call.ended", 1), event("poison2", "call.ended", 1))
    await setup.clock.turn(0.5)
    for n in range(50):
        await setup.record(event(f"good{n}", "call.ended", 1))
        await setup.clock.turn(3)
    assert setup.remote.times("poison1") == setup.remote.times("poison2") == [0, 1, 6, 36]


async def test_a_held_sink_gets_no_probe_that_was_claimed_before(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """The remote side asks for a pause while the outbox looks for the next probe: it is given back."""
    await setup.start()
    await fail_five(setup)
    works, gate = setup.outbox.claim_probe, asyncio.Event()

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

    setup.remote.answer = answer
    monkeypatch.setattr(setup.outbox, "claim_probe", claim_probe)
    await setup.clock.turn(80)
    assert [(at_s, call) for at_s, call, *_ in setup.remote.sent[5:]] == [(1, "first0")]


async def test_one_event_in_trouble_is_no_doubt(setup: Setup) -> None:
    """It is tried after its own delays."""
    setup.remote.answer = DOWN
    await setup.start()
    await setup.record(event("a", "call.ended", 1))
    await setup.clock.turn(155)
    assert setup.remote.times("a") == [0, 1, 6, 36]


async def test_what_fails_after_the_recovery_is_due_at_once(setup: Setup) -> None:
    """An attempt that began in the outage and fails after its end waits for nothing more, as all that waited."""
    await setup.start()
    await fail_five(setup)
    lost = asyncio.Event()

    async def answer(one: Delivery) -> Outcome:
        if one.event.key == "101/first0" and one.attempt == 2:
            await lost.wait()
            return DOWN
        return Delivered()

    setup.remote.answer = answer
    await setup.clock.turn(3)
    assert await setup.pending() == 1
    lost.set()
    await setup.clock.settle()
    assert setup.remote.times("first0") == [0, 1, 3]
    assert await setup.pending() == 0


# The remote side's wishes


async def test_a_hold_of_the_sink(setup: Setup) -> None:
    """A hold is for the whole backlog of the sink, new calls too, and ends at the announced time."""
    setup.remote.answer = Retry("429", "slow down", after_s=90, holds_sink=True)
    await setup.start()
    await setup.record(event("a", "call.ended", 1))
    setup.remote.answer = Delivered()
    await setup.record(event("b", "call.ended", 1), event("c"))
    await setup.clock.turn(89)
    assert len(setup.remote.sent) == 1
    assert setup.telemetry.expired == 1
    await setup.clock.turn(1)
    assert setup.remote.sent[1:] == [(90.0, "a", "call.ended", 2), (90.0, "b", "call.ended", 1)]


async def test_a_hold_of_the_sink_is_kept_over_a_restart(setup: Setup) -> None:
    """The remote side requested a pause, and gets it; one that a wrong clock made longer ends after an hour."""
    setup.remote.answer = Retry("429", "slow down", after_s=90, holds_sink=True)
    await setup.start()
    await setup.record(event("a", "call.ended", 1))
    await setup.stop()
    setup.remote.answer = Delivered()
    hold = (await setup.outbox.known(SERVICE)).notes["held_until.crm"]
    await setup.start(hold=hold)
    await setup.record(event("b", "call.ended", 1))
    await setup.clock.turn(89)
    assert len(setup.remote.sent) == 1
    await setup.clock.turn(1)
    assert len(setup.remote.sent) == 3
    await setup.stop()
    await setup.start(hold=b"2099-01-01T00:00:00+00:00")
    await setup.record(event("c", "call.ended", 1))
    await setup.clock.turn(3599)
    assert len(setup.remote.sent) == 3
    await setup.clock.turn(1)
    assert len(setup.remote.sent) == 4


async def test_a_hold_is_an_hour_at_most(setup: Setup) -> None:
    """A remote side that asks for a day gets an hour; a held sink sends no probe meanwhile."""
    setup.remote.answer = Retry("503", "", after_s=86400, holds_sink=True)
    await setup.start()
    await setup.record(*(event(f"c{n}", "call.ended", 1) for n in range(6)))
    await setup.clock.turn(3599)
    assert len(setup.remote.sent) == 6
    await setup.clock.turn(1)
    assert len(setup.remote.sent) == 12


async def test_a_hold_of_one_event(setup: Setup) -> None:
    """A wish without a hold is for this event alone."""
    setup.remote.answer = Retry("408", "", after_s=100)
    await setup.start()
    await setup.record(event("a", "call.ended", 1))
    setup.remote.answer = Delivered()
    await setup.record(event("b", "call.ended", 1))
    await setup.clock.turn(200)
    assert setup.remote.sent[1:] == [(0.0, "b", "call.ended", 1), (100.0, "a", "call.ended", 2)]


async def test_a_short_wish_shortens_nothing(setup: Setup) -> None:
    """A remote side that asks for less than our own delay gets our own."""
    setup.remote.answer = Retry("408", "", after_s=0.25)
    await setup.start()
    await setup.record(event("a", "call.ended", 1))
    await setup.clock.turn(7)
    assert setup.remote.times("a") == [0, 1, 6]


async def test_gone(setup: Setup) -> None:
    """A remote side that says it is gone gets one probe an hour, none for new calls, and is loud about it."""
    setup.remote.answer = Retry("410", "gone", gone=True)
    await setup.start()
    await setup.record(event("a", "call.ended", 1))
    assert (setup.telemetry.up, setup.telemetry.logged) == ([True, False], ["sink_gone"])
    await setup.record(event("b"))
    await setup.clock.turn(2 * 3600 + 1)
    assert [at_s for at_s, *_ in setup.remote.sent] == [0.0, 3600.0, 7200.0]
    setup.remote.answer = Delivered()
    await setup.clock.turn(3600)
    assert await setup.pending() == 0
    assert setup.telemetry.up == [True, False, True]


async def test_rejected(setup: Setup) -> None:
    """What a sink will never take becomes a dead letter at once, and the call goes on."""
    setup.remote.answer = lambda one: answering(Rejected("413") if one.event.type == "call.ringing" else Delivered())
    await setup.start()
    await setup.record(event("a"), event("a", "call.ended", 2))
    assert [type_ for _, _, type_, _ in setup.remote.sent] == ["call.ringing", "call.ended"]
    assert setup.telemetry.dead == 1
    assert setup.telemetry.attempts == ["413", None]


async def test_a_no_alone_is_no_no(setup: Setup) -> None:
    """400 for everything (a wrong secret, a wrong clock) kills nothing; after the mend all of it arrives."""
    setup.remote.answer = Rejected("400", unless_alone=True)
    await setup.start()
    for n in range(10):
        await setup.record(event(f"c{n}", "call.ended", 1))
        await setup.clock.turn(60)
    assert setup.telemetry.dead == 0
    setup.remote.answer = Delivered()
    await setup.clock.turn(30)
    assert await setup.pending() == 0
    assert setup.telemetry.dead == 0


async def test_a_no_among_others_is_one(setup: Setup) -> None:
    """400 is a no once another call's event was taken after the first attempt; one of the same call proves nothing."""
    setup.remote.answer = Delivered()
    await setup.start()
    await setup.record(event("before", "call.ended", 1))
    await setup.clock.turn(1)
    setup.remote.answer = lambda one: answering(
        Rejected("400", unless_alone=True) if one.event.key == "101/bad" else Delivered()
    )
    await setup.record(event("bad", "call.ended", 1))
    await setup.clock.turn(1.5)
    assert len(setup.remote.times("bad")) == 2
    assert setup.telemetry.dead == 0, "the success before the first attempt proves nothing"
    await setup.record(event("good", "call.ended", 1))
    await setup.clock.turn(10)
    assert setup.telemetry.dead == 1
    assert len(setup.remote.times("bad")) == 3


# Trouble


async def test_a_send_that_hangs(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sink that does not return in time has failed with `timeout`, and nothing of it is left running."""

    async def hang(_: Delivery) -> Outcome:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr("callcast.delivery.worker.GRACE_S", 0)
    setup.remote.answer = hang
    await setup.start(timeout_s=0.01)
    await setup.record(event("a"))
    while not setup.telemetry.attempts:  # noqa: ASYNC110 (the test's own time limit ends it)
        await asyncio.sleep(0.001)
    assert setup.telemetry.attempts == ["timeout"]
    assert setup.remote.open == 0


async def test_a_sink_reports_its_own_timeout(setup: Setup) -> None:
    """A sink with a time limit of its own: its reason is counted, not the delivery worker's."""

    async def lost(_: Delivery) -> Outcome:
        await asyncio.sleep(0.02)
        return Retry("dns", "no such name in time")

    setup.remote.answer = lost
    await setup.start(timeout_s=0.01)
    await setup.record(event("a"))
    while not setup.telemetry.attempts:  # noqa: ASYNC110 (the test's own time limit ends it)
        await asyncio.sleep(0.001)
    assert setup.telemetry.attempts == ["dns"]


@pytest.mark.parametrize("fault", [ValueError("a fault"), TimeoutError("its own")])
async def test_a_fault_ends_the_run(setup: Setup, fault: Exception) -> None:
    """An exception that a sink raises is a fault of the program and comes out of `run`; the event stays pending."""

    async def fall(_: Delivery) -> Outcome:
        raise fault

    setup.remote.answer = fall
    await setup.start()
    await setup.record(event("a"))
    assert setup.task is not None
    with pytest.raises(type(fault), match=str(fault)):
        await setup.task
    setup.task = None
    assert await setup.pending() == 1


async def test_a_stop_lets_the_flying_land(setup: Setup) -> None:
    """A cancelled delivery worker claims nothing more, but waits for the answers that are due, and keeps them."""
    gate = asyncio.Event()

    async def wait(_: Delivery) -> Outcome:
        await gate.wait()
        return Delivered()

    setup.remote.answer = wait
    await setup.start(concurrency=1)
    await setup.record(event("a"), event("b"))
    assert setup.task is not None
    setup.task.cancel()
    await setup.clock.settle()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await setup.task
    setup.task = None
    assert [call for _, call, _, _ in setup.remote.sent] == ["a"]
    assert await setup.pending() == 1


async def test_a_stop_has_an_end(setup: Setup) -> None:
    """Cancelled twice, what still flies is cancelled and released: it is pending, and counts no attempt."""

    async def hang(_: Delivery) -> Outcome:
        await asyncio.Event().wait()
        raise AssertionError

    setup.remote.answer = hang
    await setup.start()
    await setup.record(event("a"))
    await setup.stop()
    assert setup.remote.open == 0
    setup.remote.answer = Delivered()
    await setup.start()
    assert [attempt for _, _, _, attempt in setup.remote.sent] == [1, 1]


async def test_an_impatient_stop_leaves_nothing_in_flight(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped at once while the disk is full: what was taken is still pending, and goes out again later."""
    works = setup.outbox.ack

    async def ack(_: Sequence[Acked], /) -> None:
        raise OutboxUnavailable("full")

    monkeypatch.setattr(setup.outbox, "ack", ack)
    await setup.start()
    await setup.record(event("a"), event("a", "call.ended", 2))
    assert setup.task is not None
    for _ in range(2):
        setup.task.cancel()
        await setup.clock.settle()
    assert setup.task.done()
    monkeypatch.setattr(setup.outbox, "ack", works)
    await setup.start()
    assert [type_ for _, _, type_, _ in setup.remote.sent] == ["call.ringing", "call.ringing", "call.ended"]
    assert await setup.pending() == 0


async def test_an_impatient_stop_settles_what_the_disk_takes(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped at once while the disk is slow: what was taken is settled all the same, and never sent again."""
    works, calls = setup.outbox.ack, 0

    async def ack(taken: Sequence[Acked], /) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            await asyncio.Event().wait()
        await works(taken)

    monkeypatch.setattr(setup.outbox, "ack", ack)
    await setup.start()
    await setup.record(event("a"), event("b"))
    assert setup.task is not None
    for _ in range(2):
        setup.task.cancel()
        await setup.clock.settle()
    await asyncio.gather(setup.task, return_exceptions=True)
    assert await setup.pending() == 0
    await setup.start()
    assert [call for _, call, _, _ in setup.remote.sent] == ["a", "b"]


async def test_a_disk_in_trouble_sends_nothing_twice(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that the disk does not take is kept until it does; the event is not sent again for that."""
    works = setup.outbox.ack
    trouble = 5

    async def ack(taken: Sequence[Acked], /) -> None:
        nonlocal trouble
        trouble -= 1
        if trouble >= 0:
            raise OutboxUnavailable("full")
        await works(taken)

    monkeypatch.setattr(setup.outbox, "ack", ack)
    await setup.start()
    await setup.record(event("a"), event("a", "call.ended", 2))
    await setup.clock.turn(4.5)
    assert len(setup.remote.sent) == 1
    await setup.clock.turn(1)
    assert [type_ for _, _, type_, _ in setup.remote.sent] == ["call.ringing", "call.ended"]
    assert await setup.pending() == 0
    assert setup.telemetry.logged == ["outbox_failed", "outbox_recovered"]


async def test_a_disk_in_trouble_ends_nothing(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """While nothing can be claimed the delivery worker tries again, and delivers when the disk is back."""
    works = setup.outbox.claim

    async def claim(sink: str, /, *, limit: int) -> object:
        raise OutboxUnavailable("full")

    monkeypatch.setattr(setup.outbox, "claim", claim)
    await setup.start()
    await setup.record(event("a", "call.ended", 1))
    await setup.clock.turn(60)
    monkeypatch.setattr(setup.outbox, "claim", works)
    await setup.clock.turn(1)
    assert len(setup.remote.sent) == 1


async def test_one_sinks_trouble_is_its_own(setup: Setup) -> None:
    """A sink that hangs for ever, and one that fails, delay nothing of a healthy one."""
    await setup.outbox.subscribe({"crm": Filter(), "hangs": Filter(), "fails": Filter()})

    async def hang(_: Delivery) -> Outcome:
        await asyncio.Event().wait()
        raise AssertionError

    others = []
    for name, answer in (("hangs", hang), ("fails", lambda _: answering(DOWN))):
        remote = RemoteSide(setup.clock)
        remote.answer = answer
        one = setup.delivery_worker()
        one.name, one._sink = name, remote
        others.append(asyncio.create_task(one.run()))
    await setup.start()
    for n in range(20):
        await setup.record(event(f"c{n}", "call.ended", 1))
        await setup.clock.turn(1)
    assert [at_s for at_s, *_ in setup.remote.sent] == [float(n) for n in range(20)]
    await cancelled_twice(*others)


@pytest.mark.parametrize("answer", [DOWN, Rejected("413"), "expired", "hangs"])
async def test_a_stop_while_the_disk_is_full_keeps_no_claim(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, answer: Outcome | str
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
        monkeypatch.setattr(setup.outbox, way, refusing(getattr(setup.outbox, way)))
    if answer == "expired":
        await setup.outbox.record("acme", None, change(event("a")))
        await setup.clock.turn(61)
    setup.remote.answer = hang if isinstance(answer, str) else answer
    await setup.start()
    await setup.record(event("a"), event("a", "call.ended", 2))
    assert setup.task is not None
    for _ in range(2):
        setup.task.cancel()
        await setup.clock.settle()
    assert setup.task.done()
    full = False
    setup.remote.answer = Delivered()
    await setup.start()
    await setup.clock.turn(40)
    assert setup.remote.sent[-1][1:3] == ("a", "call.ended")
    assert await setup.pending() == 0


async def test_what_was_answered_is_kept_of_a_success_too(setup: Setup) -> None:
    """`explain` shows the HTTP status of each attempt, also of the one that delivered."""
    setup.remote.answer = Delivered("answered 202")
    await setup.start()
    await setup.record(event("a"))
    await setup.stop()
    with open_admin(setup.path) as admin:
        (call,) = admin.find("a")
        (history,) = admin.history_of(call).events
    assert [(one.outcome, one.detail) for one in history.attempts] == [("delivered", "answered 202")]
