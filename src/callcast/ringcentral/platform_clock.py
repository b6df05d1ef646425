"""The platform's time: this machine's steady clock, put right by the Date header of the platform's answers."""

from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from callcast.ports.clock import Clock

DATE_RESOLUTION_S = 1.0  # a Date header holds whole seconds, rounded down
SLOWED = 0.5  # how fast time passes while it is ahead of the platform's
JUMP_S = 300.0  # no clock drifts so far between two answers: such a Date counts once the next one agrees with it
FIRST_JUMP_S = 2 * 86_400.0  # the same for the first Date, since this machine's clock may be set wrong
EPOCH = datetime.fromtimestamp(0, UTC)
EARLIEST, LATEST = datetime(2000, 1, 1, tzinfo=UTC), datetime(3000, 1, 1, tzinfo=UTC)


class PlatformClock:
    """Right from the first Date header on. Afterwards `now()` never jumps back: where it turns out to be ahead, it
    walks at half speed until it is right. One odd Date (a cache, a proxy with a wrong clock) moves nothing.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offset_s = clock.now().timestamp() - clock.monotonic()
        self._heard = False
        self._doubted_s: float | None = None  # the offset of a Date that the next one has yet to confirm
        self._told: tuple[float, float] | None = None  # steady clock, and the time that was told then
        self._date: tuple[str | None, float | None] = (None, None)  # the last header, and what it says

    def now(self) -> datetime:
        steady = self._clock.monotonic()
        seconds = steady + self._offset_s
        if self._told is not None:
            then, told = self._told
            seconds = max(seconds, told + (steady - then) * SLOWED)
        self._told = (steady, seconds)
        return EPOCH + timedelta(seconds=seconds)

    def heard(self, date: str | None, *, asked_at: float, answered_at: float) -> None:
        """A Date header, and when (on the steady clock) the request left and its answer came.

        The platform wrote it between the two, so only a difference beyond the round trip and the header's own
        resolution is skew; the smallest correction that explains the header is made.
        """
        if date != self._date[0]:
            self._date = (date, _seconds(date))
        written = self._date[1]
        if written is None:
            return
        earliest, latest = written - answered_at, written + DATE_RESOLUTION_S - asked_at
        offset_s = min(max(self._offset_s, earliest), latest)
        if not self._believes(offset_s):
            return
        if not self._heard:  # nothing has been seen yet that an earlier time could contradict
            self._heard, self._told = True, None
        self._offset_s = offset_s

    @property
    def skew_s(self) -> float:
        """How far this machine's clock is ahead of the last Date, also of one that is not believed yet."""
        doubt_s = 0.0 if self._doubted_s is None else self._doubted_s - self._offset_s
        return (self._clock.wall() - self.now()).total_seconds() - doubt_s

    def _believes(self, offset_s: float) -> bool:
        near_s = JUMP_S if self._heard else FIRST_JUMP_S
        likely = abs(offset_s - self._offset_s) <= near_s
        confirmed = self._doubted_s is not None and abs(offset_s - self._doubted_s) <= JUMP_S
        self._doubted_s = None if likely or confirmed else offset_s
        return likely or confirmed


def _seconds(date: str | None) -> float | None:
    """A Date header in seconds since 1970; None for what is no date, or none of this age."""
    try:
        written = parsedate_to_datetime(date) if date else None
        if written is None or not EARLIEST <= (written if written.tzinfo else written.replace(tzinfo=UTC)) < LATEST:
            return None
        return written.timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
