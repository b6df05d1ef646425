"""The gate that every request of a source and group goes through: first come, first served, at an even pace.

    async with budget.turn("poll", url) as turn:
        answer = await ...
        turn.answered(answer.status, answer.headers)

Nothing passes in a penalty, whoever asks, and never two of the same request at once (the platform answers that
with CMN-304). Waiting ends with the turn or with cancellation; a turn that was not used counts nothing.
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
    """One request's place. `unused()` gives it back; else it counts from now until it has left the window."""

    __slots__ = ("_limiter", "began_at", "granted", "key", "purpose", "sent", "urgency")

    def __init__(self, limiter: "RateLimiter", purpose: Purpose, key: str, urgency: float) -> None:
        self.purpose: Purpose = purpose
        self.key = key
        self.urgency = urgency
        self.sent = True
        self.began_at = 0.0
        self.granted: asyncio.Future[None] | None = None  # of one that has to wait
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
        """Take in what the answer says of the limit. Returns the seconds that the platform wants us to wait."""
        return self._limiter.heard(self.began_at, status, headers)


class RateLimiter:
    """One per source and group.

    group: its name, and per_minute: the limit, until the platform says otherwise. ceiling: our own, lower limit.
    now: the platform's time, for a Retry-After that is a date.
    keep: called when something changed that must survive a restart: at most once a second, and at once in a penalty.
    show: called when the platform has said something of the limit, and at once in a penalty of an earlier run.
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
        self.announced = False  # whether the platform has said what the limit is
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
        """The limit, as requests a minute whatever its window."""
        return 60 * self._windows.limit / self._windows.window_s

    def spacing_s(self) -> float:
        """Seconds between two polls, in the long run."""
        return self._windows.spacing_s

    def hold_s(self) -> float:
        """Seconds until anything may be sent at all; above 0 only in a penalty."""
        return max(0.0, self._windows.silent_until - self._clock.monotonic())

    def wait_s(self, purpose: Purpose) -> float:
        """Seconds until such a request may be sent, if nobody waits before it."""
        now = self._clock.monotonic()
        return self._windows.due(purpose, now) - now

    @property
    def waits(self) -> bool:
        """Whether any request waits for its turn."""
        return any(self._waiting.values())

    @property
    def under_way_since(self) -> float | None:
        """When the oldest of the requests under way began; None: there is none."""
        return min((turn.began_at for turn in self._in_flight.values()), default=None)

    def turn(self, purpose: Purpose, key: str, *, urgency: float = 0.0) -> Slot:
        """A context: wait for the turn of a request, and hold it while the request is under way.

        urgency: of two that wait for the same purpose the one with the lower number comes first.
        """
        return Slot(self, purpose, key, urgency)

    def ahead(self, turn: Slot) -> int | None:
        """How many of its purpose wait before this one; None: it does not wait."""
        waiting = self._waiting[turn.purpose]
        return waiting.index(turn) if turn in waiting else None

    def passes(self, turn: Slot) -> bool:
        """Whether it needs not wait, and nobody waits before it; then it is under way."""
        now = self._clock.monotonic()
        if any(self._waiting.values()) or turn.key in self._in_flight or self._windows.due(turn.purpose, now) > now:
            return False
        self._begin(turn, now)
        return True

    async def wait(self, turn: Slot) -> None:
        turn.granted = asyncio.get_running_loop().create_future()
        waiting = self._waiting[turn.purpose]
        place = len(waiting)
        while place > 0 and waiting[place - 1].urgency > turn.urgency:
            place -= 1
        waiting.insert(place, turn)
        self._serve()
        try:
            await turn.granted
        except asyncio.CancelledError:
            self._withdraw(turn)
            raise

    def end(self, turn: Slot) -> None:
        del self._in_flight[turn.key]
        self._windows.end(turn.purpose, self._clock.monotonic(), sent=turn.sent)
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
            remaining = None  # a refused request may count, and may not
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
        """What must survive a restart: the penalty and the window, in a few hundred bytes."""
        kept = self._windows.keep(self._clock.monotonic(), self._clock.wall().timestamp())
        return msgspec.json.encode(kept)

    def _restore(self, kept: bytes | None) -> None:
        if not kept:
            return
        try:
            state = msgspec.json.decode(kept, type=Kept)
        except msgspec.MsgspecError:
            return  # of another version: the platform's headers will say it again
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

    # Who passes, and when

    def _serve(self) -> None:
        """Let everybody through whose time has come; be woken for the next."""
        now = self._clock.monotonic()
        next_due = math.inf
        for purpose in ORDER:
            while (turn := self._first(purpose)) is not None:
                due = self._windows.due(purpose, now)
                if due > now:
                    next_due = min(next_due, due)
                    break
                self._grant(turn, now)
        self._set_alarm(next_due, now)

    def _first(self, purpose: Purpose) -> Slot | None:
        """Who is next; not one that is just being cancelled, nor one whose twin is under way."""
        return next((turn for turn in self._waiting[purpose] if self._may_be_next(turn)), None)

    def _may_be_next(self, turn: Slot) -> bool:
        return turn.granted is not None and not turn.granted.done() and turn.key not in self._in_flight

    def _grant(self, turn: Slot, now: float) -> None:
        self._waiting[turn.purpose].remove(turn)
        self._begin(turn, now)
        if turn.granted is not None:
            turn.granted.set_result(None)

    def _begin(self, turn: Slot, now: float) -> None:
        self._in_flight[turn.key] = turn
        turn.began_at = now
        self._windows.begin(turn.purpose, now)
        if now - self._kept_at >= KEEP_EVERY_S:
            self._kept_at = now
            self._keep(self)

    def _withdraw(self, turn: Slot) -> None:
        """Cancelled while it waited, or in the very moment in which its turn came."""
        if turn in self._waiting[turn.purpose]:
            self._waiting[turn.purpose].remove(turn)
            self._serve()
        else:
            turn.unused()
            self.end(turn)

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
    """A whole number of a header; None when absent or anything else."""
    if text is None or len(text) > 9 or not text.isascii() or not text.strip().isdecimal():
        return None
    return int(text)
