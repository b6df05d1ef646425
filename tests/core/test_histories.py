"""The truth about calls, on ten thousand random histories (see tests/core/fuzz.py, also `make fuzz`)."""

import pytest

from tests.core.fuzz import play

HISTORIES = 10_000
CHUNKS = 20


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_what_is_told_is_what_happened(chunk: int) -> None:
    """One end for each call ever seen, states only forward, no gap, nothing invented, ids equal over restarts."""
    size = HISTORIES // CHUNKS
    for seed in range(chunk * size, (chunk + 1) * size):
        play(seed)
