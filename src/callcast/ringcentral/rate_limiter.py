"""Limits the requests of a source within one rate limit group: first come, first served, evenly spaced.

    async with limiter.slot("poll", url) as slot:
        answer = await ...
        slot.answered(answer.status, answer.headers)

During a penalty no request is sent. The same request is never sent twice at once, because the platform answers that
with CMN-304. A cancelled wait and an unused slot do not count against the limit.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime

import msgspec

from callcast.observability.fatal import observed
from callcast.ports.clock import Clock
from callcast.ringcentral.rate_window import LIMIT_MAX, PENALTY_MAX_S, Kept, Purpose, RateWindows

KEEP_EVERY_S = 1.0
ORDER: tuple[Purpose, ...] = ("token", "page", "poll", "call_log")


class Slot:
    """The permission to send one request. It counts against the rate limit unless `unused()` is called."""

    __slots__ = ("_limiter", "began_at", "granted", "key", "purpose", "sent", "urgency")

    def __init__(self, limiter: "RateLimiter", purpose: Purpose, key: str, urgency: float) -> None:
        self.purpose: Purpose = purpose
        self.key = key
        self.urgency = urgency
        self.sent = True
        self.began_at = 0.0
        self.granted: asyncio.Future[None] | None = None  # set while the slot waits
        self._limiter = limiter

    async def __aenter__(self) -> "Slot":
        if not self._limiter.passes(self):
            await self._limiter.wait(self)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._limiter.end(self)

    def unused(self) -> None:
        self.sent = False

    def answered(self, status: int, headers: Mapping[str, str]) -> float | None:
        """Process the answer's rate limit headers. Returns the seconds to wait that the platform asks for, if any."""
        return self._limiter.heard(self.began_at, status, headers)


