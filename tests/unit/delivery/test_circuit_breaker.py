"""How a sink's remote side does, by the outcomes of its attempts."""

from datetime import timedelta

import pytest

from callcast.delivery.circuit_breaker import CircuitBreaker
from callcast.ports.sink import Delivery
from tests.builders import NINE, event

SECOND = timedelta(seconds=1)


def delivery(name: str = "a", *, first_tried_s: float | None = None) -> Delivery:
    tried = None if first_tried_s is None else NINE + first_tried_s * SECOND
    return Delivery(sink="crm", seq=1, event=event(name), attempt=1, recorded_at=NINE, first_tried_at=tried)


def test_five_in_a_row() -> None:
    """Five failures in a row make it failing, one success makes it healthy."""
    health = CircuitBreaker()
    for _ in range(4):
        health.failed(delivery(), counted_before=health.counted, gone=False)
    health.succeeded(delivery(), NINE)
    for _ in range(5):
        assert not health.failing
        health.failed(delivery(), counted_before=health.counted, gone=False)
    assert health.failing
    health.succeeded(delivery(), NINE)
    assert not health.failing


def test_failures_that_overlap_count_as_one() -> None:
    """An attempt counts that began after the last counted failure, so a chain of overlaps does not count as one."""
    health = CircuitBreaker()
    before = health.counted
    for _ in range(20):
        health.failed(delivery(), counted_before=before, gone=False)
    assert (health.failures, health.failing) == (1, False)
    for _ in range(4):
        chained = health.counted
        health.failed(delivery(), counted_before=chained, gone=False)
        health.failed(delivery(), counted_before=chained, gone=False)
    assert (health.failures, health.failing) == (5, True)


def test_what_fails_late_does_not_count_again_after_a_success() -> None:
    """Its cause was counted, and the success in between has ended that."""
    health = CircuitBreaker()
    before = health.counted
    health.failed(delivery(), counted_before=before, gone=False)
    health.succeeded(delivery(), NINE)
    health.failed(delivery(), counted_before=before, gone=False)
    assert health.failures == 0


def test_in_doubt_once_two_calls_have_failed() -> None:
    """One event that is refused again and again is its own trouble; a success ends every doubt."""
    health = CircuitBreaker()
    for _ in range(3):
        health.failed(delivery("a"), counted_before=health.counted, gone=False)
    assert not health.in_doubt
    health.succeeded(delivery("b"), NINE)
    health.failed(delivery("c"), counted_before=health.counted, gone=False)
    assert not health.in_doubt
    health.failed(delivery("d"), counted_before=0, gone=False)
    assert (health.in_doubt, health.failing) == (True, False)
    health.succeeded(delivery("b"), NINE + SECOND)
    assert not health.in_doubt
    for name in ("c", "d"):
        health.failed(delivery(name, first_tried_s=0), counted_before=0, gone=False)
    assert not health.in_doubt, "another call's event was accepted since: it is their own trouble"


def test_gone() -> None:
    """Gone is failing at once, and ends with the next other answer, while failing goes on."""
    health = CircuitBreaker()
    health.failed(delivery(), counted_before=health.counted, gone=True)
    assert (health.failing, health.gone) == (True, True)
    health.failed(delivery(), counted_before=health.counted, gone=False)
    assert (health.failing, health.gone) == (True, False)


def test_a_hold_is_never_shortened() -> None:
    """A later wish for a shorter pause does not end the one that holds."""
    health = CircuitBreaker()
    health.hold(NINE + 60 * SECOND)
    health.hold(NINE + 10 * SECOND)
    assert health.held_for_s(NINE) == 60
    assert health.held_for_s(NINE + 61 * SECOND) < 0


@pytest.mark.parametrize(
    ("successes", "proven"),
    [
        ([], False),
        ([("b", 4)], False),
        ([("b", 5)], False),
        ([("b", 6)], True),
        ([("a", 6)], False),
        ([("b", 6), ("a", 7)], True),
        ([("b", 6), ("a", 7), ("a", 8)], True),
        ([("b", 4), ("a", 6)], False),
        ([("a", 6), ("c", 4)], False),
    ],
)
def test_accepted_another_since(successes: list[tuple[str, float]], proven: bool) -> None:
    """Only a success of another call after this one's first attempt proves that the fault is the event's."""
    health = CircuitBreaker()
    for name, at_s in successes:
        health.succeeded(delivery(name), NINE + at_s * SECOND)
    assert health.accepted_another_since(delivery("a", first_tried_s=5)) is proven
    assert not health.accepted_another_since(delivery("a"))
