"""The platform's rate limit, as small as it can be written: the judge of what the budget does."""

import math
from collections import deque
from collections.abc import Callable
from random import Random

from callcast.core.clock import Clock


class PlatformModel:
    """A sliding window for all programs together, and a penalty that every request during it starts again."""

    def __init__(self, clock: Clock, *, limit: int = 10, window_s: float = 60.0, penalty_s: float = 60.0) -> None:
        self.clock = clock
        self.limit = limit
        self.window_s = window_s
        self.penalty_s = penalty_s
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
        while self._counted and self._counted[0] <= now - self.window_s:
            self._counted.popleft()
        if now < self._penalty_until or len(self._counted) >= self.limit:
            self._penalty_until = now + self.penalty_s
            return False
        self._counted.append(now)
        return True

    def _headers(self) -> dict[str, str]:
        return {
            "X-Rate-Limit-Group": "heavy",
            "X-Rate-Limit-Limit": str(self.limit),
            "X-Rate-Limit-Remaining": str(self.limit - len(self._counted)),
            "X-Rate-Limit-Window": str(math.ceil(self.window_s)),
        }


async def another_program(model: PlatformModel, share: Callable[[float], float], random: Random) -> None:
    """Asks at random times, as often as `share(now)` of the limit; waits out a penalty as it should."""
    while True:
        now_share = share(model.clock.monotonic())
        pause_s = model.window_s / (model.limit * now_share) if now_share else model.window_s
        await model.clock.sleep(pause_s * random.uniform(0.5, 1.5))
        if now_share and not model.others_ask():
            await model.clock.sleep(model.penalty_s)
