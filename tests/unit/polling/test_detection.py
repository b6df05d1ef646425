"""How soon calls are seen with hints, right and wrong ones: an hour or more of the simulation of `bench.hinted`."""

import pytest

from bench.hinted import ACCOUNT, GOALS, ONE, TEN, Scenario, figures
from tests.effort import tries

SEEDS = range(tries(2, 6))
BY_NAME = {row.scenario.name: row for row in GOALS}


@pytest.mark.parametrize("scenario", [ONE, TEN, ACCOUNT], ids=lambda scenario: scenario.name)
def test_calls_are_seen_as_soon_as_promised(scenario: Scenario) -> None:
    """Mean seconds after it happened. A few hours scatter more than the three days of the benchmark."""
    goals = BY_NAME[scenario.name].goals
    found = figures(scenario, 1.0, SEEDS, hinted=True)
    assert goals is not None
    assert all(mean < 1.5 * goal for mean, goal in zip(found.means, goals, strict=True)), found.means
    assert found.refused == 0


@pytest.mark.parametrize(
    ("name", "hours"),
    [
        ("10 extensions, every hint lost", 2.0),
        ("one of ten rings 30 times a minute", 1.0),
        ("hints that never come true, 20 an hour", 1.0),
        ("a ring group of ten, 12 calls an hour", 1.0),
        ("one of ten is mute", 1.0),
    ],
)
def test_wrong_hints_make_nothing_worse_than_no_hints(name: str, hours: float) -> None:
    row = BY_NAME[name]
    without = figures(row.scenario, hours, SEEDS, hinted=False)
    found = figures(row.scenario, hours, SEEDS, hinted=True)
    assert all(mean < 1.3 * before for mean, before in zip(found.means, without.means, strict=True)), found.means
    assert found.refused == 0
    assert row.longest_gap_s is None or found.longest_gap_s < 1.05 * row.longest_gap_s
