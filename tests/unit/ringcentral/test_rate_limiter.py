"""The rate limiter: which request is sent when, what a penalty means, what is kept over a restart."""

import asyncio
from collections import Counter
from collections.abc import Callable
from datetime import UTC, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from callcast.ports.upstream import Places
from callcast.ringcentral.rate_limiter import PENALTY_MAX_S, Purpose, RateLimiter
from tests.clock import TurnedClock

HEADERS = {
    "X-Rate-Limit-Group": "heavy",
    "X-Rate-Limit-Limit": "10",
    "X-Rate-Limit-Remaining": "9",
    "X-Rate-Limit-Window": "60",
}


@pytest.fixture
def clock() -> TurnedClock:
    return TurnedClock()


@pytest.fixture
def limiter(clock: TurnedClock) -> RateLimiter:
    return make_limiter(clock)


def make_limiter(clock: TurnedClock, **settings: Any) -> RateLimiter:
    """A limiter that has run long enough to know that no other program uses its credential."""
    settings = {"group": "heavy", "per_minute": 10, "headroom": 0.8, **settings}
    made = RateLimiter(clock=clock, now=clock.now, **settings)
    made._started_at = clock.monotonic() - 121
    return made


class Asker:
    """Requests slots and records when each was granted. The answer comes at once, unless held."""

    def __init__(self, limiter: RateLimiter, clock: TurnedClock) -> None:
        self.limiter = limiter
        self.clock = clock
        self.passed: list[tuple[float, str]] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}

    def ask(
        self,
        name: str,
        purpose: Purpose = "poll",
        *,
        key: str | None = None,
        status: int = 200,
        headers: dict[str, str] | None = None,
        held: asyncio.Event | None = None,
    ) -> asyncio.Task[None]:
        async def one() -> None:
            async with self.limiter.acquire(purpose, key or name) as slot:
                self.passed.append((self.clock.monotonic(), name))
                if held is not None:
                    await held.wait()
                slot.answered(status, headers or {})

        self.tasks[name] = asyncio.create_task(one())
        return self.tasks[name]

    @property
    def times(self) -> list[float]:
        return [at for at, _ in self.passed]

    @property
    def names(self) -> list[str]:
        return [name for _, name in self.passed]


@pytest.fixture
def asker(limiter: RateLimiter, clock: TurnedClock) -> Asker:
    return Asker(limiter, clock)


async def test_polls_come_first_come_first_served_and_evenly(asker: Asker, clock: TurnedClock) -> None:
    """Five polls requested at once are sent in order, one every 7.5 s: eight of ten per minute, without a burst."""
    for name in "abcde":
        asker.ask(name)
    await clock.turn(60)
    assert asker.passed == [(0, "a"), (7.5, "b"), (15, "c"), (22.5, "d"), (30, "e")]


async def test_a_late_poll_does_not_shift_the_grid(asker: Asker, clock: TurnedClock) -> None:
    """After one late poll, the next ones are sent at the times of the grid again."""
    asker.ask("a")
    await clock.turn(7.8)
    asker.ask("b")
    await clock.turn(7.2)
    asker.ask("c")
    await clock.turn(7.5)
    asker.ask("d")
    await clock.turn(60)
    assert asker.times == [0, pytest.approx(7.8), pytest.approx(15), pytest.approx(22.5)]


async def test_polls_due_within_20_ms_are_sent_together(clock: TurnedClock) -> None:
    """At 100 polls per second the poller does not wake up for each: two are sent at once, never more than are due."""
    asker = Asker(make_limiter(clock, per_minute=7500), clock)
    asker.ask("first")
    await clock.turn(1)
    for number in range(30):
        asker.ask(str(number))
    await clock.turn(0.1)
    together = Counter(round(at - 1, 3) for at in asker.times[1:])
    assert together[0] == 3  # its own, and what is due within 0.02 s
    assert max(together.values()) == 3
    assert sum(together.values()) <= 3 + 10


async def test_missed_polls_are_not_made_up_for_in_a_burst(asker: Asker, clock: TurnedClock) -> None:
    """After a long pause the next polls are nearly a spacing apart."""
    asker.ask("a")
    await clock.turn(100)
    for name in "bcd":
        asker.ask(name)
    await clock.turn(60)
    gaps = [b - a for a, b in zip(asker.times[1:], asker.times[2:], strict=False)]
    assert min(gaps) >= 0.9 * 7.5


