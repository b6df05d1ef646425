"""What time promises. Clocks are made in `app`, and passed in; tests turn theirs by hand."""

from datetime import datetime
from typing import Protocol


class Clock(Protocol):
    def now(self) -> datetime:
        """UTC that never jumps: the wall's time at start plus what has passed since. For order and shelf lives."""
        ...

    def wall(self) -> datetime:
        """UTC as this machine believes it now; may jump. For what others compare with their own clock."""
        ...

    def monotonic(self) -> float:
        """Seconds that only ever grow; the zero means nothing."""
        ...

    async def sleep(self, seconds: float, /) -> None: ...
