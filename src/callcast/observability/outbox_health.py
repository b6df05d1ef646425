"""What every part of the service does when the outbox is unavailable: report it here, and try again.

Each part is a user of the outbox. It either waits until the outbox works (`until_available`), or gives up what it was
doing, because it does it again later anyway (`reporting`). Users fail and recover on their own: on a full disk a small
write may succeed while a large one does not.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any, TypeVar

from msgspec import Struct

from callcast.ports.clock import Clock
from callcast.ports.outbox import OutboxUnavailable

PAUSE_S = 1.0  # between two attempts while the outbox is unavailable

T = TypeVar("T")


class OutboxFailure(Struct, frozen=True):
    """Since when (by this machine's clock) the outbox cannot be used, and why."""

    since: datetime
    detail: str


class OutboxHealth:
    """Whether the outbox works for all of its users."""

    def __init__(self, clock: Clock, log: Any) -> None:
        self.clock = clock
        self.log = log
        self.failures: dict[OutboxUser, OutboxFailure] = {}
        self.service = self.user()  # for the service as a whole, which tests every few seconds whether it can write

    @property
    def failure(self) -> OutboxFailure | None:
        """The failure that lasts longest; None while the outbox works."""
        return min(self.failures.values(), key=lambda one: one.since, default=None)

    def user(self, **facts: str) -> "OutboxUser":
        """Add a user. `facts`: who it is, for the log."""
        return OutboxUser(self, facts)


class OutboxUser:
    """A part of the service that uses the outbox. Logs when it fails, and once when it recovers."""

    def __init__(self, health: OutboxHealth, facts: Mapping[str, str]) -> None:
        self._health = health
        self._facts = facts

    def failed(self, error: OutboxUnavailable) -> None:
        before = self._health.failures.get(self)
        self._health.failures[self] = OutboxFailure(before.since if before else self._health.clock.wall(), str(error))
        if before is None:
            self._health.log.error("outbox_failed", **self._facts, reason="outbox", detail=str(error))

    def works(self) -> None:
        """Note that this user has stored something."""
        if self._health.failures.pop(self, None):
            self._health.log.info("outbox_recovered", **self._facts)

    def ended(self) -> None:
        self._health.failures.pop(self, None)

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """Report that the outbox is unavailable instead of raising it."""
        try:
            yield
        except OutboxUnavailable as error:
            self.failed(error)

    async def until_available(self, do: Callable[[], Awaitable[T]]) -> T:
        """Call `do` until the outbox is available."""
        while True:
            with self.reporting():
                done = await do()
                self.works()
                return done
            await self._health.clock.sleep(PAUSE_S)