@pytest.mark.parametrize("headroom", [0.8, 0.9, 1.0])
async def test_the_call_log_has_its_reserve(clock: TurnedClock, headroom: float) -> None:
    """While polling is at its limit, two call log requests are sent at once, the third when their places are free."""
    asker = Asker(make_limiter(clock, headroom=headroom), clock)
    for i in range(40):
        asker.ask(f"poll {i}")
    await clock.turn(76)
    for i in range(4):
        asker.ask(f"log {i}", "call_log")
    await clock.turn(164)
    log = [(at, name) for at, name in asker.passed if name.startswith("log")]
    assert log == [(76, "log 0"), (76, "log 1"), (137, "log 2"), (137, "log 3")]
    polls = [name for _, name in asker.passed if name.startswith("poll")]
    assert len(polls) >= 0.95 * 32


@pytest.mark.parametrize("limit", [2, 3, 4, 5])
async def test_of_a_small_window_one_place_stays_free_for_the_call_log(clock: TurnedClock, limit: int) -> None:
    """A vanished call is looked up at once, however small the limit, and for every `headroom`."""
    limiter = make_limiter(clock, per_minute=limit, headroom=1.0)
    asker = Asker(limiter, clock)
    for i in range(20):
        asker.ask(f"poll {i}")
    await clock.turn(300 + limiter.spacing_s() / 2)
    asked_at = clock.monotonic()
    asker.ask("log", "call_log")
    await clock.turn(2)
    assert asker.passed[-1] == (asked_at, "log")


async def test_a_window_that_is_no_longer_announced_is_forgotten(asker: Asker, clock: TurnedClock) -> None:
    """A limit that the platform has removed slows polling for two hours at most."""
    asker.ask("a", headers={**HEADERS, "X-Rate-Limit-Limit": "2", "X-Rate-Limit-Window": "600"})
    await clock.turn(3600)
    asker.ask("b", headers=HEADERS)
    await clock.turn(3600)
    assert asker.limiter.spacing_s() == 600
    asker.ask("c", headers=HEADERS)
    await clock.turn(60)
    assert asker.limiter.spacing_s() == 7.5


async def test_of_very_many_windows_the_latest_count(asker: Asker, clock: TurnedClock) -> None:
    """The number of remembered windows is bounded."""
    for i in range(60):
        asker.ask(str(i), "page", headers={**HEADERS, "X-Rate-Limit-Window": str(i + 1)})
        await clock.turn(60)
    assert len(asker.limiter.dump()) < 500
    assert len(asker.passed) == 60


async def test_a_configured_limit_holds_until_the_platform_announces_one(clock: TurnedClock) -> None:
    """Also after a restart: a changed heavy_per_minute applies if nothing was announced."""
    asker = Asker(make_limiter(clock), clock)
    asker.ask("a")
    await clock.turn(61)
    assert make_limiter(clock, per_minute=100, kept=asker.limiter.dump()).spacing_s() == 0.75
    asker.ask("b", headers={"X-Rate-Limit-Limit": "1200", "X-Rate-Limit-Window": "3600"})
    await clock.settle()
    again = make_limiter(clock, per_minute=10, kept=asker.limiter.dump())
    assert asker.limiter.spacing_s() == again.spacing_s() == 3600 / (1200 * 0.8)
    assert (again.limit, again.per_minute) == (1200, 20)


async def test_at_first_a_place_is_left_to_others(clock: TurnedClock) -> None:
    """Other users of the credential show only in the answers, so nine of ten places are used for two minutes."""
    asker = Asker(RateLimiter("heavy", per_minute=10, headroom=0.8, clock=clock, now=clock.now), clock)
    for i in range(30):
        asker.ask(str(i), "page")
    await clock.turn(120)
    assert len(asker.passed) == 18
    await clock.turn(2)
    assert len(asker.passed) == 28


async def test_the_call_log_uses_what_polling_leaves(asker: Asker, clock: TurnedClock) -> None:
    """A source that polls twice a minute leaves seven places to the call log after a whole window has shown it."""
    for i in range(6):
        asker.ask(f"poll {i}")
        await clock.turn(30)
    asker.passed.clear()
    for i in range(12):
        asker.ask(f"log {i}", "call_log")
    asker.ask("poll 7")
    await clock.settle()
    assert sorted(asker.names) == [*[f"log {i}" for i in range(7)], "poll 7"]


