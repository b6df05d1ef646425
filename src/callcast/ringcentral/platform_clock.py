"""The platform's time: this machine's steady clock, put right by the Date header of the platform's answers."""

from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from callcast.core.clock import Clock

DATE_RESOLUTION_S = 1.0  # a Date header holds whole seconds, rounded down
SLOWED = 0.5  # how fast time passes while it is ahead of the platform's


class PlatformClock:
    """Right from the first Date header on. Afterwards `now()` never jumps back: where it turns out to be ahead, it
    walks at half speed until it is right.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offset_s = clock.now().timestamp() - clock.monotonic()
        self._heard = False
        self._told: tuple[float, float] | None = None  # steady clock, and the time that was told then

    def now(self) -> datetime:
        steady = self._clock.monotonic()
        seconds = steady + self._offset_s
        if self._told is not None:
            then, told = self._told
            seconds = max(seconds, told + (steady - then) * SLOWED)
        self._told = (steady, seconds)
        return datetime.fromtimestamp(0, UTC) + timedelta(seconds=seconds)

    def heard(self, date: str | None, *, asked_at: float, answered_at: float) -> None:
        """A Date header, and when (on the steady clock) the request left and its answer came.

        The platform wrote it between the two, so only a difference beyond the round trip and the header's own
        resolution is skew; the smallest correction that explains the header is made.
        """
        try:
            written = parsedate_to_datetime(date).timestamp() if date else None
        except (ValueError, TypeError, OverflowError):
            return
        if written is not None:
            if not self._heard:  # nothing has been seen yet that an earlier time could contradict
                self._heard, self._told = True, None
            earliest, latest = written - answered_at, written + DATE_RESOLUTION_S - asked_at
            self._offset_s = min(max(self._offset_s, earliest), latest)
