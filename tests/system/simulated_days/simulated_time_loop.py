"""An event loop whose time is turned: where nothing is left to do now, it is at once the time of the next timer.

Not for code that waits for threads. Connections within this process work: what one end has written the other can
read at once, and while a request is under way (`TurnedLoop.under_way`) time stands still for a moment to be sure.
"""

import asyncio
import selectors
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

T = TypeVar("T")


GRACE_S = 0.002  # of this machine's time


class _Hands(selectors.DefaultSelector):
    """Turns the time instead of waiting for it."""

    passed_s = 0.0
    under_way = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout and self.under_way:
            ready = super().select(GRACE_S)
        if not ready and timeout is None:
            raise RuntimeError("every task waits, and no timer is set")
        if not ready and timeout:
            self.passed_s += timeout
        return ready


class TurnedLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._hands = _Hands()
        super().__init__(self._hands)

    def time(self) -> float:
        return self._hands.passed_s

    def under_way(self, change: int) -> None:
        """So many requests more (or less) are under way."""
        self._hands.under_way += change


class LoopClock:
    """Implements `core.clock.Clock` on the loop that runs."""

    def __init__(self, start: datetime = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)) -> None:
        self._start = start

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self.monotonic())

    def wall(self) -> datetime:
        return self.now()

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float, /) -> None:
        await asyncio.sleep(seconds)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run it in turned time, however long that takes there."""
    with asyncio.Runner(loop_factory=TurnedLoop) as runner:
        return runner.run(work)
