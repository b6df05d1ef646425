"""Whether the outbox can be used, as last seen; says so once when that changes."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, TypeVar

from msgspec import Struct

from callcast.ports.clock import Clock
from callcast.ports.outbox import OutboxUnavailable

PAUSE_S = 1.0  # between two tries of an outbox that cannot be used

T = TypeVar("T")


class Trouble(Struct, frozen=True):
    """Since when (by this machine's clock) the outbox cannot be written, and why."""

    since: datetime
    detail: str


class Disk:
    def __init__(self, clock: Clock, log: Any) -> None:
        self.trouble: Trouble | None = None
        self._clock = clock
        self._log = log

    def fails(self, error: OutboxUnavailable) -> None:
        self.trouble = Trouble(self.trouble.since if self.trouble else self._clock.wall(), str(error))
        self._log.error("outbox_failed", reason="outbox", detail=str(error))

    def works(self) -> None:
        if self.trouble:
            self._log.info("outbox_recovered")
        self.trouble = None

    async def until_stored(self, do: Callable[[], Awaitable[T]]) -> T:
        """Try until it is done."""
        while True:
            try:
                return await do()
            except OutboxUnavailable as error:
                self.fails(error)
                await self._clock.sleep(PAUSE_S)
