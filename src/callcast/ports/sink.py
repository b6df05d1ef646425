"""What a sink promises, and what it is given.

A sink is one file: its settings, its checks and its construction. Its settings class is registered under the
entry-point group `callcast.sinks`; `open` is an async context manager that yields a `Sink`, which is connected
or says `Retry`. The outbox is the only queue and the delivery worker the only retrier: no queue, no retry and no
sleep in a sink.
"""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Protocol, runtime_checkable

from msgspec import Struct

from callcast.calls.model import Call, CallEvent, Event
from callcast.formats.cloudevents import Wire
from callcast.ports.clock import Clock
from callcast.ports.live_calls import LiveCalls


class Delivered(Struct, frozen=True, eq=False):
    """The receiver has the event and said so. `detail`: how it said so, for `explain`; it makes no difference else."""

    detail: str = ""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Delivered)

    def __ne__(self, other: object) -> bool:  # a struct does not derive it
        return not self == other

    def __hash__(self) -> int:
        return hash(Delivered)


class Retry(Struct, frozen=True):
    """Not now. `reason` is a short word for metrics, `detail` a sentence for people, without secrets.

    `after_s`: the remote side's own wish. `holds_sink`: it holds for everything that this sink is owed, not
    only for this event. `gone`: the remote side says that it is closed for good; probe seldom, say it loudly.
    """

    reason: str
    detail: str = ""
    after_s: float | None = None
    holds_sink: bool = False
    gone: bool = False


class Rejected(Struct, frozen=True):
    """Never: the remote side will not take this event, however often it is sent.

    `unless_alone`: reject only when another call's event was accepted after this one's first attempt; until
    then the fault may be ours (a wrong secret, a wrong clock), and the event is tried again.
    """

    reason: str
    detail: str = ""
    unless_alone: bool = False


Outcome = Delivered | Retry | Rejected


class Delivery(Struct, frozen=True, kw_only=True):
    """One event that one sink is owed, claimed for one attempt.

    attempt: 1, 2, ...; counted when settled, kept over restarts.
    expires_at: when the event is worthless (live events), or given up.
    pending_at: when it was recorded, or brought back by `dead retry` or `replay` (then `replayed`).
    first_tried_at: when its first attempt since the service started was settled.
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
        """What the time to live counts from."""
        return self.pending_at or self.recorded_at

    @property
    def live(self) -> bool:
        """Worthless once the moment has passed; what a person asked for again never is."""
        return self.event.live and not self.replayed


class Sink(Protocol):
    async def send(self, delivery: Delivery, /) -> Outcome:
        """Return once the remote side has answered, never before; never raise for trouble outside this program.

        May be cancelled at any await; then nothing is left open.
        """
        ...


@runtime_checkable
class Reconnecting(Protocol):
    """What a sink with a lasting connection adds, so that what waits does not wait on after an outage.

    the delivery worker awaits it in a loop (`isinstance(sink, Reconnecting)`) and makes everything owed due.
    """

    async def reconnected(self) -> None:
        """Return once the connection has come back after an outage; each return tells of outages before it."""
        ...


@runtime_checkable
class Advising(Protocol):
    """What a sink adds that knows what to do about its troubles, in words of the configuration's keys."""

    def advice(self, outcome: Retry | Rejected, /) -> str:
        """The next step for this cause; "" where there is none but to look at the other side."""
        ...


class SinkContext(Struct, frozen=True, kw_only=True):
    """Where a sink stands: what `open` is given beside the sink's own settings.

    installation: a stable id of this installation, letters and digits.
    log: `log(event_name, **facts)` at warning; the event name in past tense, facts without secrets.
    """

    name: str
    installation: str
    version: str
    live_calls: LiveCalls
    wire: Wire
    clock: Clock
    log: Callable[..., None]


class SinkSettings(Protocol):
    def open(self, context: SinkContext, /) -> AbstractAsyncContextManager[Sink]: ...


class Filter(Struct, frozen=True, kw_only=True):
    """Which events a sink wants. `extensions` empty: all. Source events pass by their type alone.

    A call's direction may change. So `directions` decides only until an event of the call was recorded for the sink.
    """

    events: tuple[str, ...] = ("*",)
    directions: tuple[str, ...] = ("inbound", "outbound")
    extensions: tuple[str, ...] = ()

    def wants(self, event: Event, /, *, followed: bool = False) -> bool:
        """`followed`: an earlier event of the same call was recorded for the sink."""
        if not any(fnmatchcase(event.type, glob) for glob in self.events):
            return False
        if not isinstance(event, CallEvent):
            return True
        return (followed or event.call.direction in self.directions) and self._has(event.call.extension_id)

    def shows(self, call: Call, /) -> bool:
        """Whether a sink that mirrors the live calls shows this one: it does not stop when the direction changes."""
        directions = {call.direction, *call.emitted_directions}
        return not directions.isdisjoint(self.directions) and self._has(call.extension_id)

    def _has(self, extension_id: str) -> bool:
        return not self.extensions or extension_id in self.extensions
