"""The platform's time: the monotonic clock, corrected by the Date headers of the platform's answers."""

from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from callcast.ports.clock import Clock

DATE_RESOLUTION_S = 1.0  # a Date header holds whole seconds, rounded down
SKEW_WARNED_S = 5.0
SKEW_MAX_S = 60.0  # webhook receivers tolerate five minutes, but a clock that is this far off keeps drifting
SKEW_FIX = "synchronize this machine's clock, preferably by NTP: receivers reject webhooks with an old timestamp"
SLOWED = 0.5  # rate at which time passes while this clock is ahead of the platform's
JUMP_S = 300.0  # a larger change between two answers counts only if the next Date confirms it
FIRST_JUMP_S = 2 * 86_400.0  # the same for the first Date, because this machine's clock may be set wrong
EPOCH = datetime.fromtimestamp(0, UTC)
EARLIEST, LATEST = datetime(2000, 1, 1, tzinfo=UTC), datetime(3000, 1, 1, tzinfo=UTC)


class PlatformClock:
    """The platform's time, correct after the first Date header.

    After that, `now()` never goes back: if it is ahead, it runs at half speed until it is correct. A single deviating
    Date (from a cache, or a proxy with a wrong clock) is ignored.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offset_s = clock.now().timestamp() - clock.monotonic()
        self._corrected = False
        self._unconfirmed_s: float | None = None  # the offset of a deviating Date, until the next one confirms it
        self._last_now: tuple[float, float] | None = (
            None  # the last result of `now`: monotonic time, seconds since 1970
        )
        self._date: tuple[str | None, float | None] = (None, None)  # the last header, and its value

    def now(self) -> datetime:
        steady = self._clock.monotonic()
        seconds = steady + self._offset_s
        if self._last_now is not None:
            then, last = self._last_now
            seconds = max(seconds, last + (steady - then) * SLOWED)
        self._last_now = (steady, seconds)
        return EPOCH + timedelta(seconds=seconds)

    def update(self, date: str | None, *, asked_at: float, answered_at: float) -> None:
        """Process a Date header, with the monotonic times of the request and its answer.

        The platform wrote it between the two, so only a difference beyond the round trip and the header's resolution
        is skew. The clock makes the smallest correction that is consistent with the header.
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
        if not self._corrected:  # no event has a platform time yet, so the clock can still go back
            self._corrected, self._last_now = True, None
        self._offset_s = offset_s

    @property
    def dated(self) -> bool:
        """Whether an answer has carried a date."""
        return self._date[0] is not None

    @property
    def skew_s(self) -> float:
        """How far this machine's clock is ahead of the last Date, including one that is not confirmed yet."""
        deviation_s = 0.0 if self._unconfirmed_s is None else self._unconfirmed_s - self._offset_s
        return (self._clock.wall() - self.now()).total_seconds() - deviation_s

    def _believes(self, offset_s: float) -> bool:
        near_s = JUMP_S if self._corrected else FIRST_JUMP_S
        likely = abs(offset_s - self._offset_s) <= near_s
        confirmed = self._unconfirmed_s is not None and abs(offset_s - self._unconfirmed_s) <= JUMP_S
        self._unconfirmed_s = None if likely or confirmed else offset_s
        return likely or confirmed


def skew_detail(skew_s: float) -> str:
    """Return a sentence about this machine's clock. A positive `skew_s` means that it is ahead of the platform's."""
    span = f"{abs(skew_s):.0f} s"
    for unit_s, unit in ((60, "minutes"), (3600, "hours"), (86_400, "days")):
        if abs(skew_s) >= 2 * unit_s:
            span = f"{abs(skew_s) / unit_s:.0f} {unit}"
    return f"this machine is {span} {'ahead of' if skew_s > 0 else 'behind'} the platform"


def _seconds(date: str | None) -> float | None:
    """Parse a Date header to seconds since 1970. Returns None if it is invalid or implausible."""
    try:
        written = parsedate_to_datetime(date) if date else None
        if written is None or not EARLIEST <= (written if written.tzinfo else written.replace(tzinfo=UTC)) < LATEST:
            return None
        return written.timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
