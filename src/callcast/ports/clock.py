"""The clock protocol. `app` makes the clock and passes it in; tests pass a clock that they set themselves."""

from datetime import datetime
from typing import Protocol


class Clock(Protocol):
    def now(self) -> datetime:
        """UTC that never jumps: the wall clock at start plus the time since, including suspended time.

        For ordering and times to live.
        """
        ...

    def wall(self) -> datetime:
        """UTC by this machine's wall clock; may jump. For times that others compare with their own clock."""
        ...

    def monotonic(self) -> float:
        """Seconds from an arbitrary zero; never goes back, and counts suspended time."""
        ...

    async def sleep(self, seconds: float, /) -> None:
        """Wait. Suspended time counts: returns soon after the machine resumes if `seconds` have passed."""
        ...
