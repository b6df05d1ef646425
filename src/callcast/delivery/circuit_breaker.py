"""Decides from the outcomes of attempts whether a sink is healthy. Pure."""

from datetime import datetime

from msgspec import Struct

from callcast.ports.sink import Delivery

FAILING_AFTER = 5  # consecutive failed attempts; attempts that overlap count as one, since they have the same cause


class _Success(Struct, frozen=True):
    at: datetime
    key: str


class CircuitBreaker:
    """The state of a sink: healthy, in doubt, failing or gone; and paused when the remote side asked for a delay.

    In doubt: events of two calls have failed since the last success, and no event of another call was accepted since
    their first attempts, so that the events themselves are not the cause.
    """

    def __init__(self) -> None:
        self.failures = 0  # since the last success
        self.counted = 0  # since the start of the service
        self.in_doubt = False
        self.failing = False
        self.gone = False
        self.held_until: datetime | None = None
        self._failed_call: str | None = None  # since the last success
        self._last: _Success | None = None
        self._last_of_another: _Success | None = None

    def succeeded(self, delivery: Delivery, now: datetime) -> None:
        key = delivery.event.key
        if self._last is not None and self._last.key != key:
            self._last_of_another = self._last
        self._last = _Success(now, key)
        self.reset()

    def reset(self) -> None:
        """The sink has recovered."""
        self.failures, self.in_doubt, self.failing, self.gone = 0, False, False, False
        self._failed_call = None

    def failed(self, delivery: Delivery, *, counted_before: int, gone: bool) -> None:
        """Note a failed attempt. `counted_before`: the value of `counted` when the attempt began."""
        if counted_before == self.counted:
            self.failures += 1
            self.counted += 1
        if not self.accepted_another_since(delivery):
            self._failed_call = self._failed_call or delivery.event.key
            self.in_doubt = self.in_doubt or self._failed_call != delivery.event.key
        self.gone = gone
        self.failing = self.failing or gone or self.failures >= FAILING_AFTER

    def hold(self, until: datetime) -> None:
        """Pause the sink until a time that the remote side asked for."""
        self.held_until = max(until, self.held_until or until)

    def held_for_s(self, now: datetime) -> float:
        return 0.0 if self.held_until is None else (self.held_until - now).total_seconds()

    def accepted_another_since(self, delivery: Delivery) -> bool:
        """Whether another call's event was accepted after this one's first attempt."""
        first, key = delivery.first_tried_at, delivery.event.key
        if first is None:
            return False
        return any(
            success is not None and success.key != key and success.at > first
            for success in (self._last, self._last_of_another)
        )
