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
    return make_budget(clock)


def make_budget(clock: TurnedClock, **settings: Any) -> RateLimiter:
    """One that has run for a while, and knows that no one else uses its credential."""
    settings = {"group": "heavy", "per_minute": 10, "headroom": 0.8, **settings}
    made = RateLimiter(clock=clock, now=clock.now, **settings)
    made._started_at = clock.monotonic() - 121
    return made


class Asker:
    """Asks at once, and writes down when its turn came; the answer comes within no time, unless held."""

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
            async with self.limiter.acquire(purpose, key or name) as turn:
                self.passed.append((self.clock.monotonic(), name))
                if held is not None:
                    await held.wait()
                turn.answered(status, headers or {})

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
    """Five at once pass in their order, one each 7.5 s: eight a minute of ten, no burst."""
    for name in "abcde":
        asker.ask(name)
    await clock.turn(60)
    assert asker.passed == [(0, "a"), (7.5, "b"), (15, "c"), (22.5, "d"), (30, "e")]


async def test_a_late_poll_does_not_shift_the_grid(asker: Asker, clock: TurnedClock) -> None:
    """A poller that is a little late once is on its plan again with the next turn."""
    asker.ask("a")
    await clock.turn(7.8)
    asker.ask("b")
    await clock.turn(7.2)
    asker.ask("c")
    await clock.turn(7.5)
    asker.ask("d")
    await clock.turn(60)
    assert asker.times == [0, pytest.approx(7.8), pytest.approx(15), pytest.approx(22.5)]


async def test_polls_that_would_lie_within_a_moment_go_together(clock: TurnedClock) -> None:
    """At a hundred a second a poller need not wake up for each: two go at once, and never more than are due."""
    asker = Asker(make_budget(clock, per_minute=7500), clock)
    asker.ask("first")
    await clock.turn(1)
    for number in range(30):
        asker.ask(str(number))
    await clock.turn(0.1)
    together = Counter(round(at - 1, 3) for at in asker.times[1:])
    assert together[0] == 3  # its own, and what is due within 0.02 s
    assert max(together.values()) == 3
    assert sum(together.values()) <= 3 + 10


async def test_missed_turns_are_not_made_up_for_in_a_burst(asker: Asker, clock: TurnedClock) -> None:
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
    """Under full polling the call log gets two of ten, at once and in order, the third when they have left."""
    asker = Asker(make_budget(clock, headroom=headroom), clock)
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
    """A call that vanished is asked about at once, however small the limit and whatever `headroom` says."""
    limiter = make_budget(clock, per_minute=limit, headroom=1.0)
    asker = Asker(limiter, clock)
    for i in range(20):
        asker.ask(f"poll {i}")
    await clock.turn(300 + limiter.spacing_s() / 2)
    asked_at = clock.monotonic()
    asker.ask("log", "call_log")
    await clock.turn(2)
    assert asker.passed[-1] == (asked_at, "log")


async def test_a_window_that_is_not_announced_any_more_is_forgotten(asker: Asker, clock: TurnedClock) -> None:
    """A limit that the platform has lifted slows the pace for two hours, and no longer."""
    asker.ask("a", headers={**HEADERS, "X-Rate-Limit-Limit": "2", "X-Rate-Limit-Window": "600"})
    await clock.turn(3600)
    asker.ask("b", headers=HEADERS)
    await clock.turn(3600)
    assert asker.limiter.spacing_s() == 600
    asker.ask("c", headers=HEADERS)
    await clock.turn(60)
    assert asker.limiter.spacing_s() == 7.5


async def test_of_very_many_windows_the_latest_count(asker: Asker, clock: TurnedClock) -> None:
    """What an answer says can fill no memory."""
    for i in range(60):
        asker.ask(str(i), "page", headers={**HEADERS, "X-Rate-Limit-Window": str(i + 1)})
        await clock.turn(60)
    assert len(asker.limiter.dump()) < 500
    assert len(asker.passed) == 60


async def test_a_configured_limit_holds_until_the_platform_announces_one(clock: TurnedClock) -> None:
    """Also over a restart: a changed heavy_per_minute counts where nothing is announced."""
    asker = Asker(make_budget(clock), clock)
    asker.ask("a")
    await clock.turn(61)
    assert make_budget(clock, per_minute=100, kept=asker.limiter.dump()).spacing_s() == 0.75
    asker.ask("b", headers={"X-Rate-Limit-Limit": "1200", "X-Rate-Limit-Window": "3600"})
    await clock.settle()
    again = make_budget(clock, per_minute=10, kept=asker.limiter.dump())
    assert asker.limiter.spacing_s() == again.spacing_s() == 3600 / (1200 * 0.8)
    assert (again.limit, again.per_minute) == (1200, 20)


