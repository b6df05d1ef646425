"""Limits the requests of one credential in one rate limit group (heavy, medium, light, auth) of the platform.

    async with limiter.acquire("poll", url) as slot:
        answer = await ...
        slot.answered(answer.status, answer.headers)

Facts: RingCentral counts the requests of a user and an app per group within the last X-Rate-Limit-Window seconds. A
group may have several windows (3 in 18 s beside 10 in 60 s), and an answer announces one of them. Each request during
a penalty starts the penalty again (developers.ringcentral.com/guide/basics/rate-limits).

Every request takes a place in every window, from when it is sent until the window's length and `SLACK_S` after its
answer, because the platform may count a slow request as late as its answer. Places that other programs take show in
the answers: limit - remaining - own. All windows that were announced in the last two hours count. Polls and hint polls
use only a share of each window (`headroom`); polls are also spaced evenly, on a grid that a late poll does not move.
The rest of the window is left for the call log, or in the auth group for the tokens of push connections.

Requests that must wait are served first come, first served within their purpose. The same request is never sent twice
at once, because the platform answers that with CMN-304. A cancelled wait and an unused slot take no place.
"""

import asyncio
import math
from array import array
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Callable, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Literal

import msgspec

from callcast.observability.fatal import observed
from callcast.ports.clock import Clock
from callcast.ports.upstream import Places

# What a request is for, in the order of service.
#   token     an access token
#   page      the rest of something already begun: a further page, or a repeat with a new token
#   hint      a poll as soon as a place of the share is free
#   poll      a poll on the even grid
#   call_log, push_token   only what the share leaves
Purpose = Literal["token", "page", "hint", "poll", "call_log", "push_token"]
ORDER: tuple[Purpose, ...] = ("token", "page", "hint", "poll", "call_log", "push_token")
POLLING: tuple[Purpose, ...] = ("page", "hint", "poll")
REST: tuple[Purpose, ...] = ("call_log", "push_token")
Group = Literal["heavy", "medium", "light", "auth"]

SLACK_S = 1.0  # the platform may count in whole seconds
POLLING_MAX = 0.8  # one place in five is left to the call log, whatever `headroom` is
EVENNESS = 0.9  # the poll after a late one comes at least this much of a spacing later
TOGETHER_S = 0.02  # polls that are due within this time may be sent together
PENALTY_DEFAULT_S = 30.0  # documented: wait at least 30 s after a 429 without Retry-After
PENALTY_MAX_S = 3600.0
LIMIT_MAX = 1_000_000  # also bounds what is remembered: eight bytes each
WINDOW_MAX_S = 3600.0
WINDOWS_MAX = 8
ANNOUNCED_FOR_S = 2 * WINDOW_MAX_S  # a window that was not announced for so long no longer counts
OTHERS_HOLD = 3  # windows for which the highest use by other programs is remembered
UNKNOWN_FOR = 2  # windows after the start
OTHERS_GUARD = 0.5  # so much more is left free, because they may be growing; less once they have been steady
KEEP_EVERY_S = 1.0
IN_FLIGHT_KEPT_S = 2  # a request in flight when the state is kept is assumed to arrive within this


class Kept(msgspec.Struct, frozen=True):
    """The state over a restart, in seconds relative to the moment of keeping; bounded in size."""

    at: float  # of the wall clock, seconds since 1970
    windows: list[tuple[int, float, float]]  # the announced ones: limit, length, seconds since the announcement
    silent_s: float
    strikes: int
    spent: list[tuple[int, int, int]]  # whole seconds ago, requests other than for the rest, requests for the rest


def assumed(per_minute: float) -> tuple[int, float]:
    """The window that holds until the platform announces one: requests, and seconds."""
    limit = max(1, math.floor(per_minute))
    return limit, min(60 * limit / per_minute, WINDOW_MAX_S)


def polls(usable: int, headroom: float) -> float:
    """How many of a window's requests polling may use: a share of them, and never the last one of several."""
    share = usable * min(headroom, POLLING_MAX)
    return min(share, usable - 1) if usable > 1 else share


