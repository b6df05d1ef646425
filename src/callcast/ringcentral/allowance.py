"""What the rate limit allows, as arithmetic: a sliding window, a penalty, and a pace that keeps out of both.

Pure: every method is given the time, in seconds of a clock that only grows. Facts: RingCentral counts the requests
of a user and an app per group within the last X-Rate-Limit-Window seconds; each request during a penalty starts
the penalty again (developers.ringcentral.com/guide/basics/rate-limits).
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
PENALTY_UNTOLD_S = 30.0  # documented: wait at least 30 s after a 429 without Retry-After
PENALTY_MAX_S = 3600.0
LIMIT_MAX = 1_000_000  # also bounds what is remembered: eight bytes each
WINDOW_MAX_S = 3600.0
OTHERS_HOLD = 3  # windows for which the highest use by other programs is remembered
UNKNOWN_FOR = 2  # windows after the start
OTHERS_GUARD = 0.5  # so much more is left free, because they may be growing
IN_FLIGHT_KEPT_S = 2  # a request on its way when the state is kept is taken to arrive within this


class Kept(msgspec.Struct, frozen=True):
    """The state over a restart, in seconds relative to the moment of keeping; bounded in size."""

    at: float  # of the wall clock, seconds since 1970
    limit: int
    window_s: float
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


class Allowance:
    """`headroom`: the share of the limit that polling may use. `ceiling`: our own limit where it is lower."""

    def __init__(self, *, per_minute: float, headroom: float, now: float, ceiling: int = LIMIT_MAX) -> None:
        self.limit = max(1, math.floor(per_minute))
        self.remaining = self.limit
        self.window_s = min(60 * max(1, math.floor(per_minute)) / per_minute, WINDOW_MAX_S)
        self.silent_until = now
        self._headroom = headroom
        self._ceiling = ceiling
        self._born = now
        self._strikes = 0
        self._grid = -math.inf  # when the last poll was due; the next ones follow from there
        self._pages = 0  # requests that the last poll took beside its first
        self._densest = 0  # the most requests for polling that were ever in one window
        self._in_flight = 0
        self._log_in_flight = 0  # those of them that are for the call log
        self._spent = _Answered()
        self._log_spent = _Answered()
        self._others: deque[tuple[float, int]] = deque()  # when others were felt, and how many requests of theirs

    # What may be sent

    @property
    def spacing_s(self) -> float:
        """Seconds from one poll to the next."""
        return self.window_s / (self._usable() * self._headroom)

    def due(self, purpose: Purpose, now: float) -> float:
        """When such a request may be sent; infinity while only the end of another one can tell."""
        self._forget(now)
        if self._strikes and self._in_flight:
            return math.inf  # after a penalty one goes ahead
        due = max(now, self.silent_until, self._place_free(self._spent, self._room(now)))
        if purpose == "poll":
            return max(due, self._poll_due())
        if purpose == "call_log":
            return max(due, self._place_free(self._log_spent, self._call_log_room(now)))
        return due

    def begin(self, purpose: Purpose, now: float) -> None:
        self._in_flight += 1
        self._log_in_flight += purpose == "call_log"
        log = self._log_in_flight + len(self._log_spent)
        self._densest = max(self._densest, self._in_flight + len(self._spent) - log)
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

    def _usable(self, kept_free: int = 0) -> int:
        """How many requests per window are ours."""
        others = self._others[0][1] if self._others else 0  # the most: later ones are there only if they are fewer
        left = self.limit - kept_free - others - math.ceil(others * OTHERS_GUARD)
        return max(1, min(left, self._ceiling))

    def _room(self, now: float) -> int:
        """One place less at first: whether others use the same credential shows only in the answers."""
        at_first = now - self._born < UNKNOWN_FOR * self.window_s
        return self._usable(kept_free=1 if at_first else 0) - self._in_flight

    def _call_log_room(self, now: float) -> int:
        """The reserve; more where polling leaves more, and a whole window has shown that it does.

        What polling leaves only because it pauses (in an outage, a penalty) is not taken: it would be late afterwards.
        """
        usable = self._room(now) + self._in_flight
        share = usable - math.ceil(self._usable() * self._headroom - 1e-9)
        if now - self._born > self.window_s + SLACK_S:
            share = max(share, usable - self._densest)
        return max(1, share) - self._log_in_flight

    def _place_free(self, answered: _Answered, room: int) -> float:
        """When so many of the answered requests have left the window that one more has room."""
        too_many = len(answered) + 1 - room
        if too_many <= 0:
            return -math.inf
        if too_many > len(answered):
            return math.inf
        return answered[too_many - 1] + self.window_s + SLACK_S

    def _forget(self, now: float) -> None:
        for answered in (self._spent, self._log_spent):
            answered.forget(self.window_s + SLACK_S, now)
        while self._others and self._others[0][0] + OTHERS_HOLD * self.window_s <= now:
            self._others.popleft()

    # What the platform says

    def heard(
        self, now: float, asked_at: float, *, limit: int | None, remaining: int | None, window_s: float | None
    ) -> None:
        """The headers of an answer; what is missing or absurd is left as it was."""
        if window_s is not None and 0 < window_s <= WINDOW_MAX_S:
            self.window_s = window_s
        if limit is not None and 0 < limit <= LIMIT_MAX:
            self.limit = limit
            if remaining is not None and 0 <= remaining <= limit:
                self.remaining = remaining
                self._feel_others(now, asked_at, limit - remaining)

    def _feel_others(self, now: float, asked_at: float, used: int) -> None:
        """What is used, and cannot be ours, is used by others.

        Ours can be all that is in flight, and all that was still in the window when the request was asked.
        """
        ours = self._in_flight + self._spent.after(asked_at - self.window_s)
        others = min(max(0, used - ours), self.limit)
        while self._others and self._others[-1][1] <= others:
            self._others.pop()
        if others:
            self._others.append((now, others))

    def succeeded(self, now: float) -> None:
        if now >= self.silent_until:
            self._strikes = 0

    def refused(self, now: float, *, retry_after_s: float | None, window_s: float | None) -> None:
        """A 429. The second in a row is waited out longer than told.

        Two programs that both wait just as long as they were told keep each other in the penalty for ever: each
        one's first request after it falls into the penalty that the other's has begun.
        """
        if now >= self.silent_until:
            self._strikes += 1
        wish_s = max(PENALTY_UNTOLD_S, window_s or 0.0) if retry_after_s is None else retry_after_s
        growth = 2 ** min(self._strikes - 1, 2 if retry_after_s is None else 1)
        self.remaining = 0
        self.silence(now, wish_s * growth)

    def silence(self, now: float, seconds: float) -> None:
        """Send nothing for so long (at most an hour)."""
        self.silent_until = max(self.silent_until, now + min(max(seconds, 0.0), PENALTY_MAX_S) + SLACK_S)

    # Over a restart

    def keep(self, now: float, wall: float) -> Kept:
        self._forget(now)
        return Kept(
            at=wall,
            limit=self.limit,
            window_s=self.window_s,
            silent_s=max(0.0, self.silent_until - now),
            strikes=self._strikes,
            spent=self._by_second(now),
        )

    def restore(self, kept: Kept, now: float, wall: float) -> None:
        """Whatever the wall clock did meanwhile, never more careless than what was kept, nor silent for longer."""
        passed_s = max(0.0, wall - kept.at)
        self._strikes = kept.strikes
        self.limit = min(max(1, kept.limit), LIMIT_MAX)
        self.window_s = min(max(1.0, kept.window_s), WINDOW_MAX_S)
        if kept.silent_s > passed_s:
            self.silent_until = now + min(kept.silent_s - passed_s, PENALTY_MAX_S)
        for ago_s, polls, call_log in kept.spent:
            at = now - passed_s - ago_s
            if at + self.window_s + SLACK_S <= now:
                continue
            self._spent.add(at, polls + call_log)
            self._log_spent.add(at, call_log)
            self._grid = at if polls else self._grid

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