async def test_at_first_a_place_is_left_to_others(clock: TurnedClock) -> None:
    """Whether somebody else uses the credential shows only in the answers: nine of ten for two minutes."""
    asker = Asker(RateLimiter("heavy", per_minute=10, headroom=0.8, clock=clock, now=clock.now), clock)
    for i in range(30):
        asker.ask(str(i), "page")
    await clock.turn(120)
    assert len(asker.passed) == 18
    await clock.turn(2)
    assert len(asker.passed) == 28


async def test_the_call_log_uses_what_polling_leaves(asker: Asker, clock: TurnedClock) -> None:
    """A source that polls twice a minute leaves seven to the call log, once it is known to."""
    for i in range(6):
        asker.ask(f"poll {i}")
        await clock.turn(30)
    asker.passed.clear()
    for i in range(12):
        asker.ask(f"log {i}", "call_log")
    asker.ask("poll 7")
    await clock.settle()
    assert sorted(asker.names) == [*[f"log {i}" for i in range(7)], "poll 7"]


async def test_the_call_log_does_not_use_what_polling_leaves_in_an_outage(asker: Asker, clock: TurnedClock) -> None:
    """Polls that pause want their places back: five minutes of silence give the call log no more than its reserve."""
    for i in range(20):
        asker.ask(f"poll {i}")
    await clock.turn(150 + 300)
    asker.passed.clear()
    for i in range(12):
        asker.ask(f"log {i}", "call_log")
    await clock.settle()
    assert asker.names == ["log 0", "log 1"]


async def test_pages_follow_at_once_and_are_paid_for(asker: Asker, clock: TurnedClock) -> None:
    """Two further pages pass at once; the next poll comes three spacings after the first, and another one later."""
    asker.ask("a")
    asker.ask("a2", "page")
    asker.ask("a3", "page")
    await clock.settle()
    asker.ask("b")
    asker.ask("c")
    await clock.turn(60)
    assert sorted(asker.passed) == [(0, "a"), (0, "a2"), (0, "a3"), (22.5, "b"), (30, "c")]


async def test_never_more_than_the_limit_anyone_who_asks(asker: Asker, clock: TurnedClock) -> None:
    """Twenty pages at once: ten pass, the others when the first have left the window."""
    for i in range(20):
        asker.ask(str(i), "page")
    await clock.turn(60)
    assert len(asker.passed) == 10
    await clock.turn(1)
    assert len(asker.passed) == 20


async def test_what_is_under_way_counts_until_it_has_left_the_window(asker: Asker, clock: TurnedClock) -> None:
    """The platform may count a slow request as late as its answer; so do we."""
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


async def test_never_two_of_the_same_request_at_once(asker: Asker, clock: TurnedClock) -> None:
    """The platform answers a twin with CMN-304; another request does not wait for it."""
    held = asyncio.Event()
    asker.ask("first", "page", key="url", held=held)
    asker.ask("twin", "page", key="url")
    asker.ask("other", "page")
    await clock.turn(5)
    assert asker.names == ["first", "other"]
    held.set()
    await clock.settle()
    assert asker.names == ["first", "other", "twin"]


async def test_a_cancelled_waiter_leaves_its_place(asker: Asker, clock: TurnedClock) -> None:
    """Cancelled while waiting: those behind it move up, and nothing is counted for it."""
    asker.ask("a")
    waiting = asker.ask("b")
    asker.ask("c")
    await clock.turn(3)
    waiting.cancel()
    await clock.turn(60)
    assert asker.passed == [(0, "a"), (7.5, "c")]


async def test_a_waiter_that_is_cancelled_as_its_turn_comes_frees_it(
    limiter: RateLimiter, asker: Asker, clock: TurnedClock
) -> None:
    """The turn was granted and never used: its key and its place are free again, however often that happens."""
    for i in range(20):
        async with limiter.acquire("page", "url") as turn:
            turn.unused()
            cancelled = asker.ask(f"x{i}", "page", key="url")
            await clock.settle()
        cancelled.cancel()  # granted, and it has not run since
        await clock.settle()
    asker.ask("y", "page", key="url")
    await clock.settle()
    assert asker.names == ["y"]
    assert cancelled.cancelled()


async def test_an_unused_turn_counts_nothing(limiter: RateLimiter, clock: TurnedClock) -> None:
    """Anyone who finds that it has no token sends nothing, and takes nothing from the others."""
    for i in range(30):
        async with limiter.acquire("page", str(i)) as turn:
            turn.unused()
    assert clock.monotonic() == 0


async def test_all_who_wait_may_be_cancelled_at_once(asker: Asker, clock: TurnedClock) -> None:
    """A service that stops: no one is granted a turn that no one takes any more."""
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


