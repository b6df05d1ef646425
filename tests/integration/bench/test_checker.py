"""The bench's checker finds each fault that it is there for."""

import math

from bench.checker import check, delays
from bench.records import STEPS

# Two calls, ringing and answered each; the second call's answer was never shown.
TRUTH = {
    0 * STEPS + 0: (10.0, 10.5),
    0 * STEPS + 1: (12.0, 12.25),
    1 * STEPS + 0: (11.0, 11.5),
    1 * STEPS + 1: (13.0, 0.0),
}
GOOD = [(10.6, 0 * STEPS), (11.7, 1 * STEPS), (12.35, 0 * STEPS + 1)]


def test_what_came_whole_has_no_fault() -> None:
    """Nothing is counted against a run in which each shown change came once, in order."""
    found = check(TRUTH, GOOD)
    assert (found.changes, found.lost, found.doubled, found.disordered, found.invented) == (3, 0, 0, 0, 0)


def test_a_change_that_was_shown_and_did_not_come_is_lost() -> None:
    """One that no answer has shown is not."""
    assert check(TRUTH, GOOD[:2]).lost == 1


def test_a_change_that_came_again_is_doubled() -> None:
    """Its delay stays that of the first receipt."""
    found = check(TRUTH, [*GOOD, (20.0, 1 * STEPS)])
    assert (found.doubled, found.lost) == (1, 0)
    assert found.from_shown.longest < 250


def test_an_earlier_step_after_a_later_one_is_out_of_order() -> None:
    """Only within a call: calls among themselves have no order."""
    assert check(TRUTH, [GOOD[2], GOOD[0], GOOD[1]]).disordered == 1
    assert check(TRUTH, [GOOD[1], GOOD[0], GOOD[2]]).disordered == 0


def test_what_was_never_shown_is_invented() -> None:
    """A call that is not in the truth, and a change that no answer has shown yet."""
    assert check(TRUTH, [*GOOD, (14.0, 7 * STEPS), (14.0, 1 * STEPS + 1)]).invented == 2


def test_delays_are_from_the_change_and_from_the_answer_that_shows_it() -> None:
    """In milliseconds."""
    found = check(TRUTH, GOOD)
    assert (round(found.from_shown.p50), round(found.from_change.p50)) == (100, 600)


def test_only_changes_since_a_moment_count() -> None:
    """What was changed while the participant warmed up is left out."""
    found = check(TRUTH, GOOD, since=10.9)
    assert found.changes == 2
    assert found.invented == 0


def test_what_never_came_took_for_ever() -> None:
    """And not no time at all."""
    assert check(TRUTH, []).from_shown.p50 == math.inf


def test_percentiles_are_values_that_were_measured() -> None:
    """The hundredth of hundred is the longest."""
    found = delays([number / 1000 for number in range(1, 101)])
    assert (round(found.p50), round(found.p95), round(found.p99), round(found.longest)) == (51, 96, 100, 100)