def _whole(share: float) -> int:
    return max(1, math.floor(share + 1e-9))


class _Taken:
    """Places taken: requests in flight, and the sorted times of others. Counting is a bisection."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.times = array("d")

    def add(self, at: float, count: int = 1) -> None:
        """Add a time; not before the last one, because what was kept over a restart may be a moment ahead."""
        at = max(at, self.times[-1]) if self.times else at
        self.times.extend([at] * count)

    def remove(self, at: float) -> None:
        del self.times[bisect_left(self.times, at)]

    def since(self, at: float) -> int:
        return self.in_flight + len(self.times) - bisect_right(self.times, at)

    def free_at(self, room: int, length_s: float, now: float) -> float:
        """When there is room for one more; infinity while that depends on the end of a request in flight."""
        first = bisect_right(self.times, now - length_s)
        too_many = self.in_flight + len(self.times) - first + 1 - room
        if too_many <= 0:
            return -math.inf
        last = first + too_many - 1
        return self.times[last] + length_s if last < len(self.times) else math.inf

    def forget(self, until: float) -> None:
        gone = bisect_right(self.times, until)
        if gone > len(self.times) / 2:  # many at a time
            del self.times[:gone]


class _Window:
    """A limit of requests within so many seconds, and how many of them other programs use."""

    def __init__(self, limit: int, length_s: float, announced_at: float) -> None:
        self.limit = limit
        self.length_s = length_s
        self.announced_at = announced_at
        self.remaining = limit
        self.densest = 0  # the most requests of polling that were ever in it
        # When others were noticed, and how many places they took: candidates for the most and for the fewest.
        self._most: deque[tuple[float, int]] = deque()
        self._fewest: deque[tuple[float, int]] = deque()
        self._noticed_at = math.inf  # for the first time

    def others(self, now: float) -> int:
        """The most places that others took lately, and some more because they may take more.

        Others that have taken as many all the time are expected to go on so.
        """
        kept_s = OTHERS_HOLD * self.length_s
        for noticed in (self._most, self._fewest):
            while noticed and noticed[0][0] + kept_s <= now:
                noticed.popleft()
        if not self._most:
            return 0
        most, guard = self._most[0][1], math.ceil(self._most[0][1] * OTHERS_GUARD)
        if now - self._noticed_at >= kept_s:
            guard = min(guard, most - self._fewest[0][1])
        return most + guard

    def notice_others(self, now: float, others: int, started_at: float) -> None:
        """Note how many places others have now. Those of before the start may be all they ever take (of a check, or of
        an earlier run), so the first answer that counts none of these replaces what was noticed until then.
        """
        begun_until = started_at + self.length_s
        for noticed in (self._most, self._fewest):
            while noticed and noticed[0][0] <= begun_until < now:
                noticed.popleft()
        others = min(max(0, others), self.limit)
        self._noticed_at = min(self._noticed_at, now)
        while self._most and self._most[-1][1] <= others:
            self._most.pop()
        while self._fewest and self._fewest[-1][1] >= others:
            self._fewest.pop()
        self._most.append((now, others))
        self._fewest.append((now, others))


class Slot:
    """The permission to send one request. It takes a place unless `unused()` is called."""

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
        if not self._limiter.begun_at_once(self):
            await self._limiter.wait(self)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._limiter.end(self)

    def unused(self) -> None:
        self.sent = False

    def answered(self, status: int, headers: Mapping[str, str]) -> float | None:
        """Process the answer's rate limit headers. Returns the seconds to wait that the platform asks for, if any."""
        return self._limiter.answered(self.began_at, status, headers)