async def test_a_cancelled_request_counts(asker: Asker, clock: TurnedClock) -> None:
    """Given up under way it may have reached the platform."""
    held = asyncio.Event()
    for i in range(10):
        asker.ask(str(i), "page", held=held)
    await clock.turn(1)
    for task in asker.tasks.values():
        task.cancel()
    asker.ask("next", "page")
    await clock.turn(59)
    assert len(asker.passed) == 10


async def test_no_one_is_left_waiting_when_the_limit_rises(asker: Asker, clock: TurnedClock) -> None:
    """The pace of those who already wait follows what the platform announces."""
    held = asyncio.Event()
    asker.ask("a", headers={**HEADERS, "X-Rate-Limit-Limit": "100", "X-Rate-Limit-Remaining": "99"}, held=held)
    asker.ask("b")
    asker.ask("c")
    await clock.turn(0.1)
    held.set()
    await clock.turn(5)
    assert asker.passed == [(0, "a"), (0.75, "b"), (1.5, "c")]
    assert asker.limiter.spacing_s() == 0.75


async def test_a_lower_limit_slows_the_pace(asker: Asker, clock: TurnedClock) -> None:
    """Five a minute announced: four polls a minute."""
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
async def test_absurd_headers_change_nothing(asker: Asker, clock: TurnedClock, headers: dict[str, str]) -> None:
    """What cannot be a limit is no limit."""
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
async def test_nothing_is_sent_in_a_penalty_anyone_who_asks(
    asker: Asker, clock: TurnedClock, headers: Callable[[TurnedClock], dict[str, str]], seconds: float
) -> None:
    """A 429 silences polls, pages and the call log alike until its time has passed; then all go on."""
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


async def test_after_a_penalty_one_goes_ahead(asker: Asker, clock: TurnedClock) -> None:
    """The first answer tells whether the penalty is over; until then the others wait."""
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


async def test_penalties_without_a_word_grow(asker: Asker, clock: TurnedClock) -> None:
    """Refused again right after it: 30, 60, 120 s and no longer; a success begins anew at 30."""
    held_s: list[float] = []
    for i, status in enumerate((429, 429, 429, 429, 200, 429)):
        asker.ask(str(i), "page", status=status)
        await clock.settle()
        held_s.append(asker.limiter.hold_s())
        await clock.turn(asker.limiter.hold_s())
    assert held_s == [31, 61, 121, 121, 0, 31]


async def test_a_told_penalty_is_doubled_at_most(asker: Asker, clock: TurnedClock) -> None:
    """Refused again after waiting as long as told: another program keeps the penalty alive; wait it out."""
    held_s: list[float] = []
    for i in range(4):
        asker.ask(str(i), "page", status=429, headers={"Retry-After": "60"})
        await clock.settle()
        held_s.append(asker.limiter.hold_s())
        await clock.turn(asker.limiter.hold_s())
    assert held_s == [61, 121, 121, 121]


async def test_several_refused_at_once_are_one_penalty(asker: Asker, clock: TurnedClock) -> None:
    """Those already under way when the 429 came do not make it longer than the last of them says."""
    held = asyncio.Event()
    for i in range(5):
        asker.ask(str(i), "page", status=429, headers={"Retry-After": "60"}, held=held)
    await clock.settle()
    held.set()
    await clock.settle()
    assert asker.limiter.hold_s() == 61


async def test_a_later_wish_does_not_shorten_a_penalty(asker: Asker, clock: TurnedClock) -> None:
    """One that was under way comes back with less to wait: the longer silence stands."""
    held = asyncio.Event()
    asker.ask("a", "page", status=429, headers={"Retry-After": "5"}, held=held)
    asker.ask("b", "page", status=429, headers={"Retry-After": "60"})
    await clock.settle()
    held.set()
    await clock.settle()
    assert asker.limiter.hold_s() == 61


async def test_a_503_with_a_wish_is_granted(asker: Asker, clock: TurnedClock) -> None:
    """503 with Retry-After holds everything for so long, at most an hour; 503 without holds nothing."""
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


async def test_other_programs_are_felt_and_forgotten(asker: Asker, clock: TurnedClock) -> None:
    """Remaining is lower than our own use explains: the pace gives way, and recovers within minutes."""
    asker.ask("a", headers={**HEADERS, "X-Rate-Limit-Remaining": "5"})
    await clock.settle()
    assert asker.limiter.spacing_s() == 60 / (10 - 4 - 2 - 1)
    await clock.turn(181)
    asker.ask("b", headers={**HEADERS, "X-Rate-Limit-Remaining": "9"})
    await clock.settle()
    assert asker.limiter.spacing_s() == 7.5


