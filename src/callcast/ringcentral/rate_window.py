"""What the rate limit allows, as arithmetic: sliding windows, a penalty, and a pace that keeps out of both.

Pure: every method is given the time, in seconds of a clock that only grows. Facts: RingCentral counts the requests
of a user and an app per group within the last X-Rate-Limit-Window seconds; a group may have several windows (3 in
18 s beside 10 in 60 s), and an answer announces one of them; each request during a penalty starts the penalty again
(developers.ringcentral.com/guide/basics/rate-limits).
"""

import math
from array import array
from bisect import bisect_right
from collections import deque
from typing import Literal

import msgspec

# What a request is for. `page`: the rest of something already begun (a further page, a repeat with a new token);
# `token`: the Auth group. Both take a place in the window, and have no pace of their own.
Purpose = Literal["poll", "page", "call_log", "token"]

SLACK_S = 1.0  # the platform may count in whole seconds
EVENNESS = 0.9  # a late poll may be made up for by coming this much of a spacing after it
TOGETHER_S = 0.02  # polls that lie closer together than this may go together
PENALTY_DEFAULT_S = 30.0  # documented: wait at least 30 s after a 429 without Retry-After
PENALTY_MAX_S = 3600.0
LIMIT_MAX = 1_000_000  # also bounds what is remembered: eight bytes each
WINDOW_MAX_S = 3600.0
WINDOWS_MAX = 8
ANNOUNCED_FOR_S = 2 * WINDOW_MAX_S  # a window that was not announced for so long counts no more
POLLING_MAX = 0.8  # one place in five is left to the call log, whatever `headroom` says
OTHERS_HOLD = 3  # windows for which the highest use by other programs is remembered
UNKNOWN_FOR = 2  # windows after the start
OTHERS_GUARD = 0.5  # so much more is left free, because they may be growing
IN_FLIGHT_KEPT_S = 2  # a request on its way when the state is kept is taken to arrive within this


class Kept(msgspec.Struct, frozen=True):
    """The state over a restart, in seconds relative to the moment of keeping; bounded in size."""

    at: float  # of the wall clock, seconds since 1970
    windows: list[tuple[int, float, float]]  # the announced ones: limit, length, seconds since the announcement
    silent_s: float
    strikes: int
    spent: list[tuple[int, int, int]]  # whole seconds ago, requests for polling, for the call log


class _Answered:
    """When requests were answered, oldest first. Counting costs the same in a window of ten and of a million."""

    def __init__(self) -> None:
        self._times = array("d")
        self._first = 0  # those before it are forgotten, and deleted many at a time

    def __len__(self) -> int:
        return len(self._times) - self._first

    def __getitem__(self, number: int) -> float:
        return self._times[self._first + number]

    def add(self, at: float, count: int = 1) -> None:
        """Not earlier than the last one: what was kept over a restart may lie a moment ahead."""
        at = max(at, self._times[-1]) if self._times else at
        self._times.extend([at] * count)

    def after(self, at: float) -> int:
        """How many were answered later than that."""
        return len(self._times) - bisect_right(self._times, at, self._first)

    def forget(self, kept_s: float, now: float) -> None:
        times = self._times
        while self._first < len(times) and times[self._first] + kept_s <= now:
            self._first += 1
        if self._first > len(self):
            del times[: self._first]
            self._first = 0


class _Window:
    """So many requests within so many seconds, and what others use of them."""

    def __init__(self, limit: int, length_s: float, heard_at: float) -> None:
        self.limit = limit
        self.length_s = length_s
        self.heard_at = heard_at
        self.remaining = limit
        self.densest = 0  # the most requests for polling that were ever in it
        self._others: deque[tuple[float, int]] = deque()  # when others were felt, and how many requests of theirs

    def usable(self, kept_free: int = 0) -> int:
        """How many of them are ours."""
        left = self.limit - kept_free
        if self._others:
            others = self._others[0][1]  # the most: later ones are there only if they are fewer
            left -= others + math.ceil(others * OTHERS_GUARD)
        return max(1, left)

    def feel_others(self, now: float, others: int) -> None:
        others = min(max(0, others), self.limit)
        while self._others and self._others[-1][1] <= others:
            self._others.pop()
        if others:
            self._others.append((now, others))

    def forget(self, now: float) -> None:
        while self._others and self._others[0][0] + OTHERS_HOLD * self.length_s <= now:
            self._others.popleft()


def assumed(per_minute: float) -> tuple[int, float]:
    """The window that holds until the platform announces one: requests, and seconds."""
    limit = max(1, math.floor(per_minute))
    return limit, min(60 * limit / per_minute, WINDOW_MAX_S)


def polls(usable: int, headroom: float) -> float:
    """How many of a window's requests polling may use: a share of them, and never the last one of several."""
    share = usable * min(headroom, POLLING_MAX)
    return min(share, usable - 1) if usable > 1 else share


