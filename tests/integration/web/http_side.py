"""The HTTP server with live calls, a history and a health that the test controls."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from callcast.calls.ids import event_id
from callcast.calls.model import (
    Call,
    CallEvent,
    ChangeSet,
    Direction,
    Disposition,
    Event,
    Evidence,
    Observation,
    Party,
    Provider,
    State,
    Target,
)
from callcast.formats.cloudevents import Wire
from callcast.live.live_calls import InMemoryLiveCalls
from callcast.observability.metrics import Metrics
from callcast.observability.outbox_health import OutboxFailure
from callcast.ports.outbox import Stored
from callcast.web.serializers import CallSerializer
from callcast.web.server import WebServer
from callcast.web.sse import Broadcaster

WAIT_S = 30.0
ANSWERED = {"state": State.CONNECTED, "answered_exact": True}


class RealClock:
    """The real time, plus an offset that the test sets."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def now(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self.ahead_s)

    wall = now

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead_s

    async def sleep(self, seconds: float, /) -> None:
        await asyncio.sleep(seconds)


class Memory:
    """The event history of an outbox, in memory."""

    def __init__(self) -> None:
        self.stored: list[Stored] = []

    def add(self, event: Event) -> None:
        self.stored.append(Stored(seq=len(self.stored) + 1, recorded_at=datetime.now(UTC), event=event))

    async def history(self, *, after_seq: int, limit: int) -> Sequence[Stored]:
        return self.stored[after_seq : after_seq + limit]

    async def last_seq(self) -> int:
        return len(self.stored)


@dataclass
class Harness:
    """The parts behind the server under test. `reasons` and `faults` set what health and reload report."""

    clock: RealClock
    live_calls: InMemoryLiveCalls
    memory: Memory
    broadcaster: Broadcaster
    reasons: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    reloads: int = 0
    trouble: OutboxFailure | None = None
    server: WebServer = field(init=False)

    @property
    def url(self) -> str:
        return self.server.url

    async def reload(self) -> Sequence[str]:
        self.reloads += 1
        return self.faults

    def watch(self, source: str, extension_ids: Sequence[str] = (), interval_s: float = 6.0) -> None:
        """Watch the source, with every target just polled."""
        self.live_calls.watch(source, extension_ids or None, interval_s)
        self.poll(source, extension_ids)

    def poll(self, source: str, extension_ids: Sequence[str] = ()) -> None:
        for extension_id in extension_ids or (None,):
            target, at = Target(source=source, extension_id=extension_id), self.clock.now()
            self.live_calls.polled(target, at)
            if self.trouble is None:
                self.live_calls.stored(target, at)

    def record(self, call: Call, event_type: str) -> CallEvent:
        """Record an event and update the live calls, as the service does after each poll."""
        recorded = event(call, event_type, self.clock.now())
        self.memory.add(recorded)
        self.live_calls.apply(ChangeSet(calls=(call,), events=(recorded,)))
        self.broadcaster.wake()
        return recorded

    def ring(self, extension_id: str, session_id: str = "s-1", **facts: Any) -> Call:
        call = ringing(extension_id, session_id, **{"started_at": self.clock.now(), **facts})
        self.record(call, "call.ringing")
        return call

    def answer(self, call: Call, **facts: Any) -> Call:
        facts = {"answered_at": self.clock.now(), **ANSWERED, **facts}
        answered = msgspec.structs.replace(call, sequence=call.sequence + 1, **facts)
        self.record(answered, "call.answered")
        return answered

    def end(self, call: Call, disposition: Disposition = Disposition.ANSWERED) -> Call:
        ended = msgspec.structs.replace(
            call,
            sequence=call.sequence + 1,
            state=State.ENDED,
            disposition=disposition,
            ended_at=self.clock.now(),
        )
        self.record(ended, "call.ended")
        return ended


async def until(holds: Callable[[], bool]) -> None:
    """Wait until the condition holds."""
    async with asyncio.timeout(WAIT_S):
        while not holds():  # noqa: ASYNC110 (a condition of any kind)
            await asyncio.sleep(0.005)


@asynccontextmanager
async def harness(
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    token: str = "",
    hosts: Sequence[str] = (),
    numbers: Any = "last4",
    names: dict[str, str] | None = None,
    version: str = "1.2.3",
) -> AsyncIterator[Harness]:
    clock = RealClock()
    live_calls = InMemoryLiveCalls(clock, UTC)
    memory = Memory()
    serializer = CallSerializer(Wire(numbers, b"key"), names or {})
    broadcaster = Broadcaster(live_calls, memory, clock, serializer, lambda: made.trouble)
    made = Harness(clock, live_calls, memory, broadcaster)
    made.server = WebServer(
        host,
        live_calls=live_calls,
        metrics=Metrics(live_calls, clock, version),
        broadcaster=broadcaster,
        health=Health(made.reasons, made.warnings),
        reload=made.reload,
        clock=clock,
        serializer=serializer,
        version=version,
        token=token,
        hosts=hosts,
    )
    async with made.server.listening(port):
        running = asyncio.create_task(broadcaster.run())
        try:
            yield made
        finally:
            running.cancel()
            await asyncio.wait([running])


class Health:
    def __init__(self, reasons: list[str], warnings: list[str]) -> None:
        self._reasons = reasons
        self._warnings = warnings

    def reasons(self) -> Sequence[str]:
        return self._reasons

    def warnings(self) -> Sequence[str]:
        return self._warnings


def ringing(extension_id: str = "101", session_id: str = "s-1", **facts: Any) -> Call:
    """A call that rings an extension; `facts` replace fields."""
    usual: dict[str, Any] = {
        "source": "acme",
        "call_id": f"{extension_id}/{session_id}",
        "session_id": session_id,
        "extension_id": extension_id,
        "account_id": "1",
        "sequence": 1,
        "direction": Direction.INBOUND,
        "state": State.RINGING,
        "from_party": Party(number="+16504306662", name="WIRELESS CALLER"),
        "to_party": Party(extension_number=extension_id),
        "started_at": datetime.now(UTC),
        "provider": Provider(name="ringcentral", record_id="r-1"),
    }
    return Call(**(usual | facts))


def event(call: Call, event_type: str, at: datetime) -> CallEvent:
    observation = Observation(after=at, before=at, exact=True, evidence=Evidence.ACTIVE_CALLS, first_poll=False)
    return CallEvent(
        id=event_id(call.account_id, call.call_id, event_type, str(call.sequence)),
        type=event_type,
        time=at,
        call=msgspec.structs.replace(call, observation=observation),
        previous_state=call.previous_state,
        sequence=call.sequence,
        observation=observation,
    )
