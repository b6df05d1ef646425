"""The rate limiter against a model of how the platform counts, for hours (`make fuzz`: a day) or with any input."""

import asyncio
from bisect import bisect_left
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from callcast.ringcentral.rate_limiter import Purpose, RateLimiter
from tests.clock import TurnedClock
from tests.effort import tries
from tests.unit.ringcentral.platform_model import PlatformModel, another_program

DAY_H = tries(1, 24)
DAY_S = DAY_H * 3600
MINUTE_S = 60


def make_limiter(clock: TurnedClock, kept: bytes | None = None) -> RateLimiter:
    return RateLimiter("heavy", per_minute=10, headroom=0.8, clock=clock, now=clock.now, kept=kept)


async def request(
    limiter: RateLimiter, model: PlatformModel, purpose: Purpose, key: str, there_s: float, back_s: float
) -> None:
    async with limiter.acquire(purpose, key) as slot:
        await model.clock.sleep(there_s)
        status, headers = model.ask()
        await model.clock.sleep(back_s)
        slot.answered(status, headers)


async def poll(limiter: RateLimiter, model: PlatformModel, key: str, random: Random, slow_s: float) -> None:
    """Polls as fast as the limiter allows, one request at a time."""
    while True:
        there_s, back_s = random.uniform(0.02, slow_s), random.uniform(0.02, slow_s)
        await request(limiter, model, "poll", key, there_s, back_s)


async def look_up(limiter: RateLimiter, model: PlatformModel, random: Random) -> None:
    """Looks up vanished calls: at random times, sometimes several at once."""
    number = 0
    while True:
        await model.clock.sleep(random.expovariate(1 / 30))
        for _ in range(random.choice((1, 1, 3))):
            number += 1
            await request(limiter, model, "call_log", f"log {number}", 0.1, 0.1)


@contextmanager
def running(*doings: Coroutine[Any, Any, None]) -> Iterator[None]:
    tasks = [asyncio.create_task(doing) for doing in doings]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()


def most_in_a_window(times: list[float], window_s: float) -> int:
    return max((i + 1 - bisect_left(times, at - window_s + 1e-9) for i, at in enumerate(times)), default=0)


@pytest.mark.parametrize(("hours", "slow_s"), [(DAY_H, 0.3), (DAY_H / 4, 4)])
async def test_a_day_of_twelve_extensions_and_the_call_log(hours: float, slow_s: float) -> None:
    """Without other programs, also when answers are slow: none is refused, and 95 % of the polls' share is used."""
    clock = TurnedClock()
    model, limiter, random = PlatformModel(clock), make_limiter(clock), Random(7)
    polls = [poll(limiter, model, f"extension {i}", random, slow_s) for i in range(12)]
    with running(*polls, look_up(limiter, model, random)):
        await clock.turn(hours * 3600)
    assert model.refused == []
    assert most_in_a_window(model.arrived, 60) <= 10
    assert len(model.arrived) >= 0.95 * 8 * hours * 60


async def test_the_polls_of_a_day_are_even() -> None:
    """One extension is polled exactly every 7.5 s for hours, without a 429."""
    clock = TurnedClock()
    model, limiter = PlatformModel(clock), make_limiter(clock)

    async def steady() -> None:
        while True:
            await request(limiter, model, "poll", "list", 0.1, 0.1)

    with running(steady()):
        await clock.turn(DAY_S)
    gaps = [b - a for a, b in zip(model.arrived, model.arrived[1:], strict=False)]
    assert min(gaps) == pytest.approx(7.5)
    assert max(gaps) == pytest.approx(7.5)
    assert len(model.arrived) == DAY_S / 7.5
    assert model.refused == []


