"""Hints change when calls are seen, never how they end; `make fuzz` plays many more (tests/unit/polling/hinted.py)."""

import pytest

from tests.effort import tries
from tests.unit.polling.hinted import play

HISTORIES = tries(200, 2_000)
CHUNKS = 4


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_calls_end_with_mangled_hints_as_without_any(chunk: int) -> None:
    """The same ends, by id and disposition, and no event out of order, whatever happens to the hints."""
    size = HISTORIES // CHUNKS
    for seed in range(chunk * size, (chunk + 1) * size):
        play(seed)
