"""Whether the last write to the outbox succeeded; logs each failure, and the recovery once."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, TypeVar

from msgspec import Struct

from callcast.ports.clock import Clock
from callcast.ports.outbox import OutboxUnavailable

PAUSE_S = 1.0  # between two attempts while the outbox is unavailable

T = TypeVar("T")


class OutboxFailure(Struct, frozen=True):
    """Since when (by this machine's clock) the outbox cannot be written, and why."""

    since: datetime
    detail: str


class OutboxHealth:
    """Tracks failures of the outbox. `failure` is None while it works."""

    def __init__(self, clock: Clock, log: Any) -> None:
        self.failure: OutboxFailure | None = None
        self._clock = clock
        self._log = log

    def record_failure(self, error: OutboxUnavailable) -> None:
        self.failure = OutboxFailure(self.failure.since if self.failure else self._clock.wall(), str(error))
        self._log.error("outbox_failed", reason="outbox", detail=str(error))

    def record_success(self) -> None:
        if self.failure:
            self._log.info("outbox_recovered")
        self.failure = None

    async def until_stored(self, do: Callable[[], Awaitable[T]]) -> T:
        """Call `do` until the outbox accepts it."""
        while True:
            try:
                return await do()
            except OutboxUnavailable as error:
                self.record_failure(error)
                await self._clock.sleep(PAUSE_S)