class RateLimiter:
    """Limits the requests of one credential in one group.

    per_minute: the limit until the platform announces it. ceiling: a lower limit per minute of our own.
    headroom: the share of the limit that polls and hint polls may use.
    now: returns the platform's time, for a Retry-After that is a date.
    groups: the credential's limiters by group. An answer that names one of them counts there, too: its window, and a
        penalty. A 503 with Retry-After silences all of them.
    kept: the state of an earlier run, as `dump` returned it.
    keep: called when state changed that must survive a restart, at most once a second, and at once in a penalty.
    show: called when the platform announced the limit, and at the start if a penalty of an earlier run continues.
    """

    def __init__(
        self,
        group: Group,
        *,
        per_minute: float,
        headroom: float = 1.0,
        ceiling: int | None = None,
        clock: Clock,
        now: Callable[[], datetime],
        groups: "Mapping[str, RateLimiter] | None" = None,
        kept: bytes | None = None,
        keep: Callable[["RateLimiter"], None] = lambda _: None,
        show: Callable[["RateLimiter"], None] = lambda _: None,
    ) -> None:
        self.group: Group = group
        self.announced = False  # whether the platform has announced a limit
        self._headroom = headroom
        self._clock = clock
        self._now = now
        self._groups: Mapping[str, RateLimiter] = {} if groups is None else groups
        self._keep = keep
        self._show = show
        self._kept_at = -math.inf
        self._started_at = started_at = clock.monotonic()
        self._windows = [_Window(*assumed(per_minute), started_at)]
        self._last = self._windows[0]  # announced last; an answer may give a limit without its window
        self._windows_known = False  # whether the platform has announced a window's length
        self._own = [] if ceiling is None else [_Window(ceiling, 60.0, started_at)]
        self._all = _Taken()
        self._rest = _Taken()
        self._polling = _Taken()  # by the time of sending: a share that we set ourselves needs no slack
        self._paused_until = started_at
        self._penalties = 0  # penalties in a row
        self._grid = -math.inf  # when the last poll was due; the next ones follow from there
        self._hinted = False  # whether there were hint polls
        self._pages = 0  # requests that the last poll took beside its first
        self._waiting: dict[Purpose, deque[Slot]] = {purpose: deque() for purpose in ORDER}
        self._in_flight: dict[str, Slot] = {}
        self._alarm: asyncio.Task[None] | None = None
        self._alarm_at = math.inf
        self._restore(kept)

    @property
    def limit(self) -> int:
        return self._tightest().limit

    @property
    def remaining(self) -> int:
        return self._tightest().remaining

    @property
    def per_minute(self) -> float:
        """The limit in requests per minute, whatever its window."""
        window = self._tightest()
        return 60 * window.limit / window.length_s

    def _limits(self) -> list[_Window]:
        return [*self._windows, *self._own]

    def _tightest(self) -> _Window:
        """The window that allows the fewest requests in the long run."""
        return max(self._windows, key=lambda window: window.length_s / window.limit)

    def spacing_s(self) -> float:
        """Return the average seconds between two polls."""
        now = self._clock.monotonic()
        return max(window.length_s / polls(self._usable(window, now), self._headroom) for window in self._limits())

    def places(self) -> Places:
        """Return the places of polling's share in the window that is the fullest."""
        now, fullest = self._clock.monotonic(), Places(used=0, limit=1, spacing_s=self.spacing_s())
        for window in self._limits():
            share = _whole(polls(window.limit, self._headroom))
            since = now - window.length_s - SLACK_S
            taken, rest = self._all.since(since), self._rest.since(since)
            used = taken - min(rest, window.limit - share) + window.others(now)
            if used * fullest.limit >= fullest.used * share:
                fullest = Places(used=used, limit=share, spacing_s=fullest.spacing_s)
        return fullest

    def hold_s(self) -> float:
        """Return the seconds until any request can be sent; above 0 only in a penalty."""
        return max(0.0, self._paused_until - self._clock.monotonic())

    def wait_s(self, purpose: Purpose) -> float:
        """Return the seconds until a request of this purpose can be sent, if no other is waiting."""
        now = self._clock.monotonic()
        return self._due(purpose, now) - now

    @property
    def waits(self) -> bool:
        """Whether any request is waiting for a slot."""
        return any(self._waiting.values())

    @property
    def under_way_since(self) -> float | None:
        """When the oldest of the requests under way began; None: there is none."""
        return min((slot.began_at for slot in self._in_flight.values()), default=None)

    def ahead(self, slot: Slot) -> int | None:
        """Return how many slots of the same purpose wait before this one; None if it is not waiting."""
        waiting = self._waiting[slot.purpose]
        return waiting.index(slot) if slot in waiting else None

    def acquire(self, purpose: Purpose, key: str, *, urgency: float = 0.0) -> Slot:
        """Return a context manager that waits for a slot and holds it while the request is in flight.

        key: identifies the request; two with the same key are never in flight together.
        urgency: of two requests that wait for the same purpose, the one with the lower number goes first.
        """
        return Slot(self, purpose, key, urgency)

    # When a request may be sent

    def _due(self, purpose: Purpose, now: float) -> float:
        """When such a request may be sent; infinity while that depends on the end of another one."""
        if self._penalties and self._in_flight:
            return math.inf  # after a penalty one request is sent first
        due = max(now, self._paused_until)
        for window in self._limits():
            kept_s = window.length_s + SLACK_S
            usable = self._usable(window, now, first=True)
            due = max(due, self._all.free_at(usable, kept_s, now))
            if purpose in REST:
                due = max(due, self._rest.free_at(self._left(purpose, window, now), kept_s, now))
            elif purpose in ("hint", "poll"):
                share = _whole(polls(self._usable(window, now), self._headroom))
                due = max(due, self._polling.free_at(share, window.length_s, now))
        return max(due, self._poll_due()) if purpose == "poll" else due

    def _poll_due(self) -> float:
        return self._grid + (1 + self._pages) * self.spacing_s()

    def _usable(self, window: _Window, now: float, *, first: bool = False) -> int:
        """How many places of a window are ours.

        first: one less in the first windows, because use by others shows only in the answers.
        """
        unknown = first and window in self._windows and now - self._started_at < UNKNOWN_FOR * window.length_s
        return max(1, window.limit - window.others(now) - unknown)

    def _left(self, purpose: Purpose, window: _Window, now: float) -> int:
        """What the share leaves; for the call log more where polling leaves more, once a whole window has shown it.

        What polling leaves only because it pauses (in an outage, a penalty) is not used: it would be late afterwards.
        Nor is what hint polls leave, which may come at any time.
        """
        usable = self._usable(window, now)
        left = usable - math.ceil(polls(usable, self._headroom) - 1e-9)
        if purpose == "call_log" and not self._hinted and now - self._started_at > window.length_s + SLACK_S:
            left = max(left, usable - window.densest)
        return max(1, left)

    def _begin(self, slot: Slot, now: float) -> None:
        slot.began_at = now
        self._in_flight[slot.key] = slot
        self._all.in_flight += 1
        self._rest.in_flight += slot.purpose in REST
        for window in self._windows:
            since = now - window.length_s - SLACK_S
            window.densest = max(window.densest, self._all.since(since) - self._rest.since(since))
        if slot.purpose in POLLING:
            self._polling.add(now)
        self._hinted = self._hinted or slot.purpose == "hint"
        if slot.purpose == "poll":
            late_at_most = now - max((1 - EVENNESS) * self.spacing_s(), TOGETHER_S)
            self._grid = max(self._poll_due(), late_at_most) if self._grid > -math.inf else now
            self._pages = 0
        elif slot.purpose == "page":
            self._pages += 1
        if now - self._kept_at >= KEEP_EVERY_S:
            self._kept_at = now
            self._keep(self)

    def end(self, slot: Slot) -> None:
        """The request was answered or given up, or never sent."""
        now, rest = self._clock.monotonic(), slot.purpose in REST
        del self._in_flight[slot.key]
        self._all.in_flight -= 1
        self._rest.in_flight -= rest
        if slot.sent:
            self._all.add(now)
            self._rest.add(now, rest)
        elif slot.purpose in POLLING:
            self._polling.remove(slot.began_at)
        longest_s = max(window.length_s for window in self._limits())
        for taken in (self._all, self._rest, self._polling):
            taken.forget(now - longest_s - SLACK_S)
        if self.waits:
            self._serve()

    # Waiting

    def begun_at_once(self, slot: Slot) -> bool:
        """Begin if no wait is needed. Returns whether it has begun."""
        now = self._clock.monotonic()
        if self.waits or slot.key in self._in_flight or self._due(slot.purpose, now) > now:
            return False
        self._begin(slot, now)
        return True

    async def wait(self, slot: Slot) -> None:
        slot.granted = asyncio.get_running_loop().create_future()
        waiting = self._waiting[slot.purpose]
        insort(waiting, slot, key=lambda other: other.urgency)
        self._serve()
        try:
            await slot.granted
        except asyncio.CancelledError:
            if slot in waiting:
                waiting.remove(slot)
                self._serve()
            else:  # granted just before
                slot.unused()
                self.end(slot)
            raise

    def _serve(self) -> None:
        """Begin all slots that are due, and set a timer for the next one."""
        now = self._clock.monotonic()
        next_due = math.inf
        for purpose in ORDER:
            for slot in tuple(self._waiting[purpose]):
                if slot.granted is None or slot.granted.done() or slot.key in self._in_flight:
                    continue  # cancelled, or the same request is in flight
                due = self._due(purpose, now)
                if due > now:
                    next_due = min(next_due, due)
                    break
                self._waiting[purpose].remove(slot)
                self._begin(slot, now)
                slot.granted.set_result(None)
        self._set_alarm(next_due, now)

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

    # What the platform answers

    def answered(self, began_at: float, status: int, headers: Mapping[str, str]) -> float | None:
        retry_after_s = self._retry_after_s(headers.get("Retry-After"))
        limit, remaining, window_s = (
            _number(headers.get(f"X-Rate-Limit-{name}")) for name in ("Limit", "Remaining", "Window")
        )
        if status == 429:
            remaining = None  # unreliable: a rejected request may or may not count
        named = self._groups.get(headers.get("X-Rate-Limit-Group", "").strip().lower(), self)
        concerned = {self, named}
        for limiter in concerned:
            limiter.announce(began_at, limit, remaining, window_s)
            if status == 429:
                limiter.refused(retry_after_s, window_s)
        if status == 503 and retry_after_s is not None:
            concerned |= set(self._groups.values())
            for limiter in concerned:
                limiter.pause(retry_after_s)
        elif status < 400 and self.hold_s() == 0:
            self._penalties = 0
        for limiter in concerned:
            limiter.report()
        return self.hold_s() if status == 429 else retry_after_s

    def announce(self, began_at: float, limit: int | None, remaining: int | None, window_s: float | None) -> None:
        """The headers of an answer; what is missing or absurd is left as it was."""
        if limit is None or not 0 < limit <= LIMIT_MAX:
            return
        self.announced = True
        now = self._clock.monotonic()
        window = self._keep_window(now, limit, window_s)
        if remaining is not None and 0 <= remaining <= limit:
            window.remaining = remaining
            # Ours can be all that is in flight, and all that was still in the window when the request was sent.
            window.notice_others(now, limit - remaining - self._all.since(began_at - window.length_s), self._started_at)

    def _keep_window(self, now: float, limit: int, length_s: float | None) -> _Window:
        """Return the window that an answer describes. All announced ones are kept; the assumed one is replaced."""
        if length_s is not None and 0 < length_s <= WINDOW_MAX_S:
            if not self._windows_known:
                self._windows_known = True
                self._windows = [window for window in self._windows if window.length_s == length_s]
            found = next((window for window in self._windows if window.length_s == length_s), None)
            if found is None:
                found = _Window(limit, length_s, now)
                self._windows.append(found)
            self._last = found
        self._last.limit, self._last.announced_at = limit, now
        kept = [window for window in self._windows if now - window.announced_at < ANNOUNCED_FOR_S]
        self._windows = sorted(kept, key=lambda window: window.announced_at)[-WINDOWS_MAX:]
        return self._last

    def refused(self, retry_after_s: float | None, window_s: float | None) -> None:
        """Pause after a 429. After the second in a row, pause longer than its Retry-After.

        Two programs that both wait exactly as long as Retry-After keep each other in the penalty: the first request of
        each one comes during the penalty that the other's has started.
        """
        if self.hold_s() == 0 or not self._penalties:  # the pause of a 503 is no penalty
            self._penalties += 1
        delay_s = max(PENALTY_DEFAULT_S, window_s or 0.0) if retry_after_s is None else retry_after_s
        growth = 2 ** min(self._penalties - 1, 2 if retry_after_s is None else 1)
        for window in self._windows:
            window.remaining = 0
        self.pause(delay_s * growth)

    def pause(self, seconds: float) -> None:
        """Send nothing for so long (at most an hour)."""
        until = self._clock.monotonic() + min(max(seconds, 0.0), PENALTY_MAX_S) + SLACK_S
        self._paused_until = max(self._paused_until, until)

    def report(self) -> None:
        self._show(self)
        if self.hold_s() > 0:
            self._keep(self)

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

    # Over a restart

    def dump(self) -> bytes:
        """Return the state that must survive a restart, the penalty and the windows, in a few hundred bytes."""
        now, spent = self._clock.monotonic(), []
        longest_s = max(window.length_s for window in self._limits()) + SLACK_S
        first = bisect_right(self._all.times, now - longest_s)
        oldest_s = math.ceil(now - self._all.times[first]) if first < len(self._all.times) else -1
        for ago_s in range(oldest_s, -1, -1):
            all_, rest = (
                bisect_right(taken.times, now - ago_s) - bisect_right(taken.times, now - ago_s - 1)
                for taken in (self._all, self._rest)
            )
            spent.append((ago_s, all_ - rest, rest))
        spent.append((-IN_FLIGHT_KEPT_S, self._all.in_flight - self._rest.in_flight, self._rest.in_flight))
        kept = Kept(
            at=self._clock.wall().timestamp(),
            windows=[(one.limit, one.length_s, now - one.announced_at) for one in self._windows if self._windows_known],
            silent_s=self.hold_s(),
            strikes=self._penalties,
            spent=[one for one in spent if one[1] or one[2]],
        )
        return msgspec.json.encode(kept)

    def _restore(self, kept: bytes | None) -> None:
        """Continue from the kept state.

        Whatever the wall clock did meanwhile, it frees no place early, and makes no penalty longer.
        """
        try:
            state = msgspec.json.decode(kept or b"", type=Kept)
        except msgspec.MsgspecError:
            return  # none, or from another version; the platform's headers will announce the limit again
        now = self._clock.monotonic()
        passed_s = max(0.0, self._clock.wall().timestamp() - state.at)
        self._penalties = state.strikes
        for limit, length_s, ago_s in state.windows:
            if 0 < limit <= LIMIT_MAX and passed_s + ago_s < ANNOUNCED_FOR_S:
                self._keep_window(now - passed_s - ago_s, limit, length_s)
        for ago_s, polling, rest in state.spent:
            if not (ago_s >= -IN_FLIGHT_KEPT_S and 0 <= polling <= LIMIT_MAX and 0 <= rest <= LIMIT_MAX):
                continue  # not what was kept
            at = now - passed_s - ago_s
            self._all.add(at, polling + rest)
            self._rest.add(at, rest)
            self._polling.add(at, polling)
            self._grid = at if polling else self._grid
        if state.silent_s > passed_s:
            self._paused_until = now + min(state.silent_s - passed_s, PENALTY_MAX_S)
            self._show(self)


def _number(text: str | None) -> int | None:
    """Parse a header as a whole number. Returns None if it is absent or invalid."""
    if text is None or len(text) > 9 or not text.isascii() or not text.strip().isdecimal():
        return None
    return int(text)
