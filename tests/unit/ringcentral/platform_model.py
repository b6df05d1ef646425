"""The platform's rate limit, as small as it can be written: the reference for the rate limiter."""

import math
from collections import deque
from collections.abc import Callable, Sequence
from random import Random

from callcast.ports.clock import Clock


class PlatformModel:
    """Sliding windows for all programs together, and a penalty that every request during it starts again.

    more: further windows, limit and seconds; the answers announce one window after another.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        limit: int = 10,
        window_s: float = 60.0,
        penalty_s: float = 60.0,
        more: Sequence[tuple[int, float]] = (),
    ) -> None:
        self.clock = clock
        self.limit = limit
        self.window_s = window_s
        self.penalty_s = penalty_s
        self.more = more
        self.arrived: list[float] = []  # of ours
        self.refused: list[float] = []  # of ours
        self.refused_others = 0
        self.bare = False  # 429 without headers
        self._counted: deque[float] = deque()
        self._penalty_until = -math.inf

    def ask(self) -> tuple[int, dict[str, str]]:
        """One of our requests arrives: the status and the headers of its answer."""
        now = self.clock.monotonic()
        self.arrived.append(now)
        if not self._count(now):
            self.refused.append(now)
            headers = {} if self.bare else {"Retry-After": str(math.ceil(self.penalty_s)), **self._headers()}
            return 429, headers
        return 200, self._headers()

    def others_ask(self) -> bool:
        """A request of another program; whether it passes."""
        passed = self._count(self.clock.monotonic())
        self.refused_others += not passed
        return passed

    def punish(self) -> None:
        self._penalty_until = self.clock.monotonic() + self.penalty_s

    def _count(self, now: float) -> bool:
        windows = self._windows()
        while self._counted and self._counted[0] <= now - max(window_s for _, window_s in windows):
            self._counted.popleft()
        if now < self._penalty_until or any(self._used(window_s) >= limit for limit, window_s in windows):
            self._penalty_until = now + self.penalty_s
            return False
        self._counted.append(now)
        return True

    def _windows(self) -> list[tuple[int, float]]:
        return [(self.limit, self.window_s), *self.more]

    def _used(self, window_s: float) -> int:
        now = self.clock.monotonic()
        return sum(at > now - window_s for at in self._counted)

    def _headers(self) -> dict[str, str]:
        windows = self._windows()
        limit, window_s = windows[len(self.arrived) % len(windows)]
        return {
            "X-Rate-Limit-Group": "heavy",
            "X-Rate-Limit-Limit": str(limit),
            "X-Rate-Limit-Remaining": str(limit - self._used(window_s)),
            "X-Rate-Limit-Window": str(math.ceil(window_s)),
        }


async def another_program(model: PlatformModel, share: Callable[[float], float], random: Random) -> None:
    """Asks at random times, as often as `share(now)` of the limit; waits out a penalty as it should."""
    while True:
        now_share = share(model.clock.monotonic())
        pause_s = model.window_s / (model.limit * now_share) if now_share else model.window_s
        await model.clock.sleep(pause_s * random.uniform(0.5, 1.5))
        if now_share and not model.others_ask():
            await model.clock.sleep(model.penalty_s)
