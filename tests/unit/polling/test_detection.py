"""What hints bring, and what it costs when they are wrong: a few hours of the simulation of `bench.hinted`."""

import pytest

from bench.hinted import ACCOUNT, GOALS, ONE, TEN, Scenario, figures
from tests.effort import tries

SEEDS = range(tries(2, 6))
HOURS = 2.0
BY_NAME = {row.scenario.name: row for row in GOALS}


@pytest.mark.parametrize("scenario", [ONE, TEN, ACCOUNT], ids=lambda scenario: scenario.name)
def test_calls_are_seen_as_soon_as_promised(scenario: Scenario) -> None:
    """Mean seconds after it happened. A few hours scatter more than the three days of the benchmark."""
    goals = BY_NAME[scenario.name].goals
    found = figures(scenario, HOURS, SEEDS, hinted=True)
    assert goals is not None
    assert all(mean < 1.5 * goal for mean, goal in zip(found.means, goals, strict=True)), found.means
    assert found.refused == 0


@pytest.mark.parametrize(
    "name",
    [
        "10 extensions, every hint lost",
        "one of ten rings 30 times a minute",
        "hints that never come true, 20 an hour",
        "a ring group of ten, 12 calls an hour",
        "one of ten is mute",
    ],
)
def test_wrong_hints_make_nothing_worse_than_no_hints(name: str) -> None:
    row = BY_NAME[name]
    without = figures(row.scenario, HOURS, SEEDS, hinted=False)
    found = figures(row.scenario, HOURS, SEEDS, hinted=True)
    assert all(mean < 1.3 * before for mean, before in zip(found.means, without.means, strict=True)), found.means
    assert found.refused == 0
    assert row.longest_gap_s is None or found.longest_gap_s < 1.05 * row.longest_gap_s
