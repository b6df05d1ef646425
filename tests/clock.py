"""A clock that the test advances."""

import asyncio
import heapq
import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

_QUIET_TURNS = 12  # turns of the loop without work elsewhere until everything is taken to have settled


class TurnedClock:
    """Implements `callcast.ports.clock.Clock` without ever waiting.

    by_itself=False: a sleeper sleeps until the test has turned the clock that far (`await clock.turn(30)`).
    by_itself=True: a sleep moves the hands itself and returns; for code in which one task sleeps at a time.
    busy: says whether work is under way outside the loop (an outbox's thread); `settle` and `turn` wait for it.
    """

    def __init__(
        self,
        start: datetime = datetime(2026, 3, 2, 9, 0, tzinfo=UTC),
        *,
        by_itself: bool = False,
        busy: Callable[[], bool] = lambda: False,
    ) -> None:
        self.busy = busy
        self.wall_offset = timedelta()  # how far this machine's wall clock is off
        self._start = start
        self._by_itself = by_itself
        self._passed_s = 0.0
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self._passed_s)

    def wall(self) -> datetime:
        return self.now() + self.wall_offset

    def monotonic(self) -> float:
        return self._passed_s

    async def sleep(self, seconds: float, /) -> None:
        if self._by_itself:
            self._passed_s += max(0.0, seconds)
            await asyncio.sleep(0)
            return
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._passed_s + seconds, next(self._order), woken))
        await woken

    async def turn(self, seconds: float) -> None:
        """Advance the time. Sleepers wake in order, and all their work is done before the next one wakes."""
        end_s = self._passed_s + seconds
        await self.settle()
        while self._sleepers and self._sleepers[0][0] <= end_s:
            at_s, _, woken = heapq.heappop(self._sleepers)
            if woken.done():
                continue
            self._passed_s = max(self._passed_s, at_s)
            woken.set_result(None)
            await self.settle()
        self._passed_s = end_s

    async def settle(self) -> None:
        """Return when no task can continue without more time."""
        quiet = 0
        while quiet < _QUIET_TURNS:
            await asyncio.sleep(0)
            quiet = 0 if self.busy() else quiet + 1
