"""Hints change when calls are seen, never how they end; `make fuzz` plays many more (tests/unit/polling/hinted.py)."""

import pytest

from tests.effort import tries
from tests.unit.polling.hinted import play

HISTORIES = tries(40, 2_000)
CHUNKS = 4


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_calls_end_with_mangled_hints_as_without_any(chunk: int) -> None:
    """The same ends, by id and disposition, and no event out of order, whatever happens to the hints."""
    size = HISTORIES // CHUNKS
    for seed in range(chunk * size, (chunk + 1) * size):
        play(seed)


@pytest.mark.parametrize(
    "seed",
    [
        211,  # the last poll was too long ago, although presence was read
        719,  # the first poll failed, and the connection came up after it
        9266,  # a second call of the extension in the session, before the list shows the first as ended
    ],
)
def test_histories_that_once_ended_differently(seed: int) -> None:
    play(seed)
