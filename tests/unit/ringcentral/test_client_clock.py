"""The platform's time, from its Date headers."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callcast.ringcentral.platform_clock import PlatformClock
from tests.clock import TurnedClock


def date(at: datetime) -> str:
    return format_datetime(at.astimezone(UTC).replace(microsecond=0), usegmt=True)


async def test_a_date_that_agrees_changes_nothing() -> None:
    """Within its second and the round trip there is no skew to see."""
    clock = TurnedClock()
    ours = PlatformClock(clock)
    await clock.turn(0.999)
    ours.update(date(clock.now()), asked_at=0.9, answered_at=0.999)
    assert ours.now() == clock.now()


@pytest.mark.parametrize("skew_s", [-7200, -3, 3, 7200])
async def test_skew_is_taken_out(skew_s: float) -> None:
    """A machine whose clock is off by minutes knows the platform's time, to a second and the round trip."""
    clock = TurnedClock()
    ours = PlatformClock(clock)
    ours.update(date(clock.now() + timedelta(seconds=skew_s)), asked_at=0, answered_at=0)
    assert abs((ours.now() - clock.now()).total_seconds() - skew_s) <= 1


@pytest.mark.parametrize("skew_s", [-7200, 7200])
async def test_the_first_date_puts_it_right_at_once(skew_s: float) -> None:
    """Also after a time was read: nothing has been seen yet that an earlier time could contradict."""
    clock = TurnedClock()
    ours = PlatformClock(clock)
    ours.now()
    await clock.turn(10)
    ours.update(date(clock.now() + timedelta(seconds=skew_s)), asked_at=10, answered_at=10)
    assert abs((ours.now() - clock.now()).total_seconds() - skew_s) <= 1


async def test_our_time_never_jumps_back() -> None:
    """Found to be ahead after a first answer, it walks at half speed until the platform has caught up."""
    clock = TurnedClock()
    ours = PlatformClock(clock)
    ours.update(date(clock.now()), asked_at=0, answered_at=0)
    before = ours.now()
    ours.update(date(clock.now() - timedelta(seconds=60)), asked_at=0, answered_at=0)
    assert ours.now() == before
    await clock.turn(60)
    assert ours.now() - before == timedelta(seconds=30)
    await clock.turn(120)
    assert abs((clock.now() - ours.now()).total_seconds() - 60) <= 1


async def test_this_machines_clock_may_jump() -> None:
    """The wall clock set by hours changes nothing: only the steady clock is followed."""
    clock = TurnedClock()
    ours = PlatformClock(clock)
    before = ours.now()
    clock.wall_offset = timedelta(hours=-5)
    await clock.turn(10)
    assert ours.now() - before == timedelta(seconds=10)


@pytest.mark.parametrize("text", [None, "", "yesterday", "Tue, 99 Jan 2021 00:00:00 GMT", "Tue", "\x00"])
async def test_an_unreadable_date_is_ignored(text: str | None) -> None:
    """A header that is no date is no reason for anything."""
    clock = TurnedClock()
    ours = PlatformClock(clock)
    ours.update(text, asked_at=0, answered_at=0)
    assert ours.now() == clock.now()


DAY_S = 86_400


@pytest.mark.parametrize("skew_s", [-DAY_S, DAY_S, 40 * 365 * DAY_S])
async def test_a_single_odd_date_moves_nothing(skew_s: float) -> None:
    """A cache or a proxy that dates one answer a day off times out no calls."""
    clock = TurnedClock()
    ours = PlatformClock(clock)
    for odd_s in (0, skew_s, 0, skew_s, 0):
        ours.update(date(clock.now() + timedelta(seconds=odd_s)), asked_at=0, answered_at=0)
        assert ours.now() == clock.now()


@pytest.mark.parametrize("skew_s", [DAY_S, 400 * DAY_S])
async def test_a_date_that_the_next_one_confirms_counts(skew_s: float) -> None:
    """A machine that slept, or one whose clock was never set, is put right with the second answer."""
    clock = TurnedClock()
    ours = PlatformClock(clock)
    if skew_s == DAY_S:
        ours.update(date(clock.now()), asked_at=0, answered_at=0)
    for _ in range(2):
        await clock.turn(5)
        at = clock.monotonic()
        ours.update(date(clock.now() + timedelta(seconds=skew_s)), asked_at=at, answered_at=at)
    assert abs((ours.now() - clock.now()).total_seconds() - skew_s) <= 1


@pytest.mark.parametrize("text", ["Fri, 31 Dec 9999 23:59:59 GMT", "Fri, 01 Jan 1971 00:00:00 GMT"])
async def test_a_date_of_another_age_is_ignored_however_often_it_comes(text: str) -> None:
    """Sums with it would leave the calendar."""
    clock = TurnedClock()
    ours = PlatformClock(clock)
    for _ in range(3):
        ours.update(text, asked_at=0, answered_at=0)
        await clock.turn(10)
    assert ours.now() == clock.now()


events = st.lists(st.tuples(st.floats(0, 100), st.floats(-500, 500), st.floats(0, 20)), max_size=30)


@given(events)
def test_time_only_goes_forward(story: list[tuple[float, float, float]]) -> None:
    """Whatever the platform's clock does and however slow its answers are, our time never goes back after the first."""
    clock = TurnedClock()
    ours = PlatformClock(clock)
    ours.update(date(clock.now()), asked_at=0, answered_at=0)
    last = ours.now()
    for passed_s, skew_s, took_s in story:
        clock._passed_s += passed_s + took_s
        written = clock.now() + timedelta(seconds=skew_s - took_s)
        ours.update(date(written), asked_at=clock.monotonic() - took_s, answered_at=clock.monotonic())
        assert ours.now() >= last
        last = ours.now()


@given(st.floats(-1000, 1000), st.lists(st.tuples(st.floats(0, 30), st.floats(0, 1), st.floats(0, 5)), min_size=1))
def test_many_answers_never_make_it_worse(skew_s: float, story: list[tuple[float, float, float]]) -> None:
    """The platform's true time lies within a second and the best round trip of ours, from the first answer on."""
    clock = TurnedClock()
    ours = PlatformClock(clock)
    best_s = 1000.0
    for passed_s, share, round_trip_s in story:
        clock._passed_s += passed_s + round_trip_s
        answered_at = clock.monotonic()
        written_at = answered_at - round_trip_s * share
        written = clock.now() - timedelta(seconds=round_trip_s * share) + timedelta(seconds=skew_s)
        assert written_at <= answered_at
        ours.update(date(written), asked_at=answered_at - round_trip_s, answered_at=answered_at)
        best_s = min(best_s, round_trip_s)
        off_s = ours._offset_s - (clock._start.timestamp() + skew_s)
        assert abs(off_s) <= 1.000_01 + best_s