async def test_the_call_log_does_not_use_what_hint_polls_leave(asker: Asker, clock: TurnedClock) -> None:
    """A source that was quiet so far may need its whole share for the next hints."""
    asker.ask("hint", "hint")
    await clock.turn(130)
    for i in range(12):
        asker.ask(f"log {i}", "call_log")
    await clock.settle()
    assert asker.names == ["hint", "log 0", "log 1"]


async def test_the_call_log_does_not_use_what_polling_leaves_in_an_outage(asker: Asker, clock: TurnedClock) -> None:
    """Polls will need their places again: after a five-minute outage the call log still gets only its reserve."""
    for i in range(20):
        asker.ask(f"poll {i}")
    await clock.turn(150 + 300)
    asker.passed.clear()
    for i in range(12):
        asker.ask(f"log {i}", "call_log")
    await clock.settle()
    assert asker.names == ["log 0", "log 1"]


async def test_pages_are_sent_at_once_and_delay_the_next_poll(asker: Asker, clock: TurnedClock) -> None:
    """Two further pages are sent at once; the next poll is sent three spacings after the first one."""
    asker.ask("a")
    asker.ask("a2", "page")
    asker.ask("a3", "page")
    await clock.settle()
    asker.ask("b")
    asker.ask("c")
    await clock.turn(60)
    assert sorted(asker.passed) == [(0, "a"), (0, "a2"), (0, "a3"), (22.5, "b"), (30, "c")]


async def test_no_purpose_exceeds_the_limit(asker: Asker, clock: TurnedClock) -> None:
    """Of twenty pages, ten are sent at once, the others when the first ones have left the window."""
    for i in range(20):
        asker.ask(str(i), "page")
    await clock.turn(60)
    assert len(asker.passed) == 10
    await clock.turn(1)
    assert len(asker.passed) == 20


async def test_a_place_is_taken_until_after_the_answer(asker: Asker, clock: TurnedClock) -> None:
    """The platform may count a slow request as late as its answer, so its place is freed 61 s after that."""
    held = asyncio.Event()
    for i in range(10):
        asker.ask(str(i), "page", held=held)
    await clock.turn(50)
    held.set()
    asker.ask("next", "page")
    await clock.turn(60)
    assert len(asker.passed) == 10
    await clock.turn(1)
    assert asker.passed[-1] == (111, "next")


async def test_the_same_request_is_never_in_flight_twice(asker: Asker, clock: TurnedClock) -> None:
    """The platform answers the second one with CMN-304. Other requests do not wait for it."""
    held = asyncio.Event()
    asker.ask("first", "page", key="url", held=held)
    asker.ask("twin", "page", key="url")
    asker.ask("other", "page")
    await clock.turn(5)
    assert asker.names == ["first", "other"]
    held.set()
    await clock.settle()
    assert asker.names == ["first", "other", "twin"]


async def test_a_cancelled_wait_takes_no_place(asker: Asker, clock: TurnedClock) -> None:
    """Requests that wait behind a cancelled one are sent earlier."""
    asker.ask("a")
    waiting = asker.ask("b")
    asker.ask("c")
    await clock.turn(3)
    waiting.cancel()
    await clock.turn(60)
    assert asker.passed == [(0, "a"), (7.5, "c")]


async def test_a_wait_cancelled_when_the_slot_was_granted_frees_it(
    limiter: RateLimiter, asker: Asker, clock: TurnedClock
) -> None:
    """The slot was granted but never used: its key and its place are free again, however often that happens."""
    for i in range(20):
        async with limiter.acquire("page", "url") as slot:
            slot.unused()
            cancelled = asker.ask(f"x{i}", "page", key="url")
            await clock.settle()
        cancelled.cancel()  # granted, and it has not run since
        await clock.settle()
    asker.ask("y", "page", key="url")
    await clock.settle()
    assert asker.names == ["y"]
    assert cancelled.cancelled()


async def test_an_unused_slot_takes_no_place(limiter: RateLimiter, clock: TurnedClock) -> None:
    """A request that is not sent, because its token is missing, delays no other."""
    for i in range(30):
        async with limiter.acquire("page", str(i)) as slot:
            slot.unused()
    assert clock.monotonic() == 0