class RateWindows:
    """`headroom`: the share of the limit that polling may use. `ceiling`: our own limit per minute."""

    def __init__(self, *, per_minute: float, headroom: float, now: float, ceiling: int = LIMIT_MAX) -> None:
        self.silent_until = now
        self._headroom = headroom
        self._windows = [_Window(*assumed(per_minute), now)]
        self._last = self._windows[0]  # announced last; an answer may tell a limit without its window
        self._announced = False
        self._own = [_Window(ceiling, 60.0, now)] if ceiling < LIMIT_MAX else []
        self._limits = [*self._windows, *self._own]
        self._born = now
        self._strikes = 0
        self._grid = -math.inf  # when the last poll was due; the next ones follow from there
        self._pages = 0  # requests that the last poll took beside its first
        self._in_flight = 0
        self._log_in_flight = 0  # those of them that are for the call log
        self._spent = _Answered()
        self._log_spent = _Answered()

    @property
    def limit(self) -> int:
        return self._tightest().limit

    @property
    def remaining(self) -> int:
        return self._tightest().remaining

    @property
    def window_s(self) -> float:
        return self._tightest().length_s

    def _tightest(self) -> _Window:
        """The one that allows the fewest requests in the long run."""
        return max(self._windows, key=lambda window: window.length_s / window.limit)

    # What may be sent

    @property
    def spacing_s(self) -> float:
        """Seconds from one poll to the next."""
        spacing_s = 0.0
        for window in self._limits:
            spacing_s = max(spacing_s, window.length_s / polls(window.usable(), self._headroom))
        return spacing_s

    def due(self, purpose: Purpose, now: float) -> float:
        """When such a request may be sent; infinity while only the end of another one can tell."""
        self._forget(now)
        if self._strikes and self._in_flight:
            return math.inf  # after a penalty one goes ahead
        due = max(now, self.silent_until)
        for window in self._limits:
            usable = self._usable(window, now)
            due = max(due, _place_free(self._spent, usable - self._in_flight, window, now))
            if purpose == "call_log":
                room = self._call_log_share(window, usable, now) - self._log_in_flight
                due = max(due, _place_free(self._log_spent, room, window, now))
        return max(due, self._poll_due()) if purpose == "poll" else due

    def begin(self, purpose: Purpose, now: float) -> None:
        self._in_flight += 1
        self._log_in_flight += purpose == "call_log"
        for window in self._windows:
            since = now - window.length_s - SLACK_S
            log = self._log_in_flight + self._log_spent.after(since)
            window.densest = max(window.densest, self._in_flight + self._spent.after(since) - log)
        if purpose == "poll":
            late_at_most = now - max((1 - EVENNESS) * self.spacing_s, TOGETHER_S)
            self._grid = max(self._poll_due(), late_at_most) if self._grid > -math.inf else now
            self._pages = 0
        elif purpose == "page":
            self._pages += 1

    def end(self, purpose: Purpose, now: float, *, sent: bool = True) -> None:
        """It was answered, or given up; `sent` False: it never went out, and counts nothing."""
        self._in_flight -= 1
        self._log_in_flight -= purpose == "call_log"
        if sent:
            self._spent.add(now)
            self._log_spent.add(now, purpose == "call_log")

    def _poll_due(self) -> float:
        return self._grid + (1 + self._pages) * self.spacing_s

    def _usable(self, window: _Window, now: float) -> int:
        """One place less at first: whether others use the same credential shows only in the answers."""
        at_first = window in self._windows and now - self._born < UNKNOWN_FOR * window.length_s
        return window.usable(kept_free=1 if at_first else 0)

    def _call_log_share(self, window: _Window, usable: int, now: float) -> int:
        """The reserve; more where polling leaves more, and a whole window has shown that it does.

        What polling leaves only because it pauses (in an outage, a penalty) is not taken: it would be late afterwards.
        """
        share = usable - math.ceil(polls(window.usable(), self._headroom) - 1e-9)
        if now - self._born > window.length_s + SLACK_S:
            share = max(share, usable - window.densest)
        return max(1, share)

    def _forget(self, now: float) -> None:
        longest_s = 0.0
        for window in self._limits:
            longest_s = max(longest_s, window.length_s)
            window.forget(now)
        self._spent.forget(longest_s + SLACK_S, now)
        self._log_spent.forget(longest_s + SLACK_S, now)

    # What the platform says

    def heard(
        self, now: float, asked_at: float, *, limit: int | None, remaining: int | None, window_s: float | None
    ) -> None:
        """The headers of an answer; what is missing or absurd is left as it was."""
        if limit is None or not 0 < limit <= LIMIT_MAX:
            return
        window = self._announce(now, limit, window_s)
        if remaining is not None and 0 <= remaining <= limit:
            window.remaining = remaining
            # Ours can be all that is in flight, and all that was still in the window when the request was asked.
            ours = self._in_flight + self._spent.after(asked_at - window.length_s)
            window.feel_others(now, limit - remaining - ours)

    def _announce(self, now: float, limit: int, length_s: float | None) -> _Window:
        """The window that an answer speaks of. All that were announced are kept; the assumed one gives way to them."""
        if length_s is not None and 0 < length_s <= WINDOW_MAX_S:
            if not self._announced:
                self._announced = True
                self._windows = [window for window in self._windows if window.length_s == length_s]
            found = next((window for window in self._windows if window.length_s == length_s), None)
            if found is None:
                found = _Window(limit, length_s, now)
                self._windows.append(found)
            self._last = found
        self._last.limit, self._last.heard_at = limit, now
        kept = [window for window in self._windows if now - window.heard_at < ANNOUNCED_FOR_S]
        if len(kept) > WINDOWS_MAX:
            kept.remove(min(kept, key=lambda window: window.heard_at))
        self._windows = kept
        self._limits = [*kept, *self._own]
        return self._last

    def succeeded(self, now: float) -> None:
        if now >= self.silent_until:
            self._strikes = 0

    def refused(self, now: float, *, retry_after_s: float | None, window_s: float | None) -> None:
        """A 429. The second in a row is waited out longer than its Retry-After says.

        Two programs that both wait just as long as Retry-After says keep each other in the penalty for ever: each
        one's first request after it falls into the penalty that the other's has begun.
        """
        if now >= self.silent_until:
            self._strikes += 1
        wish_s = max(PENALTY_DEFAULT_S, window_s or 0.0) if retry_after_s is None else retry_after_s
        growth = 2 ** min(self._strikes - 1, 2 if retry_after_s is None else 1)
        for window in self._windows:
            window.remaining = 0
        self.silence(now, wish_s * growth)

    def silence(self, now: float, seconds: float) -> None:
        """Send nothing for so long (at most an hour)."""
        self.silent_until = max(self.silent_until, now + min(max(seconds, 0.0), PENALTY_MAX_S) + SLACK_S)

    # Over a restart

    def keep(self, now: float, wall: float) -> Kept:
        self._forget(now)
        return Kept(
            at=wall,
            windows=[(one.limit, one.length_s, now - one.heard_at) for one in self._windows if self._announced],
            silent_s=max(0.0, self.silent_until - now),
            strikes=self._strikes,
            spent=self._by_second(now),
        )

    def restore(self, kept: Kept, now: float, wall: float) -> None:
        """Whatever the wall clock did meanwhile, never more careless than what was kept, nor silent for longer."""
        passed_s = max(0.0, wall - kept.at)
        self._strikes = kept.strikes
        for limit, length_s, ago_s in kept.windows:
            if 0 < limit <= LIMIT_MAX and passed_s + ago_s < ANNOUNCED_FOR_S:
                self._announce(now - passed_s - ago_s, limit, length_s)
        if kept.silent_s > passed_s:
            self.silent_until = now + min(kept.silent_s - passed_s, PENALTY_MAX_S)
        for ago_s, polls, call_log in kept.spent:
            if not (ago_s >= -IN_FLIGHT_KEPT_S and 0 <= polls <= LIMIT_MAX and 0 <= call_log <= LIMIT_MAX):
                continue  # not what was kept
            at = now - passed_s - ago_s
            self._spent.add(at, polls + call_log)
            self._log_spent.add(at, call_log)
            self._grid = at if polls else self._grid
        self._forget(now)

    def _by_second(self, now: float) -> list[tuple[int, int, int]]:
        """Counts per whole second, oldest first, and of what is under way: bounded by the window."""
        counts = []
        if self._spent:
            left, log_left = len(self._spent), len(self._log_spent)
            for ago_s in range(math.ceil(now - self._spent[0]), -1, -1):
                after, log_after = self._spent.after(now - ago_s), self._log_spent.after(now - ago_s)
                log = log_left - log_after
                counts.append((ago_s, left - after - log, log))
                left, log_left = after, log_after
        counts.append((-IN_FLIGHT_KEPT_S, self._in_flight - self._log_in_flight, self._log_in_flight))
        return [(ago_s, polls, log) for ago_s, polls, log in counts if polls or log]


def _place_free(answered: _Answered, room: int, window: _Window, now: float) -> float:
    """When so many of the answered requests have left the window that one more has room."""
    kept_s = window.length_s + SLACK_S
    inside = answered.after(now - kept_s)
    too_many = inside + 1 - room
    if too_many <= 0:
        return -math.inf
    if too_many > inside:
        return math.inf
    return answered[len(answered) - inside + too_many - 1] + kept_s
