"""The platform's own time: it runs at any speed, and tests turn it by hand."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Protocol


class Time(Protocol):
    """All the fake platform wants of a clock; `core.clock.Clock` is one too."""

    def now(self) -> datetime: ...


class SimulatedClock:
    """Starts at `start` and runs `speed` times as fast as this machine; at speed 0 only `turn` moves it."""

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
        """Move the hands; backwards too, as a platform whose clock is set."""
        self._turned_s += seconds
        for turned in self.on_turn:
            turned()


def iso(moment: datetime) -> str:
    """As the platform writes times: UTC with milliseconds and Z."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def http_date(moment: datetime) -> str:
    """As the `Date` header writes them: whole seconds."""
    return format_datetime(moment.astimezone(UTC), usegmt=True)