async def test_all_waits_can_be_cancelled_at_once(asker: Asker, clock: TurnedClock) -> None:
    """When the service stops, no slot is granted to a cancelled wait."""
    held = asyncio.Event()
    for name in "abcde":
        asker.ask(name, "page", held=held, key="url" if name in "ab" else name)
    for name in "fgh":
        asker.ask(name, held=held)
    await clock.settle()
    for task in asker.tasks.values():
        task.cancel()
    results = await asyncio.gather(*asker.tasks.values(), return_exceptions=True)
    assert [type(result) for result in results] == [asyncio.CancelledError] * 8
    asker.ask("url", "page")
    await clock.settle()
    assert asker.names[-1] == "url"


async def test_a_cancelled_request_takes_a_place(asker: Asker, clock: TurnedClock) -> None:
    """A request that was cancelled in flight may have reached the platform."""
    held = asyncio.Event()
    for i in range(10):
        asker.ask(str(i), "page", held=held)
    await clock.turn(1)
    for task in asker.tasks.values():
        task.cancel()
    asker.ask("next", "page")
    await clock.turn(59)
    assert len(asker.passed) == 10


async def test_waiting_polls_follow_a_higher_limit(asker: Asker, clock: TurnedClock) -> None:
    """Polls that are already waiting are sent at the newly announced rate."""
    held = asyncio.Event()
    asker.ask("a", headers={**HEADERS, "X-Rate-Limit-Limit": "100", "X-Rate-Limit-Remaining": "99"}, held=held)
    asker.ask("b")
    asker.ask("c")
    await clock.turn(0.1)
    held.set()
    await clock.turn(5)
    assert asker.passed == [(0, "a"), (0.75, "b"), (1.5, "c")]
    assert asker.limiter.spacing_s() == 0.75


async def test_a_lower_limit_slows_polling(asker: Asker, clock: TurnedClock) -> None:
    """With an announced limit of five per minute, four polls per minute are sent."""
    asker.ask("a", headers={**HEADERS, "X-Rate-Limit-Limit": "5", "X-Rate-Limit-Remaining": "4"})
    asker.ask("b")
    asker.ask("c")
    await clock.turn(60)
    assert asker.times == [0, 15, 30]


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Rate-Limit-Limit": "0"},
        {"X-Rate-Limit-Limit": "-5"},
        {"X-Rate-Limit-Limit": "many"},
        {"X-Rate-Limit-Limit": "1e9"},
        {"X-Rate-Limit-Limit": "٣"},
        {"X-Rate-Limit-Window": "0"},
        {"X-Rate-Limit-Window": "99999999"},
        {"X-Rate-Limit-Remaining": "5"},
        {"X-Rate-Limit-Limit": "10", "X-Rate-Limit-Remaining": "11"},
        {"Retry-After": "soon"},
        {"X-Rate-Limit-Group": "not a word of a group, but a sentence"},
    ],
)
async def test_implausible_headers_are_ignored(asker: Asker, clock: TurnedClock, headers: dict[str, str]) -> None:
    """Neither limit, group nor pause change."""
    asker.ask("a", headers=headers)
    await clock.settle()
    assert asker.limiter.spacing_s() == 7.5
    assert asker.limiter.group == "heavy"
    assert asker.limiter.hold_s() == 0


def in_40_s(clock: TurnedClock) -> str:
    return format_datetime((clock.now() + timedelta(seconds=40)).astimezone(UTC), usegmt=True)


PENALTIES: list[tuple[Callable[[TurnedClock], dict[str, str]], float]] = [
    (lambda _: {"Retry-After": "60", **HEADERS, "X-Rate-Limit-Remaining": "0"}, 60),
    (lambda _: {"Retry-After": "5"}, 5),
    (lambda clock: {"Retry-After": in_40_s(clock)}, 40),
    (lambda _: {"X-Rate-Limit-Window": "60"}, 60),
    (lambda _: {"X-Rate-Limit-Window": "10"}, 30),
    (lambda _: {}, 30),
    (lambda _: {"Retry-After": "nonsense"}, 30),
]


