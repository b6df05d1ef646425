"""The truth about calls, on some random histories; `make fuzz` plays many more (tests/unit/calls/fuzz.py)."""

import pytest

from tests.effort import tries
from tests.unit.calls.fuzz import play

HISTORIES = tries(100, 10_000)
CHUNKS = 4


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_the_events_are_what_happened(chunk: int) -> None:
    """One end for each call ever seen, states only forward, no gap, nothing invented, ids equal over restarts."""
    size = HISTORIES // CHUNKS
    for seed in range(chunk * size, (chunk + 1) * size):
        play(seed)