@pytest.mark.parametrize("headroom", [0.8, 1.0])
async def test_every_window_that_the_platform_announces_is_kept(headroom: float) -> None:
    """3 in 18 s and 100 in an hour beside 10 in 60 s, announced in turn: with bursts of pages and call log requests and
    a restart in between, no request is refused after the first answers.
    """
    clock = TurnedClock()
    model = PlatformModel(clock, limit=10, more=[(3, 18), (100, 3600)])
    limiter = RateLimiter("heavy", per_minute=10, headroom=headroom, clock=clock, now=clock.now)

    async def burst(limiter: RateLimiter) -> None:
        number = 0
        while True:
            for purpose in ("poll", "page", "page", "page", "call_log", "call_log"):
                number += 1
                await request(limiter, model, purpose, str(number), 0.1, 0.1)  # type: ignore[arg-type]
            await clock.sleep(60)

    first = [request(limiter, model, "poll", str(number), 0.1, 0.1) for number in range(3)]
    with running(*first):
        await clock.turn(120)
    with running(*[burst(limiter) for _ in range(3)]):
        await clock.turn(2 * 3600)
    again = RateLimiter("heavy", per_minute=10, headroom=headroom, clock=clock, now=clock.now, kept=limiter.dump())
    with running(*[burst(again) for _ in range(3)]):
        await clock.turn(2 * 3600)
    assert model.refused == []
    assert most_in_a_window(model.arrived, 18) == 3
    assert 0.9 * 100 <= most_in_a_window(model.arrived, 3600) <= 100


@pytest.mark.parametrize("share", [0.1, 0.2, 0.3, 0.4, 0.5])
async def test_another_program_on_the_same_credential(share: float) -> None:
    """It sends requests at random times: after the first minute there is at most one penalty, and polling is as fast as
    before when it stops.
    """
    clock = TurnedClock()
    model, random = PlatformModel(clock), Random(3)
    stops_at_s = tries(1, 4) * 3600

    def share_at(now: float) -> float:
        return share if now < stops_at_s else 0

    with running(another_program(model, share_at, random)):
        await clock.turn(5 * MINUTE_S)
        limiter = make_limiter(clock)
        polls = [poll(limiter, model, f"extension {i}", random, 0.3) for i in range(3)]
        with running(*polls, look_up(limiter, model, random)):
            await watched(model, stops_at_s)


async def watched(model: PlatformModel, stops_at_s: float) -> None:
    """Few requests are refused, and polling is as fast as before soon after the other program has stopped."""
    clock = model.clock
    await clock.turn(stops_at_s - clock.monotonic())
    assert len([at for at in model.refused if at > 6 * MINUTE_S]) <= 2  # its requests may come closer than ever before
    assert len(model.arrived) > 0.9 * stops_at_s / MINUTE_S  # some one a minute at the very least
    await clock.turn(10 * MINUTE_S)
    recovered = len(model.arrived)
    await clock.turn(10 * MINUTE_S)
    assert len(model.arrived) - recovered >= 0.95 * 8 * 10


async def test_two_processes_on_one_credential_find_a_common_pace() -> None:
    """Two processes that share a credential by mistake are refused at first, and rarely after that."""
    clock = TurnedClock()
    model, random = PlatformModel(clock), Random(5)
    one, two = make_limiter(clock), make_limiter(clock)
    with running(poll(one, model, "one", random, 0.3), poll(two, model, "two", random, 0.3)):
        await clock.turn(3600)
        in_the_first_hour = len(model.refused)
        hours = tries(1, 5)
        await clock.turn(hours * 3600)
    assert len(model.refused) - in_the_first_hour <= hours * 6
    assert len(model.arrived) >= 0.3 * 8 * (1 + hours) * 60


@pytest.mark.parametrize("bare", [False, True])
async def test_a_penalty_in_a_busy_hour(bare: bool) -> None:
    """After a 429, with and without headers, no request is sent until it is over; then polling is as fast as before."""
    clock = TurnedClock()
    model, limiter, random = PlatformModel(clock, penalty_s=30 if bare else 60), make_limiter(clock), Random(1)
    model.bare = bare
    polls = [poll(limiter, model, f"extension {i}", random, 0.3) for i in range(5)]
    with running(*polls, look_up(limiter, model, random)):
        await clock.turn(1800)
        model.punish()
        await clock.turn(1800)
    refused_at = model.refused[-1]
    assert refused_at - model.refused[0] < 0.6  # the others were in flight when the first was refused
    after = next(at for at in model.arrived if at > refused_at)
    assert after - refused_at >= model.penalty_s
    assert len([at for at in model.arrived if at > after]) >= 0.95 * 8 * 28