@pytest.mark.parametrize(("headers", "seconds"), PENALTIES)
async def test_nothing_is_sent_during_a_penalty(
    asker: Asker, clock: TurnedClock, headers: Callable[[TurnedClock], dict[str, str]], seconds: float
) -> None:
    """A 429 pauses polls, pages and the call log until its time has passed; then all are sent."""
    asker.ask("a", status=429, headers=headers(clock))
    await clock.settle()
    for purpose in ("poll", "page", "call_log"):
        asker.ask(f"1 {purpose}", purpose)  # type: ignore[arg-type]
    assert seconds <= asker.limiter.hold_s() <= seconds + 2
    await clock.turn(seconds)
    assert asker.names == ["a"]
    await clock.turn(10)
    assert len(asker.names) == 4
    assert asker.limiter.hold_s() == 0


async def test_after_a_penalty_one_request_is_sent_first(asker: Asker, clock: TurnedClock) -> None:
    """Its answer shows whether the penalty is over; the others wait for it."""
    held = asyncio.Event()
    asker.ask("a", status=429, headers={"Retry-After": "60"})
    await clock.settle()
    asker.ask("scout", "page", held=held)
    asker.ask("next", "page")
    await clock.turn(100)
    assert asker.names == ["a", "scout"]
    held.set()
    await clock.settle()
    assert asker.names == ["a", "scout", "next"]


async def test_penalties_without_retry_after_grow(asker: Asker, clock: TurnedClock) -> None:
    """If the first request after it is refused: 30, 60, 120 s and no longer. After a success it is 30 s again."""
    held_s: list[float] = []
    for i, status in enumerate((429, 429, 429, 429, 200, 429)):
        asker.ask(str(i), "page", status=status)
        await clock.settle()
        held_s.append(asker.limiter.hold_s())
        await clock.turn(asker.limiter.hold_s())
    assert held_s == [31, 61, 121, 121, 0, 31]


async def test_a_penalty_with_retry_after_is_doubled_at_most(asker: Asker, clock: TurnedClock) -> None:
    """A second refusal after the full wait means that another program prolongs the penalty."""
    held_s: list[float] = []
    for i in range(4):
        asker.ask(str(i), "page", status=429, headers={"Retry-After": "60"})
        await clock.settle()
        held_s.append(asker.limiter.hold_s())
        await clock.turn(asker.limiter.hold_s())
    assert held_s == [61, 121, 121, 121]


async def test_several_refusals_at_once_are_one_penalty(asker: Asker, clock: TurnedClock) -> None:
    """Requests in flight at the first 429 do not make the pause longer than their own Retry-After."""
    held = asyncio.Event()
    for i in range(5):
        asker.ask(str(i), "page", status=429, headers={"Retry-After": "60"}, held=held)
    await clock.settle()
    held.set()
    await clock.settle()
    assert asker.limiter.hold_s() == 61


async def test_a_later_retry_after_does_not_shorten_a_penalty(asker: Asker, clock: TurnedClock) -> None:
    """If the answer to a request in flight has a shorter Retry-After, the longer pause stays."""
    held = asyncio.Event()
    asker.ask("a", "page", status=429, headers={"Retry-After": "5"}, held=held)
    asker.ask("b", "page", status=429, headers={"Retry-After": "60"})
    await clock.settle()
    held.set()
    await clock.settle()
    assert asker.limiter.hold_s() == 61


async def test_a_503_with_retry_after_pauses_requests(asker: Asker, clock: TurnedClock) -> None:
    """For at most an hour. A 503 without Retry-After does not pause anything."""
    asker.ask("a", status=503)
    await clock.settle()
    assert asker.limiter.hold_s() == 0
    asker.ask("b", "page", status=503, headers={"Retry-After": "20"})
    await clock.settle()
    assert asker.limiter.hold_s() == 21
    await clock.turn(21)
    asker.ask("c", "page", status=503, headers={"Retry-After": "999999"})
    await clock.settle()
    assert asker.limiter.hold_s() == 3601


async def test_use_by_other_programs_slows_polling_for_minutes(asker: Asker, clock: TurnedClock) -> None:
    """If fewer requests remain than our own use explains, polling slows down, and recovers within minutes."""
    asker.ask("a", headers={**HEADERS, "X-Rate-Limit-Remaining": "5"})
    await clock.settle()
    assert asker.limiter.spacing_s() == 60 / (10 - 4 - 2 - 1)
    await clock.turn(181)
    asker.ask("b", headers={**HEADERS, "X-Rate-Limit-Remaining": "9"})
    await clock.settle()
    assert asker.limiter.spacing_s() == 7.5


