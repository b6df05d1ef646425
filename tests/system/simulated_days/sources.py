"""The left half of the service in turned time: sources by name against a remote side, without a disk."""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, cast

from aiohttp import ClientSession

from callcast.calls.model import Call, ChangeSet, Event, Known, PollRecord, Target
from callcast.live.live_calls import InMemoryLiveCalls
from callcast.observability import logs
from callcast.observability.metrics import Metrics
from callcast.observability.outbox_health import OutboxHealth
from callcast.polling.sources import Sources
from callcast.ports.clock import Clock
from callcast.ports.outbox import Outbox
from callcast.provider import Provider, SourceSettings, plan


class Unwritten:
    """As much of an outbox as sources use. A new `House` may take it over, as a restart takes over a disk."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.calls: dict[str, dict[str, Call]] = {}
        self.polls: dict[str, dict[Target, datetime]] = {}
        self.notes: dict[str, dict[str, bytes]] = {}

    async def known(self, source: str) -> Known:
        return Known(
            calls=dict(self.calls.get(source, {})),
            polls=dict(self.polls.get(source, {})),
            notes=dict(self.notes.get(source, {})),
        )

    async def record(self, _source: str, poll: PollRecord | None, change: ChangeSet) -> None:
        self.events += change.events
        if poll is not None:
            self.polls.setdefault(poll.target.source, {})[poll.target] = poll.taken_at
        for call in change.calls:
            self.calls.setdefault(call.source, {})[call.call_id] = call

    async def recall(self, source: str, sessions: Collection[str]) -> list[Call]:
        return [call for call in self.calls.get(source, {}).values() if call.session_id in sessions]

    async def latest(self, limit: int) -> list[Call]:
        return [call for calls in self.calls.values() for call in calls.values()]

    async def note(self, source: str, name: str, value: bytes | None) -> None:
        self.notes.setdefault(source, {})[name] = value or b""


class House:
    def __init__(self, clock: Clock, session: object, outbox: Unwritten | None = None) -> None:
        self.outbox = outbox or Unwritten()
        self.live_calls = InMemoryLiveCalls(clock)
        self.metrics = Metrics(self.live_calls, clock, "0")
        logs.configure("critical", "json")
        log = logs.bound()
        self.sources = Sources(
            cast("Outbox", self.outbox),
            self.live_calls,
            self.metrics,
            clock,
            log,
            OutboxHealth(clock, log),
            Provider(cast("ClientSession", session), clock),
        )

    @asynccontextmanager
    async def watching(self, wanted: Mapping[str, SourceSettings]) -> AsyncIterator[None]:
        """As the service starts them: one after another within one interval."""
        async with asyncio.TaskGroup() as tasks:
            running = []
            for number, (name, settings) in enumerate(wanted.items()):
                stagger_s = min(plan(name, settings).cycle_s, 10.0) * number / len(wanted)
                running.append(tasks.create_task(self.sources.run(name, settings, start_after_s=stagger_s)))
            yield
            for task in running:
                task.cancel()
        await self.sources.close_all()


def source(name: str, *extensions: str, **keys: Any) -> SourceSettings:
    """A credential of its own; without extensions it watches the account."""
    watched = {"extensions": extensions} if extensions else {"watch": "account"}
    base = {"client_id": name, "client_secret": "secret", "jwt": f"jwt of {name}", "hints": "off"}
    return SourceSettings.model_validate(base | watched | keys)
