"""When to try again, and when to stop."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callcast.ports.retry import RetryPolicy, granted_s
from tests.builders import NINE

POLICY = RetryPolicy()
MIDDLE = 0.5


def test_delays_of_a_final_event() -> None:
    """1, 5, 30 s, 2, 5, 30 min, 2, 5, 10 h, and then every 12 h."""
    delays = [POLICY.delay_s(attempt, live=False, chance=MIDDLE) for attempt in range(1, 13)]
    hours = [3600.0 * n for n in (2, 5, 10, 12, 12, 12)]
    assert delays == pytest.approx([1, 5, 30, 120, 300, 1800, *hours])


def test_delays_of_a_live_event() -> None:
    """1, 2, 5, 10, 20 s, and then every 20 s."""
    delays = [POLICY.delay_s(attempt, live=True, chance=MIDDLE) for attempt in range(1, 8)]
    assert delays == pytest.approx([1, 2, 5, 10, 20, 20, 20])


@given(st.integers(1, 10_000), st.booleans(), st.floats(0, 1, exclude_max=True))
def test_jitter(attempt: int, live: bool, chance: float) -> None:
    """Every delay is off by 20 % at most, to either side, and never ends."""
    middle = POLICY.delay_s(attempt, live=live, chance=MIDDLE)
    assert 0.8 * middle <= POLICY.delay_s(attempt, live=live, chance=chance) <= 1.2 * middle


def test_jitter_reaches_both_sides() -> None:
    """Chance 0 gives the shortest delay, chance near 1 the longest."""
    assert POLICY.delay_s(3, live=False, chance=0) == pytest.approx(24)
    assert POLICY.delay_s(3, live=False, chance=0.999999) == pytest.approx(36, abs=0.01)


def test_times_to_live() -> None:
    """Live events are worth a minute, others 75 hours, unless the sink says otherwise; both from the same moment."""
    assert POLICY.expires_at(NINE, live=True) == NINE + timedelta(seconds=60)
    assert POLICY.expires_at(NINE, live=False) == NINE + timedelta(hours=75)
    other = RetryPolicy(live_ttl_s=5, give_up_after_h=0.5)
    assert other.expires_at(NINE, live=True) == NINE + timedelta(seconds=5)
    assert other.expires_at(NINE, live=False) == NINE + timedelta(minutes=30)


@pytest.mark.parametrize(("wish_s", "granted"), [(-5, 0), (0, 0), (90, 90), (3600, 3600), (86400, 3600)])
def test_granted(wish_s: float, granted: float) -> None:
    """A remote side's wish counts up to an hour; one in the past is none."""
    assert granted_s(wish_s) == granted
