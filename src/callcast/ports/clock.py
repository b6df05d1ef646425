"""What time promises. Clocks are made in `app`, and passed in; tests turn theirs by hand."""

from datetime import datetime
from typing import Protocol


class Clock(Protocol):
    def now(self) -> datetime:
        """UTC that never jumps: the wall's time at start plus what has passed since, also while the machine was
        suspended. For order and times to live."""
        ...

    def wall(self) -> datetime:
        """UTC as this machine believes it now; may jump. For what others compare with their own clock."""
        ...

    def monotonic(self) -> float:
        """Seconds that only ever grow, also while the machine is suspended; the zero means nothing."""
        ...

    async def sleep(self, seconds: float, /) -> None:
        """Time while the machine is suspended counts: return soon after it is resumed if `seconds` are over."""
        ...
