"""Long outages of sinks in a compressed time: the real outbox and delivery worker, a clock turned by hand."""

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from aiohttp import web
from msgspec import structs
from standardwebhooks import Webhook

from callcast.delivery.worker import DeliveryWorker
from callcast.observability.outbox_health import OutboxHealth
from callcast.outbox.sqlite.store import SqliteOutbox, open_outbox
from callcast.ports.retry import RetryPolicy
from callcast.ports.sink import Delivered, Delivery, Filter, Outcome, Retry, Sink
from callcast.settings.secret import Secret
from callcast.sinks.webhook import Settings
from callcast.testing import context
from tests.builders import change, event
from tests.clock import TurnedClock
from tests.integration.delivery.test_worker import RecordedTelemetry, cancelled_twice
from tests.outbox import busy

HOUR_S = 3600.0
DAY_S = 24 * HOUR_S
TYPES = ("call.ringing", "call.answered", "call.ended")
Far = Callable[[Delivery], Awaitable[Outcome]]


class Acked:
    """A sink that keeps what its remote side took, with the time."""

    def __init__(self, clock: TurnedClock, far: Far) -> None:
        self.taken: list[tuple[float, str, str]] = []
        self.attempts: list[float] = []
        self._clock = clock
        self._far = far

    async def send(self, delivery: Delivery, /) -> Outcome:
        self.attempts.append(self._clock.monotonic())
        await asyncio.sleep(0)  # as every remote side: the loop turns before its answer
        outcome = await self._far(delivery)
        if isinstance(outcome, Delivered):
            self.taken.append((self._clock.monotonic(), delivery.event.key, delivery.event.type))
        return outcome


class House:
    """Several delivery worker on one outbox."""

    def __init__(self, clock: TurnedClock, outbox: SqliteOutbox) -> None:
        self.clock = clock
        self.outbox = outbox
        self.telemetry: dict[str, RecordedTelemetry] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, sinks: dict[str, Sink]) -> None:
        await self.outbox.subscribe({name: Filter() for name in sinks})
        for name, sink in sinks.items():
            self.telemetry[name] = RecordedTelemetry()
            one = DeliveryWorker(
                *(name, sink, self.outbox, self.clock, RetryPolicy(), self.telemetry[name]),
                outbox_user=OutboxHealth(self.clock, self.telemetry[name]).user(sink=name),
                concurrency=8,
                timeout_s=15,
                random=lambda: 0.5,
                log=self.telemetry[name],
            )
            self._tasks.append(asyncio.create_task(one.run()))
        await self.clock.settle()

    async def stop(self) -> None:
        await cancelled_twice(*self._tasks)

    async def call(self, number: int, types: Iterable[str] = TYPES) -> None:
        for sequence, type_ in enumerate(types, start=1):
            await self.outbox.record("acme", None, change(event(f"c{number}", type_, sequence)))
        await self.clock.settle()

    async def pending(self) -> dict[str, tuple[int, int]]:
        """Per sink: how many events, and how many dead letters."""
        return {one.sink: (one.pending, one.dead) for one in (await self.outbox.stats()).sinks}


@asynccontextmanager
async def house_in(path: Path, clock: TurnedClock) -> AsyncIterator[House]:
    async with open_outbox(path, clock, retention_h=200, outbox_max_mb=100, dead_letter_days=30) as outbox:
        clock.busy = busy(outbox)
        house = House(clock, outbox)
        try:
            yield house
        finally:
            await house.stop()


