"""Whether a broker takes retained messages, learnt from what became of each connection."""

from enum import Enum, auto

from callcast.sinks.mqtt.connection import LOST, RETAIN_NOT_SUPPORTED, Trouble


class Greeting(Enum):
    """How far a connection came."""

    FAILED = auto()  # not let in, or lost before the first retained message was acknowledged
    RETAINING = auto()  # let in with the will, and the first retained message was acknowledged
    EVENTS_ONLY = auto()  # let in without a will, or the broker said that it takes no retained messages


class RetainSupport:
    """Decides whether the next connection has a will and retained messages (`try_next`).

    MQTT 5 has words for it. With 3.1.1 the broker just closes the connection, as a broker does that restarts, or a
    proxy whose broker is down. So a connection without retained messages that is let in proves nothing by itself: the
    next one tries them again at once, and only if that is closed too the broker is one that refuses them. Each outage
    starts with a connection that tries them, so a broker that has learnt to take them gets them.
    """

    def __init__(self, *, wanted: bool) -> None:
        self.try_next = wanted
        self._wanted = wanted
        self._refused = False  # known: either the broker said so, or see above
        self._let_in_without = False
        self._announced = False

    def settles(self, greeting: Greeting, *, said: bool) -> bool:
        """Whether to stay with this connection. `said`: the broker said that it takes no retained messages."""
        if greeting is Greeting.RETAINING:
            self._refused = self._let_in_without = self._announced = False
            return True
        self._refused = self._wanted and (self._refused or said)
        return self._refused or not self._wanted

    def learn(self, greeting: Greeting, trouble: Trouble) -> bool:
        """After the end of a connection. Returns whether the next one is to be tried at once."""
        tried, self.try_next = self.try_next, self._wanted
        if not self._wanted:
            return False
        if greeting is Greeting.EVENTS_ONLY:
            at_once = not self._refused
            self._let_in_without = True
            return at_once
        if greeting is Greeting.FAILED and tried:
            said = trouble.code == RETAIN_NOT_SUPPORTED
            if said or (trouble == LOST and self._let_in_without):
                self._refused = True
            self.try_next = not (said or trouble == LOST)
            return self._refused and not self.try_next
        self._let_in_without = False
        return False

    def to_announce(self) -> bool:
        """True once, when the broker is known to refuse retained messages."""
        announce = self._refused and not self._announced
        self._announced = self._announced or announce
        return announce