waits = st.floats(0, 90)
latencies = st.floats(0, 25)
purposes: st.SearchStrategy[Purpose] = st.sampled_from(["poll", "page", "call_log"])
steps = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), purposes, st.sampled_from("abcd"), latencies, latencies),
        st.tuples(st.just("wait"), waits),
        st.tuples(st.just("punish")),
        st.tuples(st.just("cancel"), st.integers(0, 50)),
        st.tuples(st.just("restart")),
        st.tuples(st.just("limit"), st.integers(1, 30)),
    ),
    max_size=80,
)


class Story:
    """Runs steps against the model, and asserts what must not happen."""

    def __init__(self) -> None:
        self.clock = TurnedClock()
        self.model = PlatformModel(self.clock)
        self.notes: list[bytes] = []
        self.limiter = make_limiter(self.clock)
        self.tasks: list[asyncio.Task[None]] = []
        self.silent: list[tuple[float, float]] = []  # known penalties
        self.under_way: list[str] = []

    async def ask(self, purpose: Purpose, key: str, there_s: float, back_s: float) -> None:
        async with self.limiter.acquire(purpose, key) as slot:
            sent_at = self.clock.monotonic()
            assert not any(begin < sent_at < end for begin, end in self.silent), "sent in a penalty"
            assert key not in self.under_way, "the same request twice at once"
            self.under_way.append(key)
            try:
                await self.clock.sleep(there_s)
                status, headers = self.model.ask()
                await self.clock.sleep(back_s)
            finally:
                self.under_way.remove(key)
            slot.answered(status, headers)
            if status == 429:
                now = self.clock.monotonic()
                self.silent.append((now, now + 60))

    async def play(self, story: list[Any]) -> None:
        for name, *details in story:
            await getattr(self, f"do_{name}")(*details)
        await self.clock.turn(3600)
        for task in self.tasks:
            assert task.done(), "a request waits for ever"
            if not task.cancelled():
                task.result()

    async def do_ask(self, purpose: Purpose, key: str, there_s: float, back_s: float) -> None:
        self.tasks.append(asyncio.create_task(self.ask(purpose, key, there_s, back_s)))
        await self.clock.settle()

    async def do_wait(self, seconds: float) -> None:
        await self.clock.turn(seconds)

    async def do_punish(self) -> None:
        self.model.punish()

    async def do_cancel(self, number: int) -> None:
        if self.tasks:
            self.tasks[number % len(self.tasks)].cancel()
            await self.clock.settle()

    async def do_restart(self) -> None:
        """kill -9: what was under way is gone, what was kept is there."""
        kept = self.limiter.dump()
        for task in self.tasks:
            task.cancel()
        await self.clock.settle()
        self.limiter = make_limiter(self.clock, kept)

    async def do_limit(self, limit: int) -> None:
        self.model.limit = limit


@settings(max_examples=tries(40, 2000))
@given(steps)
def test_no_sequence_of_steps_causes_a_penalty(story: list[Any]) -> None:
    """With any mixture of requests, latencies, cancellations, restarts and penalties, pauses are kept, every request is
    served, and none is refused, except by an injected penalty or a limit that was lowered meanwhile.
    """
    played = Story()
    asyncio.run(played.play(story))
    names = {name for name, *_ in story}
    if not names & {"punish", "limit"}:
        assert played.model.refused == []
        assert most_in_a_window(played.model.arrived, 60) <= 10


@settings(max_examples=tries(20, 500))
@given(st.lists(st.tuples(purposes, st.floats(0, 20)), min_size=1, max_size=60))
def test_each_purpose_is_served_in_its_order(asks: list[tuple[Purpose, float]]) -> None:
    """First come, first served within each purpose, however long the answers take."""

    async def play() -> dict[str, list[int]]:
        clock = TurnedClock()
        limiter = make_limiter(clock)
        served: dict[str, list[int]] = {}

        async def ask(number: int, purpose: Purpose, took_s: float) -> None:
            async with limiter.acquire(purpose, str(number)):
                served.setdefault(purpose, []).append(number)
                await clock.sleep(took_s)

        with running(*[ask(i, purpose, took_s) for i, (purpose, took_s) in enumerate(asks)]):
            await clock.turn(4 * 3600)
        return served

    served = asyncio.run(play())
    assert sum(map(len, served.values())) == len(asks)
    assert all(numbers == sorted(numbers) for numbers in served.values())
