from datetime import UTC, datetime

import pytest

from callcast.simulator import SimulatedClock

START = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)


@pytest.fixture
def clock() -> SimulatedClock:
    """A clock that only a hand moves."""
    return SimulatedClock(START, speed=0)