async def test_one_request_per_window_is_always_sent(asker: Asker, clock: TurnedClock) -> None:
    """However much other programs use, polling never stops."""
    asker.ask("a", headers={**HEADERS, "X-Rate-Limit-Remaining": "0"})
    asker.ask("b")
    await clock.turn(180)
    assert asker.names == ["a", "b"]


async def test_a_429_during_the_pause_of_a_503_is_a_whole_penalty(asker: Asker, clock: TurnedClock) -> None:
    """The answer to a request that was in flight; half of its Retry-After would be within the penalty."""
    held = asyncio.Event()
    asker.ask("a", "page", status=429, headers={"Retry-After": "60"}, held=held)
    asker.ask("b", "page", status=503, headers={"Retry-After": "5"})
    await clock.settle()
    assert asker.limiter.hold_s() == 6
    held.set()
    await clock.settle()
    assert asker.limiter.hold_s() == 61


@pytest.mark.parametrize("jump_s", [0, -3600, 90_000])
async def test_a_penalty_continues_after_a_restart(clock: TurnedClock, jump_s: int) -> None:
    """After kill -9 the next process pauses for the rest of the penalty, however the wall clock was changed."""
    notes: list[bytes] = []
    asker = Asker(make_limiter(clock, keep=lambda b: notes.append(b.dump())), clock)
    asker.ask("a", status=429, headers={"Retry-After": "60"})
    await clock.turn(20)
    clock.wall_offset = timedelta(seconds=jump_s)
    again = Asker(make_limiter(clock, kept=notes[-1]), clock)
    left_s = {0: 41, -3600: 61, 90_000: 0}[jump_s]
    assert again.limiter.hold_s() == pytest.approx(left_s)
    again.ask("b", "page")
    await clock.turn(left_s - 0.5)
    assert again.names == ([] if left_s else ["b"])
    await clock.turn(1)
    assert again.names == ["b"]


async def test_the_window_continues_after_a_restart(clock: TurnedClock) -> None:
    """A process that is restarted every second cannot send more than the limit in a minute."""
    kept: bytes | None = None
    passed: list[float] = []
    for _ in range(70):
        notes: list[bytes] = []
        asker = Asker(make_limiter(clock, kept=kept, keep=lambda b, notes=notes: notes.append(b.dump())), clock)
        for name in "abc":
            asker.ask(name, "page")
        await clock.turn(1)
        for task in asker.tasks.values():
            task.cancel()
        await clock.settle()
        passed += asker.times
        kept = asker.limiter.dump()
    assert all(sum(at <= other < at + 60 for other in passed) <= 10 for at in passed)
    assert len(passed) >= 12


async def test_requests_in_flight_at_a_kill_take_places(clock: TurnedClock) -> None:
    """The platform has counted them, although their answers were lost."""
    asker = Asker(make_limiter(clock), clock)
    for i in range(10):
        asker.ask(str(i), "page", held=asyncio.Event())
    await clock.settle()
    again = Asker(make_limiter(clock, kept=asker.limiter.dump()), clock)
    again.ask("next", "page")
    await clock.turn(60)
    assert again.names == []
    await clock.turn(5)
    assert again.names == ["next"]
    for task in asker.tasks.values():
        task.cancel()


async def test_a_penalty_that_continues_is_shown_at_the_start(clock: TurnedClock) -> None:
    """After a restart the metric shows why no request is sent."""
    asker = Asker(make_limiter(clock), clock)
    asker.ask("a", status=429, headers={"Retry-After": "60"})
    await clock.settle()
    shown: list[float] = []
    make_limiter(clock, kept=asker.limiter.dump(), show=lambda limiter: shown.append(limiter.hold_s()))
    assert shown == [61]


@pytest.mark.parametrize("kept", [b"", b"{}", b"nonsense", b'{"at":"x"}', b"\xff"])
async def test_unreadable_state_of_an_earlier_run_is_ignored(clock: TurnedClock, kept: bytes) -> None:
    """State of another version never stops the service."""
    assert make_limiter(clock, kept=kept).hold_s() == 0


