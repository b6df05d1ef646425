"""The polling plan: how often each target is looked at by the rate limit that is configured."""

import pytest

from callcast.ringcentral.rate_limiter import RateLimiter
from callcast.ringcentral.settings import Plan, SourceSettings, plan, plan_fix
from tests.clock import TurnedClock


def source(count: int = 1, **more: object) -> SourceSettings:
    extensions = [str(number) for number in range(100, 100 + count)]
    return SourceSettings.model_validate(
        {"client_id": "a", "client_secret": "b", "jwt": "c", "extensions": extensions} | more
    )


def test_an_account_watch_polls_every_seven_and_a_half_seconds() -> None:
    """Eight of ten requests a minute, one request for everything."""
    got = plan("acme", source(50, watch="account"))
    assert got == Plan(
        source="acme",
        watch="account",
        extensions=None,
        interval_s=None,
        cycle_s=7.5,
        requests_per_minute=8,
        polls_per_minute=10,
        ways=("push",),
        quiet_s=95,
        witnessed_s=None,
        presence_s=5,
    )


@pytest.mark.parametrize(
    ("given", "watch", "ways"),
    [
        ("auto", "extensions", ("push", "presence")),
        ("auto", "account", ("push",)),
        ("push", "extensions", ("push",)),
        ("presence", "extensions", ("presence",)),
        ("presence", "account", ()),
        ("off", "extensions", ()),
    ],
)
def test_ways_of_hints(given: str, watch: str, ways: tuple[str, ...]) -> None:
    assert source(hints=given, watch=watch).ways == ways


def test_with_hints_a_quiet_target_is_polled_less_often() -> None:
    """Never more often than the rate limit allows, nor less often than the configured interval."""
    shown = [plan("acme", source(n, **more)) for n, more in ((1, {}), (13, {}), (18, {"accept_blind_spots": True}))]
    assert [(one.quiet_s, one.witnessed_s) for one in shown] == [(95, 300), (97.5, 300), (135, 300)]
    slow, fast = plan("acme", source(poll_interval_s=200)), plan("acme", source(poll_interval_s=20))
    assert [(one.quiet_s, one.witnessed_s) for one in (slow, fast)] == [(200, 200), (20, 20)]


def test_presence_of_too_many_extensions_is_not_read() -> None:
    planned = [plan("acme", source(n)) for n in (60, 61, 360, 361)]
    assert [one.presence_s for one in planned] == pytest.approx([5, 7.2, 28.8, 31.2])
    assert [one.witnessed_s is None for one in planned] == [False, False, False, True]
    assert "361 extensions" in source(361, hints="presence").warnings()[0][1]
    assert source(1, watch="account", hints="presence").warnings()[-1][0] == "hints"


@pytest.mark.parametrize(
    ("count", "cycle_s", "blind"), [(1, 7.5, False), (5, 37.5, False), (13, 97.5, False), (14, 105, True)]
)
def test_extensions_take_turns(count: int, cycle_s: float, blind: bool) -> None:
    """Each extension waits for all others; fourteen on one credential can miss calls."""
    got = plan("acme", source(count))
    assert (got.cycle_s, got.delay_s, got.blind, got.extensions) == (cycle_s, cycle_s, blind, count)
    assert got.requests_per_minute == pytest.approx(8)


def test_an_interval_is_slowed_down_by_the_budget() -> None:
    """A wish that the rate limit does not allow is not granted; a slower one is."""
    assert plan("acme", source(poll_interval_s=1)).cycle_s == 7.5
    assert plan("acme", source(4, poll_interval_s=60)).cycle_s == 60
    assert plan("acme", source(4, poll_interval_s=60)).requests_per_minute == pytest.approx(4)
    assert plan("acme", source(poll_interval_s=0.1, heavy_per_minute=1000, headroom=1)).cycle_s == pytest.approx(0.1)


def test_one_place_in_five_is_never_planned_for_polls() -> None:
    """Whatever `headroom` says; of a small limit it is one place at least. The plan says what the budget will do."""
    clock = TurnedClock()
    for limit in (1, 2, 3, 5, 10, 100):
        planned = plan("acme", source(headroom=1.0, heavy_per_minute=limit))
        limiter = RateLimiter("heavy", per_minute=limit, headroom=1.0, clock=clock, now=clock.now)
        assert planned.cycle_s == pytest.approx(limiter.spacing_s())
        assert planned.requests_per_minute <= 0.8 * limit + 1e-9
        assert limit == 1 or planned.requests_per_minute <= limit - 1 + 1e-9


def test_more_headroom_than_polling_may_use_is_warned_of() -> None:
    """It works, and does not do what it says."""
    [(key, problem, fix)] = source(headroom=0.9).warnings()
    assert (key, fix) == ("headroom", "set it to 0.8 or less")
    assert "80%" in problem
    assert source(headroom=0.8).warnings() == []


def test_the_fix_fits_the_cause() -> None:
    """Too many extensions, too long an interval, too low a limit: each finding names the key that causes it."""
    key, fix = plan_fix(source(40))
    assert key == "extensions"
    assert 'watch = "account"' in fix
    assert "over 4 credentials" in fix
    assert "at most 13" in fix
    assert "headroom" in plan_fix(source(heavy_per_minute=0.5, headroom=0.5))[1]
    assert "headroom" not in plan_fix(source(heavy_per_minute=0.5))[1]
    assert plan_fix(source(poll_interval_s=101))[0] == "poll_interval_s"
    assert plan_fix(source(heavy_per_minute=0.5))[0] == "heavy_per_minute"
    assert plan_fix(source(watch="account", heavy_per_minute=0.5))[0] == "heavy_per_minute"


@pytest.mark.parametrize("count", [14, 27, 100, 999])
def test_the_remedy_helps(count: int) -> None:
    """A source with as many extensions as the fix allows misses no call, and so many sources hold them all."""
    words = plan_fix(source(count))[1].split()
    most, sources = int(words[words.index("most") + 1]), int(words[words.index("over") + 1])
    assert not plan("acme", source(most)).blind
    assert plan("acme", source(most + 1)).blind
    assert most * sources >= count > most * (sources - 1)
