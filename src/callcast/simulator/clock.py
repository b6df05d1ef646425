"""The platform's clock, which runs at any speed and can be turned."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Annotated, Protocol

from msgspec import Meta

# Those that a scenario, a fault or the control interface gives. Far longer times would leave the calendar.
Seconds = Annotated[float, Meta(ge=0, le=1e9)]
Turned = Annotated[float, Meta(ge=-1e9, le=1e9)]


class Time(Protocol):
    """A clock of the platform; `callcast.ports.clock.Clock` is one, too."""

    def now(self) -> datetime: ...


class SimulatedClock:
    """Starts at `start` and runs `speed` times as fast as this machine's clock; at speed 0 only `turn` moves it."""

    def __init__(
        self, start: datetime | None = None, speed: float = 1.0, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._start = start or datetime.now(UTC)
        self.speed = speed
        self._monotonic = monotonic
        self._zero = monotonic()
        self._turned_s = 0.0
        self.on_turn: list[Callable[[], None]] = []

    def now(self) -> datetime:
        passed_s = (self._monotonic() - self._zero) * self.speed + self._turned_s
        return self._start + timedelta(seconds=passed_s)

    def turn(self, seconds: float) -> None:
        """Move the clock, forwards or backwards."""
        self._turned_s += seconds
        for turned in self.on_turn:
            turned()


def iso(moment: datetime) -> str:
    """A time as the platform writes it: UTC with milliseconds and Z."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def http_date(moment: datetime) -> str:
    """A time as in a `Date` header."""
    return format_datetime(moment.astimezone(UTC), usegmt=True)