class RateLimiter:
    """Limits the requests of one source in one group.

    group: the name of the rate limit group, until the platform announces it.
    per_minute: the limit until the platform announces it. ceiling: a lower limit of our own.
    now: returns the platform's time, for a Retry-After that is a date.
    kept: the state of an earlier run, as `dump` returned it.
    keep: called when state changed that must survive a restart, at most once a second, and at once in a penalty.
    show: called when the platform announced the limit, and at the start if a penalty of an earlier run continues.
    """

    def __init__(
        self,
        group: str,
        *,
        per_minute: float,
        headroom: float = 1.0,
        ceiling: int = LIMIT_MAX,
        clock: Clock,
        now: Callable[[], datetime],
        kept: bytes | None = None,
        keep: Callable[["RateLimiter"], None] = lambda _: None,
        show: Callable[["RateLimiter"], None] = lambda _: None,
    ) -> None:
        self.group = group
        self._clock = clock
        self._now = now
        self._keep = keep
        self._show = show
        self._kept_at = -math.inf
        self.announced = False  # whether the platform has announced its limit
        self._windows = RateWindows(per_minute=per_minute, headroom=headroom, ceiling=ceiling, now=clock.monotonic())
        self._waiting: dict[Purpose, deque[Slot]] = {purpose: deque() for purpose in ORDER}
        self._in_flight: dict[str, Slot] = {}
        self._alarm: asyncio.Task[None] | None = None
        self._alarm_at = math.inf
        self._restore(kept)

    @property
    def limit(self) -> int:
        return self._windows.limit

    @property
    def remaining(self) -> int:
        return self._windows.remaining

    @property
    def per_minute(self) -> float:
        """The limit in requests per minute, whatever its window."""
        return 60 * self._windows.limit / self._windows.window_s

    def spacing_s(self) -> float:
        """Return the average seconds between two polls."""
        return self._windows.spacing_s

    def hold_s(self) -> float:
        """Return the seconds until any request can be sent; above 0 only in a penalty."""
        return max(0.0, self._windows.silent_until - self._clock.monotonic())

    def wait_s(self, purpose: Purpose) -> float:
        """Return the seconds until a request of this purpose can be sent, if no other is waiting."""
        now = self._clock.monotonic()
        return self._windows.due(purpose, now) - now

    @property
    def waits(self) -> bool:
        """Whether any request is waiting for a slot."""
        return any(self._waiting.values())

    @property
    def under_way_since(self) -> float | None:
        """When the oldest of the requests under way began; None: there is none."""
        return min((slot.began_at for slot in self._in_flight.values()), default=None)

    def slot(self, purpose: Purpose, key: str, *, urgency: float = 0.0) -> Slot:
        """Return a context manager that waits for a slot and holds it while the request is in flight.

        key: identifies the request; two with the same key are never in flight together.
        urgency: of two requests that wait for the same purpose, the one with the lower number goes first.
        """
        return Slot(self, purpose, key, urgency)

    def ahead(self, slot: Slot) -> int | None:
        """Return how many slots of the same purpose wait before this one; None if it is not waiting."""
        waiting = self._waiting[slot.purpose]
        return waiting.index(slot) if slot in waiting else None

    def passes(self, slot: Slot) -> bool:
        """Start the slot if it need not wait. Returns whether it was started."""
        now = self._clock.monotonic()
        if any(self._waiting.values()) or slot.key in self._in_flight or self._windows.due(slot.purpose, now) > now:
            return False
        self._begin(slot, now)
        return True

    async def wait(self, slot: Slot) -> None:
        slot.granted = asyncio.get_running_loop().create_future()
        waiting = self._waiting[slot.purpose]
        place = len(waiting)
        while place > 0 and waiting[place - 1].urgency > slot.urgency:
            place -= 1
        waiting.insert(place, slot)
        self._serve()
        try:
            await slot.granted
        except asyncio.CancelledError:
            self._withdraw(slot)
            raise

    def end(self, slot: Slot) -> None:
        del self._in_flight[slot.key]
        self._windows.end(slot.purpose, self._clock.monotonic(), sent=slot.sent)
        if any(self._waiting.values()):
            self._serve()

    def heard(self, asked_at: float, status: int, headers: Mapping[str, str]) -> float | None:
        now = self._clock.monotonic()
        retry_after_s = self._retry_after_s(headers.get("Retry-After"))
        window_s = _number(headers.get("X-Rate-Limit-Window"))
        limit, remaining = _number(headers.get("X-Rate-Limit-Limit")), _number(headers.get("X-Rate-Limit-Remaining"))
        self.announced = self.announced or limit is not None
        group = headers.get("X-Rate-Limit-Group", "").strip().lower()
        if group.isidentifier() and len(group) <= 20:
            self.group = group
        if status == 429:
            remaining = None  # unreliable: a rejected request may or may not count
        self._windows.heard(now, asked_at, limit=limit, remaining=remaining, window_s=window_s)
        if status == 429:
            self._windows.refused(now, retry_after_s=retry_after_s, window_s=window_s)
            retry_after_s = self.hold_s()
        elif status == 503 and retry_after_s is not None:
            self._windows.silence(now, retry_after_s)
        elif status < 400:
            self._windows.succeeded(now)
        self._show(self)
        if self.hold_s() > 0:
            self._keep(self)
        return retry_after_s

    def dump(self) -> bytes:
        """Return the state that must survive a restart, the penalty and the windows, in a few hundred bytes."""
        kept = self._windows.keep(self._clock.monotonic(), self._clock.wall().timestamp())
        return msgspec.json.encode(kept)

    def _restore(self, kept: bytes | None) -> None:
        if not kept:
            return
        try:
            state = msgspec.json.decode(kept, type=Kept)
        except msgspec.MsgspecError:
            return  # from another version; the platform's headers will announce the limit again
        self._windows.restore(state, self._clock.monotonic(), self._clock.wall().timestamp())
        if self.hold_s() > 0:
            self._show(self)

    def _retry_after_s(self, text: str | None) -> float | None:
        """Seconds, or a date by the platform's clock; at most an hour. None when absent or unreadable."""
        if text is None:
            return None
        seconds: float | None = _number(text)
        if seconds is None:
            try:
                seconds = (parsedate_to_datetime(text) - self._now()).total_seconds()
            except (ValueError, TypeError, OverflowError):
                return None
        return min(max(seconds, 0.0), PENALTY_MAX_S)

    # Starting slots

    def _serve(self) -> None:
        """Start all slots that are due, and set a timer for the next one."""
        now = self._clock.monotonic()
        next_due = math.inf
        for purpose in ORDER:
            while (slot := self._first(purpose)) is not None:
                due = self._windows.due(purpose, now)
                if due > now:
                    next_due = min(next_due, due)
                    break
                self._grant(slot, now)
        self._set_alarm(next_due, now)

    def _first(self, purpose: Purpose) -> Slot | None:
        """Return the next slot that is neither cancelled nor waiting for the same request in flight."""
        return next((slot for slot in self._waiting[purpose] if self._may_be_next(slot)), None)

    def _may_be_next(self, slot: Slot) -> bool:
        return slot.granted is not None and not slot.granted.done() and slot.key not in self._in_flight

    def _grant(self, slot: Slot, now: float) -> None:
        self._waiting[slot.purpose].remove(slot)
        self._begin(slot, now)
        if slot.granted is not None:
            slot.granted.set_result(None)

    def _begin(self, slot: Slot, now: float) -> None:
        self._in_flight[slot.key] = slot
        slot.began_at = now
        self._windows.begin(slot.purpose, now)
        if now - self._kept_at >= KEEP_EVERY_S:
            self._kept_at = now
            self._keep(self)

    def _withdraw(self, slot: Slot) -> None:
        """Remove a slot that was cancelled, either while waiting or just after it was granted."""
        if slot in self._waiting[slot.purpose]:
            self._waiting[slot.purpose].remove(slot)
            self._serve()
        else:
            slot.unused()
            self.end(slot)

    def _set_alarm(self, at: float, now: float) -> None:
        if at == self._alarm_at:
            return
        if self._alarm is not None and self._alarm is not asyncio.current_task():
            self._alarm.cancel()
        self._alarm_at = at
        self._alarm = None if at == math.inf else observed(asyncio.create_task(self._wake(at - now)))

    async def _wake(self, seconds: float) -> None:
        await self._clock.sleep(seconds)
        self._alarm_at = math.inf
        self._serve()


def _number(text: str | None) -> int | None:
    """Parse a header as a whole number. Returns None if it is absent or invalid."""
    if text is None or len(text) > 9 or not text.isascii() or not text.strip().isdecimal():
        return None
    return int(text)
