"""The sink protocol: what a sink implements, and what it gets to work with.

`callcast.sinks.SinkSettings` opens a sink. The outbox is the only queue and the delivery worker the only retrier: a
sink has no queue, no retry and no sleep of its own, except a short one that keeps two requests apart.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Protocol, runtime_checkable

from msgspec import Struct

from callcast.calls.model import Call, CallEvent, Event
from callcast.formats.cloudevents import Wire
from callcast.ports.clock import Clock
from callcast.ports.live_calls import LiveCalls


class Delivered(Struct, frozen=True, eq=False):
    """The remote side acknowledged the event. `detail`: its response, for `explain`; ignored in comparisons."""

    detail: str = ""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Delivered)

    def __ne__(self, other: object) -> bool:  # a struct does not derive it
        return not self == other

    def __hash__(self) -> int:
        return hash(Delivered)


class Retry(Struct, frozen=True):
    """The event was not delivered; try again later.

    reason: a short word for metrics. detail: a sentence for people, without secrets.
    after_s: the delay in seconds that the remote side asked for.
    holds_sink: the delay applies to all deliveries of this sink, not only to this one.
    gone: the remote side says that it is closed permanently; recovery probes are sent once an hour.
    """

    reason: str
    detail: str = ""
    after_s: float | None = None
    holds_sink: bool = False
    gone: bool = False


class Rejected(Struct, frozen=True):
    """The remote side rejects this event permanently; it becomes a dead letter.

    unless_alone: reject only once another call's event was accepted after this one's first attempt. Until then the
    cause may be the configuration (a wrong secret, a wrong clock), and the event is retried.
    """

    reason: str
    detail: str = ""
    unless_alone: bool = False


Outcome = Delivered | Retry | Rejected


class Delivery(Struct, frozen=True, kw_only=True):
    """One event for one sink, claimed for one attempt.

    attempt: 1, 2, ...; counted when the result is stored, and kept across restarts.
    expires_at: when the event expires (live events) or is given up.
    pending_at: when it was recorded, or made pending again by `dead retry` or `replay` (then `replayed` is true).
    first_tried_at: when its first attempt since the start of the service ended.
    """

    sink: str
    seq: int
    event: Event
    attempt: int
    recorded_at: datetime
    expires_at: datetime | None = None
    pending_at: datetime | None = None
    first_tried_at: datetime | None = None
    replayed: bool = False

    @property
    def pending_since(self) -> datetime:
        """The start of the time to live."""
        return self.pending_at or self.recorded_at

    @property
    def live(self) -> bool:
        """True when the event may expire: it is live and was not replayed."""
        return self.event.live and not self.replayed


class Sink(Protocol):
    async def send(self, delivery: Delivery, /) -> Outcome:
        """Send one event, and return once the remote side has answered.

        Trouble outside this process is returned as `Retry` or `Rejected`, never raised. May be cancelled at any await,
        and must then leave nothing open.
        """
        ...


@runtime_checkable
class Reconnecting(Protocol):
    """Implemented by a sink with a persistent connection, so that deliveries resume at once after an outage.

    The delivery worker awaits `reconnected` in a loop, and then makes the whole backlog due.
    """

    async def reconnected(self) -> None:
        """Return once the connection is restored after an outage that ended since the last return."""
        ...


@runtime_checkable
class SuggestsFix(Protocol):
    """Implemented by a sink that can say how to fix its failures, in terms of configuration keys."""

    def fix(self, outcome: Retry | Rejected, /) -> str:
        """Return the next step for this outcome; "" if it has to be found at the remote side."""
        ...


class SinkContext(Struct, frozen=True, kw_only=True):
    """What a sink gets to work with, in addition to its own settings.

    installation: a stable id of this installation, letters and digits.
    names: the names of extensions as configured, by id; a reload changes the content.
    log: `log(event_name, **facts)`, at level warning; the event name in past tense, no secrets in the facts.
    """

    name: str
    installation: str
    version: str
    live_calls: LiveCalls
    wire: Wire
    clock: Clock
    log: Callable[..., None]
    names: Mapping[str, str] = {}


class Filter(Struct, frozen=True, kw_only=True):
    """Which events a sink gets. `dispositions`, `extensions` and `sources`: empty means all.

    Source events are filtered by type and source only. A call's direction may change, so `directions` applies only
    until one event of the call was recorded for the sink. `dispositions` applies to the events that have one.
    """

    events: tuple[str, ...] = ("*",)
    directions: tuple[str, ...] = ("inbound", "outbound")
    dispositions: tuple[str, ...] = ()
    extensions: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()

    def wants(self, event: Event, /, *, followed: bool = False) -> bool:
        """`followed`: an earlier event of the same call was recorded for the sink."""
        if not any(fnmatchcase(event.type, glob) for glob in self.events):
            return False
        if not isinstance(event, CallEvent):
            return self.has_source(event.source)
        call = event.call
        if self.dispositions and not event.live and call.disposition not in self.dispositions:
            return False
        return (followed or call.direction in self.directions) and self.has(call.source, call.extension_id)

    def shows(self, call: Call, /) -> bool:
        """Whether a sink that shows live calls shows this one; it stays shown when the direction changes."""
        directions = {call.direction, *call.emitted_directions}
        return not directions.isdisjoint(self.directions) and self.has(call.source, call.extension_id)

    def has(self, source: str, extension_id: str, /) -> bool:
        return self.has_source(source) and (not self.extensions or extension_id in self.extensions)

    def has_source(self, source: str, /) -> bool:
        return not self.sources or source in self.sources