@pytest.fixture
def seldom() -> Iterator[pytest.MonkeyPatch]:
    """Probes and searches for the expired are rare until undone: at their usual pace a day would be long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("callcast.delivery.worker.EXPIRE_EVERY_S", 600)
        patch.setattr("callcast.delivery.worker.RECOVERY_PROBE_EVERY_S", 300)
        yield patch


@pytest.fixture
async def house(tmp_path: Path, seldom: pytest.MonkeyPatch) -> AsyncIterator[House]:
    async with house_in(tmp_path, TurnedClock()) as house:
        yield house


class Troubles:
    """Far sides with one trouble each, from the second hour to the fourteenth."""

    def __init__(self, clock: TurnedClock) -> None:
        self._clock = clock
        self._took_s = 0.0

    def now(self) -> bool:
        return 2 * HOUR_S <= self._clock.monotonic() < 14 * HOUR_S

    async def healthy(self, _: Delivery) -> Outcome:
        return Delivered()

    async def hangs(self, _: Delivery) -> Outcome:
        if not self.now():
            return Delivered()
        await self._clock.sleep(15)
        return Retry("timeout")

    async def refuses(self, _: Delivery) -> Outcome:
        return Retry("connect") if self.now() else Delivered()

    async def one_a_minute(self, _: Delivery) -> Outcome:
        at_s = self._clock.monotonic()
        if self.now() and at_s < self._took_s + 60:
            return Retry("http_429", after_s=self._took_s + 60 - at_s, holds_sink=True)
        self._took_s = at_s
        return Delivered()

    async def flaps(self, _: Delivery) -> Outcome:
        return Retry("connect") if self.now() and int(self._clock.monotonic() // 600) % 2 else Delivered()


async def test_a_day_with_every_kind_of_trouble(house: House) -> None:
    """Five sinks, four in trouble for twelve hours: the healthy one never waits, the others get all of it, in order.

    No person does anything: what is final arrives, what was live expired and was counted, nothing is dead.
    """
    troubles = Troubles(house.clock)
    names = ("healthy", "hangs", "refuses", "one_a_minute", "flaps")
    sinks = {name: Acked(house.clock, getattr(troubles, name)) for name in names}
    await house.start(dict(sinks))
    begun: dict[str, float] = {}
    for number in range(int(DAY_S // 1200)):
        begun[f"101/c{number}"] = house.clock.monotonic()
        await house.call(number)
        await house.clock.turn(1200)
    assert await house.pending() == dict.fromkeys(names, (0, 0))
    assert all(at_s == begun[call] for at_s, call, _ in sinks["healthy"].taken), "it waited for others"
    for name, sink in sinks.items():
        came = Counter((call, type_) for _, call, type_ in sink.taken)
        assert set(came.values()) == {1}, name
        assert {call for call, type_ in came if type_ == "call.ended"} == set(begun), name
        assert len(sink.taken) + house.telemetry[name].expired == len(TYPES) * len(begun), name
        in_order(sink)
    assert house.telemetry["healthy"].expired == 0
    assert house.telemetry["refuses"].expired >= 2 * 35, "what was live in those twelve hours"


def in_order(sink: Acked) -> None:
    of_call = defaultdict(list)
    for _, call, type_ in sink.taken:
        of_call[call].append(TYPES.index(type_))
    assert all(places == sorted(places) for places in of_call.values())


async def test_seventy_two_hours_without_an_endpoint(house: House, seldom: pytest.MonkeyPatch) -> None:
    """Every final event is there within a minute of the recovery; what was live expired and was counted."""
    back_s = 72 * HOUR_S

    async def far(_: Delivery) -> Outcome:
        return Delivered() if house.clock.monotonic() >= back_s else Retry("connect")

    sink = Acked(house.clock, far)
    await house.start({"crm": sink})
    for number in range(72):
        await house.call(number)
        await house.clock.turn(HOUR_S / 2)
        if number == 71:
            seldom.undo()
        await house.clock.turn(HOUR_S / 2)
    assert sink.taken == []
    assert house.telemetry["crm"].expired == 2 * 72
    await house.clock.turn(60)
    claim_probe, *rest = [call for _, call, _ in sink.taken]
    assert rest == [call for call in (f"101/c{number}" for number in range(72)) if call != claim_probe], (
        "the oldest first"
    )
    assert {type_ for *_, type_ in sink.taken} == {"call.ended"}
    assert await house.pending() == {"crm": (0, 0)}


async def test_one_event_after_ten_quiet_minutes(house: House) -> None:
    """It leaves at once: nothing waits for company."""
    sink = Acked(house.clock, Troubles(house.clock).healthy)
    await house.start({"crm": sink})
    await house.clock.turn(600)
    await house.call(1, ["call.ringing"])
    assert sink.taken == [(600.0, "101/c1", "call.ringing")]


# A wrong secret, a wrong clock: the real webhook sink, and a receiver that checks as the standard says.

RIGHT, WRONG = "whsec_" + "cmln" * 12, "whsec_" + "d3Jv" * 12
TOLERANCE_S = 300


class Strict:
    """Accepts what is signed with its secret within five minutes of its own clock; else answers as configured."""

    def __init__(self, clock: TurnedClock, refusal: int) -> None:
        self.secret = RIGHT
        self.types: list[str] = []
        self.refused = 0
        self._clock = clock
        self._refusal = refusal

    async def take(self, request: web.Request) -> web.Response:
        body = await request.text()
        at = self._clock.now().fromtimestamp(int(request.headers["webhook-timestamp"]), self._clock.now().tzinfo)
        signature = Webhook(self.secret).sign(request.headers["webhook-id"], at, body)
        off_s = abs((at - self._clock.now()).total_seconds())
        if request.headers["webhook-signature"] != signature or off_s > TOLERANCE_S:
            self.refused += 1
            return web.Response(status=self._refusal)
        self.types.append(json.loads(body)["type"])
        return web.Response(status=204)


class Counted:
    """Says whether a request is under way: the clock must not run on meanwhile."""

    def __init__(self, sink: Sink) -> None:
        self.open = 0
        self._sink = sink

    async def send(self, delivery: Delivery, /) -> Outcome:
        self.open += 1
        try:
            return await self._sink.send(delivery)
        finally:
            self.open -= 1


@pytest.mark.parametrize("refusal", [400, 401])
@pytest.mark.parametrize("fault", ["secret", "clock"])
async def test_an_hour_of_our_own_fault_costs_nothing(
    house: House, seldom: pytest.MonkeyPatch, fault: str, refusal: int
) -> None:
    """A wrong secret, or a clock ten minutes off: nothing dies, and after the mend all that has time to live
    arrives.
    """
    seldom.undo()
    receiver = Strict(house.clock, refusal)
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(_serving(receiver))
        settings = Settings(url=Secret(url), secrets=(Secret(RIGHT),), timeout_s=5)
        here = structs.replace(context(), clock=house.clock)
        sink = Counted(await stack.enter_async_context(settings.open(here)))
        queued = busy(house.outbox)
        house.clock.busy = lambda: queued() or sink.open > 0
        if fault == "secret":
            receiver.secret = WRONG
        else:
            house.clock.wall_offset = timedelta(minutes=10)
        await house.start({"crm": sink})
        for number in range(12):
            await house.call(number, ["call.ringing", "call.ended"])
            await house.clock.turn(300)
        assert receiver.types == []
        assert receiver.refused > 12
        assert (await house.pending())["crm"] == (12, 0), "the ends wait, and nothing is dead"
        receiver.secret, house.clock.wall_offset = RIGHT, timedelta()
        await house.clock.turn(60)
        assert receiver.types == ["call.ended"] * 12
        assert await house.pending() == {"crm": (0, 0)}
        assert house.telemetry["crm"].dead == 0
        await house.stop()


@asynccontextmanager
async def _serving(receiver: Strict) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/hook", receiver.take)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    finally:
        await runner.cleanup()