async def test_one_request_a_window_is_always_ours(asker: Asker, clock: TurnedClock) -> None:
    """However much others use, polling never stops for good."""
    asker.ask("a", headers={**HEADERS, "X-Rate-Limit-Remaining": "0"})
    asker.ask("b")
    await clock.turn(180)
    assert asker.names == ["a", "b"]


@pytest.mark.parametrize("jump_s", [0, -3600, 90_000])
async def test_a_penalty_is_remembered_over_a_restart(clock: TurnedClock, jump_s: int) -> None:
    """Killed in a penalty, the next process is silent for what is left of it, wherever the wall clock went."""
    notes: list[bytes] = []
    asker = Asker(make_budget(clock, keep=lambda b: notes.append(b.dump())), clock)
    asker.ask("a", status=429, headers={"Retry-After": "60"})
    await clock.turn(20)
    clock.wall_offset = timedelta(seconds=jump_s)
    again = Asker(make_budget(clock, kept=notes[-1]), clock)
    left_s = {0: 41, -3600: 61, 90_000: 0}[jump_s]
    assert again.limiter.hold_s() == pytest.approx(left_s)
    again.ask("b", "page")
    await clock.turn(left_s - 0.5)
    assert again.names == ([] if left_s else ["b"])
    await clock.turn(1)
    assert again.names == ["b"]


async def test_the_window_is_remembered_over_a_restart(clock: TurnedClock) -> None:
    """A process that is restarted every second cannot send more than the limit in a minute."""
    kept: bytes | None = None
    passed: list[float] = []
    for _ in range(70):
        notes: list[bytes] = []
        asker = Asker(make_budget(clock, kept=kept, keep=lambda b, notes=notes: notes.append(b.dump())), clock)
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


async def test_what_was_under_way_when_it_was_killed_counts(clock: TurnedClock) -> None:
    """A request whose answer no one was left to hear has been counted by the platform."""
    asker = Asker(make_budget(clock), clock)
    for i in range(10):
        asker.ask(str(i), "page", held=asyncio.Event())
    await clock.settle()
    again = Asker(make_budget(clock, kept=asker.limiter.dump()), clock)
    again.ask("next", "page")
    await clock.turn(60)
    assert again.names == []
    await clock.turn(5)
    assert again.names == ["next"]
    for task in asker.tasks.values():
        task.cancel()


async def test_a_penalty_that_is_still_on_is_shown_at_once(clock: TurnedClock) -> None:
    """After a restart the metric says why nothing is asked."""
    asker = Asker(make_budget(clock), clock)
    asker.ask("a", status=429, headers={"Retry-After": "60"})
    await clock.settle()
    shown: list[float] = []
    make_budget(clock, kept=asker.limiter.dump(), show=lambda limiter: shown.append(limiter.hold_s()))
    assert shown == [61]


@pytest.mark.parametrize("kept", [b"", b"{}", b"nonsense", b'{"at":"x"}', b"\xff"])
async def test_what_cannot_be_read_of_an_earlier_run_is_dropped(clock: TurnedClock, kept: bytes) -> None:
    """Notes of another version never stop the service."""
    assert make_budget(clock, kept=kept).hold_s() == 0


async def test_what_is_kept_is_small(clock: TurnedClock) -> None:
    """At a thousand requests a second, too."""
    limiter = make_budget(clock, per_minute=60_000, headroom=1)
    asker = Asker(limiter, clock)
    for i in range(3000):
        asker.ask(str(i), "page")
    await clock.turn(30)
    assert len(asker.passed) == 3000
    assert len(limiter.dump()) < 1000


async def test_nothing_is_left_running_when_no_one_waits(asker: Asker, clock: TurnedClock) -> None:
    """The alarm exists only while somebody waits: a client that is dropped leaves no task."""
    asker.ask("a")
    waiting = asker.ask("b")
    await clock.turn(1)
    waiting.cancel()
    await clock.settle()
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.parametrize("status", [403, 408, 500, 502])
@pytest.mark.parametrize("wish", ["99999999", "Fri, 31 Dec 9999 23:59:59 GMT"])
async def test_no_wish_is_granted_for_longer_than_an_hour(limiter: RateLimiter, status: int, wish: str) -> None:
    """Whatever the answer that carries it: an absurd Retry-After must not blind a source until a restart."""
    async with limiter.acquire("poll", "a") as slot:
        wait_s = slot.answered(status, {"Retry-After": wish})
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
    limiters["heavy"] = make_budget(clock, groups=limiters)
    limiters["light"] = make_budget(clock, group="light", per_minute=50, headroom=0.5, groups=limiters)
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
    asker = Asker(make_budget(clock, group="auth", per_minute=5, headroom=0.5, ceiling=4), clock)
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
