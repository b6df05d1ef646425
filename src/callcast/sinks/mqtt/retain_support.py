"""Finds out whether a broker supports retained messages, from the outcome of each connection."""

from enum import Enum, auto

from callcast.sinks.mqtt.connection import LOST, RETAIN_NOT_SUPPORTED, Failure


class ConnectionOutcome(Enum):
    """How far a connection got."""

    FAILED = auto()  # not accepted, or lost before the first retained message was acknowledged
    RETAINING = auto()  # accepted with a will, and the first retained message was acknowledged
    EVENTS_ONLY = auto()  # accepted without a will, or the broker reported that it has no retained messages


class RetainSupport:
    """Decides whether the next connection has a will and retained messages (`try_next`).

    With MQTT 5 the broker says whether it supports them. With MQTT 3.1.1 it just closes the connection, like a broker
    that restarts, or a proxy whose broker is down. So one accepted connection without retained messages proves
    nothing: the next connection tries them again at once, and only if that is closed too, the broker does not support
    them. Each outage starts with a connection that tries them, so that a reconfigured broker gets them.
    """

    def __init__(self, *, wanted: bool) -> None:
        self.try_next = wanted
        self._wanted = wanted
        self._refused = False  # the broker reported it, or see above
        self._accepted_without = False
        self._announced = False

    def is_final(self, outcome: ConnectionOutcome, *, said: bool) -> bool:
        """Whether to stay with this connection. `said`: the broker reported that it has no retained messages."""
        if outcome is ConnectionOutcome.RETAINING:
            self._refused = self._accepted_without = self._announced = False
            return True
        self._refused = self._wanted and (self._refused or said)
        return self._refused or not self._wanted

    def learn(self, outcome: ConnectionOutcome, failure: Failure) -> bool:
        """After the end of a connection. Returns whether the next one is to be tried at once."""
        tried, self.try_next = self.try_next, self._wanted
        if not self._wanted:
            return False
        if outcome is ConnectionOutcome.EVENTS_ONLY:
            at_once = not self._refused
            self._accepted_without = True
            return at_once
        if outcome is ConnectionOutcome.FAILED and tried:
            said = failure.code == RETAIN_NOT_SUPPORTED
            if said or (failure == LOST and self._accepted_without):
                self._refused = True
            self.try_next = not (said or failure == LOST)
            return self._refused and not self.try_next
        self._accepted_without = False
        return False

    def to_announce(self) -> bool:
        """True once, when it is known that the broker does not support retained messages."""
        announce = self._refused and not self._announced
        self._announced = self._announced or announce
        return announce
