"""kill -9, a hundred times in `make test`; `python -m tests.system.kills N` as often as one likes."""

from pathlib import Path

import pytest

from tests.system.kills import kill


@pytest.mark.parametrize("seed", [1, 2])
async def test_nothing_is_lost_by_fifty_kills(tmp_path: Path, seed: int) -> None:
    """At every step between poll and settlement, and at random: all arrives at all sinks, equal ids, in order."""
    print(await kill(tmp_path, 50, seed))