async def test_the_kept_state_is_small(clock: TurnedClock) -> None:
    """Also at a thousand requests per second."""
    limiter = make_limiter(clock, per_minute=60_000, headroom=1)
    asker = Asker(limiter, clock)
    for i in range(3000):
        asker.ask(str(i), "page")
    await clock.turn(30)
    assert len(asker.passed) == 3000
    assert len(limiter.dump()) < 1000


async def test_no_task_runs_while_no_request_waits(asker: Asker, clock: TurnedClock) -> None:
    """The timer exists only while a request waits, so a closed client leaves no task."""
    asker.ask("a")
    waiting = asker.ask("b")
    await clock.turn(1)
    waiting.cancel()
    await clock.settle()
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.parametrize("status", [403, 408, 500, 502])
@pytest.mark.parametrize("retry_after", ["99999999", "Fri, 31 Dec 9999 23:59:59 GMT"])
async def test_retry_after_is_limited_to_an_hour(limiter: RateLimiter, status: int, retry_after: str) -> None:
    """For every status, because an implausible Retry-After must not stop a source until a restart."""
    async with limiter.acquire("poll", "a") as slot:
        wait_s = slot.answered(status, {"Retry-After": retry_after})
    assert wait_s == PENALTY_MAX_S


async def test_a_hint_poll_is_sent_at_once_while_a_place_is_free(asker: Asker, clock: TurnedClock) -> None:
    """It does not wait for the grid nor move it; of polls and hint polls together eight pass in a minute."""
    asker.ask("poll 0")
    for i in range(9):
        asker.ask(f"hint {i}", "hint")
    await clock.settle()
    assert asker.names == ["poll 0", *[f"hint {i}" for i in range(7)]]
    asker.ask("log 0", "call_log")
    asker.ask("log 1", "call_log")
    asker.ask("poll 1")
    await clock.turn(59)
    assert asker.names[8:] == ["log 0", "log 1"]  # the reserve of the call log is untouched
    await clock.turn(2)
    assert asker.names[10:] == ["hint 7", "hint 8", "poll 1"]


async def test_hint_polls_go_before_polls_on_the_grid(asker: Asker, clock: TurnedClock) -> None:
    """Under even polling all places are taken: a hint poll gets the next one that becomes free."""
    for i in range(40):
        asker.ask(f"poll {i}")
    await clock.turn(76)
    asker.ask("hint", "hint")
    await clock.turn(6.5)
    assert asker.passed[-1] == (82.5, "hint")
    await clock.turn(7.5)
    assert asker.passed[-1] == (90, "poll 11")


async def test_places_count_what_is_in_flight_and_what_the_platform_still_counts(
    asker: Asker, clock: TurnedClock
) -> None:
    """A place is taken when a request is sent, and freed 61 s after its answer; the call log has its own."""
    held = asyncio.Event()
    assert asker.limiter.places() == Places(used=0, limit=8, spacing_s=7.5)
    asker.ask("a", "hint", held=held)
    asker.ask("b", "page")
    asker.ask("log", "call_log")
    await clock.turn(30)
    assert asker.limiter.places().used == 2
    held.set()
    await clock.turn(31)
    assert asker.limiter.places().used == 1
    await clock.turn(30)
    assert asker.limiter.places().used == 0


async def test_places_count_other_programs(asker: Asker, clock: TurnedClock) -> None:
    """What others took, and half as much again because they may take more."""
    asker.ask("a", headers={**HEADERS, "X-Rate-Limit-Remaining": "7"})
    await clock.settle()
    assert asker.limiter.places().used == 1 + 2 + 1


async def test_what_was_used_before_the_start_is_forgotten_once_a_later_answer_shows_less(
    clock: TurnedClock,
) -> None:
    """Such as by `check --online`: it has left the window, unlike what another program uses all the time."""
    asker = Asker(RateLimiter("heavy", per_minute=10, headroom=0.8, clock=clock, now=clock.now), clock)
    before = {**HEADERS, "X-Rate-Limit-Remaining": "4"}
    asker.ask("a", headers=before)
    await clock.settle()
    assert asker.limiter.places().used == 1 + 5 + 3
    await clock.turn(61)
    assert asker.limiter.places().used == 5 + 3, "no answer has shown less yet"
    asker.ask("b", headers=HEADERS)
    await clock.settle()
    assert asker.limiter.places() == Places(used=1, limit=8, spacing_s=7.5)
    asker.ask("c", "hint", headers=before)
    await clock.turn(61)
    asker.ask("d", headers=HEADERS)
    await clock.settle()
    assert asker.limiter.places().used == 1 + 4 + 2, "used while this limiter ran"


async def test_places_are_those_of_the_fullest_window(asker: Asker, clock: TurnedClock) -> None:
    """3 in 18 s beside 10 in 60 s: one request takes half of what polls may use of the small one."""
    asker.ask("a", headers=HEADERS)
    asker.ask("b", "hint", headers={**HEADERS, "X-Rate-Limit-Limit": "3", "X-Rate-Limit-Window": "18"})
    await clock.turn(20)
    assert asker.limiter.places() == Places(used=2, limit=8, spacing_s=9)
    asker.ask("c", "hint")
    await clock.settle()
    assert asker.limiter.places() == Places(used=1, limit=2, spacing_s=9)


@pytest.fixture
def groups(clock: TurnedClock) -> dict[str, RateLimiter]:
    limiters: dict[str, RateLimiter] = {}
    limiters["heavy"] = make_limiter(clock, groups=limiters)
    limiters["light"] = make_limiter(clock, group="light", per_minute=50, headroom=0.5, groups=limiters)
    return limiters


async def test_hint_polls_of_another_group_use_at_most_their_share(
    groups: dict[str, RateLimiter], clock: TurnedClock
) -> None:
    """Half of the light window, whatever the others use of it."""
    asker = Asker(groups["light"], clock)
    for i in range(60):
        asker.ask(str(i), "hint")
    await clock.settle()
    assert len(asker.names) == 25
    assert groups["heavy"].places().used == 0


@pytest.mark.parametrize(
    ("status", "headers", "silent"),
    [
        (429, {"Retry-After": "60"}, {"light"}),
        (429, {"Retry-After": "60", "X-Rate-Limit-Group": "heavy"}, {"light", "heavy"}),
        (429, {"Retry-After": "60", "X-Rate-Limit-Group": "unheard of"}, {"light"}),
        (503, {"Retry-After": "60"}, {"light", "heavy"}),
    ],
)
async def test_a_penalty_covers_the_group_that_the_answer_names(
    groups: dict[str, RateLimiter], clock: TurnedClock, status: int, headers: dict[str, str], silent: set[str]
) -> None:
    """A request may be counted in another group than assumed: neither group sends anything. A 503 covers all."""
    Asker(groups["light"], clock).ask("a", "hint", status=status, headers=headers)
    await clock.settle()
    assert {group for group, limiter in groups.items() if limiter.hold_s() > 0} == silent


async def test_a_request_that_is_counted_in_another_group_obeys_both(
    groups: dict[str, RateLimiter], clock: TurnedClock
) -> None:
    """A light request that the answer counts as heavy learns that limit, and shows as used there."""
    asker = Asker(groups["light"], clock)
    asker.ask("a", "hint", headers=HEADERS)
    for i in range(10):
        asker.ask(str(i), "hint")
    await clock.settle()
    assert len(asker.names) == 5
    assert groups["heavy"].places().used == 2


async def test_tokens_of_push_connections_leave_places_for_access_tokens(clock: TurnedClock) -> None:
    """Two a minute at most, however few access tokens are requested, and never before one that waits."""
    asker = Asker(make_limiter(clock, group="auth", per_minute=5, headroom=0.5, ceiling=4), clock)
    await clock.turn(100)
    for i in range(4):
        asker.ask(f"push {i}", "push_token")
    asker.ask("a", "token")
    asker.ask("b", "token")
    await clock.settle()
    assert sorted(asker.names) == ["a", "b", "push 0", "push 1"]
    asker.ask("c", "token")
    await clock.turn(61)
    assert sorted(asker.names[4:]) == ["c", "push 2", "push 3"]


async def test_at_first_the_rest_is_as_large_as_later(clock: TurnedClock) -> None:
    """The place that is left to others at first is not taken from the rest: two push tokens after an access token."""
    limiter = RateLimiter("auth", per_minute=5, headroom=0.5, ceiling=4, clock=clock, now=clock.now)
    asker = Asker(limiter, clock)
    asker.ask("a", "token")
    asker.ask("push 0", "push_token")
    asker.ask("push 1", "push_token")
    await clock.settle()
    assert sorted(asker.names) == ["a", "push 0", "push 1"]
