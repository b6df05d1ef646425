"""Outboxes with contents: a backlog after an outage, or a million events that were delivered long ago."""

import asyncio
import os
import sqlite3
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bench.participants import SINKS
from bench.records import EVENTS, STEPS, extension_id, session
from callcast.app import SystemClock
from callcast.calls.ids import event_id
from callcast.calls.model import Call, CallEvent, ChangeSet, Direction, Evidence, Observation, Party, Provider, State
from callcast.outbox.sqlite.store import SqliteOutbox, open_outbox
from callcast.ports.outbox import Acked
from callcast.ports.sink import Filter

FIRST = 1_000_000  # call number, far from those of the platform
SEED = 2000  # events that go the real way before they are multiplied
LIMITS = {"retention_h": 72.0, "outbox_max_mb": 100_000.0, "dead_letter_days": 30.0}
ENDED = STEPS - 1
TABLES = ("events", "attempts", "calls")


def ended(number: int) -> ChangeSet:
    """One call that came and went, as the recorder would record it."""
    started_at, session_id = datetime.now(UTC) - timedelta(seconds=20), session(number).decode()
    extension = extension_id(number % 1000)
    call = Call(
        source="acme",
        call_id=f"{extension}/{session_id}",
        session_id=session_id,
        extension_id=extension,
        account_id="809646016",
        sequence=3,
        direction=Direction.INBOUND,
        state=State.ENDED,
        from_party=Party(number="+16505550100", name="WIRELESS CALLER", location="San Mateo, CA"),
        to_party=Party(number="+16505550101", name="Front Desk", location="San Mateo, CA"),
        started_at=started_at,
        answered_at=started_at + timedelta(seconds=4),
        ended_at=started_at + timedelta(seconds=10),
        provider=Provider(name="ringcentral", record_id=f"r-{number}", session_id="538332041016", result="Accepted"),
        record_ids=(f"r-{number}",),
    )
    event = CallEvent(
        id=event_id("809646016", call.call_id, EVENTS[ENDED].decode()),
        type=EVENTS[ENDED].decode(),
        time=started_at,
        call=call,
        previous_state=State.CONNECTED,
        sequence=3,
        observation=Observation(
            after=started_at, before=started_at, exact=True, evidence=Evidence.ACTIVE_CALLS, first_poll=False
        ),
    )
    return ChangeSet(calls=(call,), events=(event,))


def keys(count: int) -> Iterator[int]:
    """What the remote sides must get of a backlog."""
    return (number * STEPS + ENDED for number in range(FIRST, FIRST + count))


async def _record(outbox: SqliteOutbox, count: int) -> None:
    for start in range(FIRST, FIRST + count, 1000):
        numbers = range(start, min(start + 1000, FIRST + count))
        await asyncio.gather(*(outbox.record("acme", None, ended(number)) for number in numbers))


async def _pending(data: Path, count: int) -> None:
    async with open_outbox(data, SystemClock(), **LIMITS) as outbox:
        await outbox.subscribe({sink: Filter() for sink in SINKS})
        await _record(outbox, count)


def owe(data: Path, count: int) -> None:
    """So many events that are pending for all three sinks."""
    asyncio.run(_pending(data, count))


async def _settled(data: Path) -> None:
    async with open_outbox(data, SystemClock(), **LIMITS) as outbox:
        await outbox.subscribe({sink: Filter() for sink in SINKS})
        await _record(outbox, SEED)
        for sink in SINKS:
            while claimed := await outbox.claim(sink, limit=100):
                await asyncio.gather(*(outbox.ack([Acked(delivery, 0.001)]) for delivery in claimed))


def hold(data: Path, count: int) -> float:
    """So many events that all three sinks have had: some by the real way, and the rest copied row by row.

    Returns the seconds that it took.
    """
    began = time.monotonic()
    asyncio.run(_settled(data))
    connection = sqlite3.connect(data / "outbox.db", isolation_level=None)
    for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -400000"):
        connection.execute(f"PRAGMA {pragma}")
    for table in TABLES:
        connection.execute(f"CREATE TEMP TABLE seed_{table} AS SELECT * FROM {table}")
    for copy in range(1, count // SEED):
        connection.execute("BEGIN")
        for table in TABLES:
            _copy(connection, table, copy)
        connection.execute("COMMIT")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.close()
    os.sync()  # else the disk writes gigabytes while it is measured how fast it makes a page durable
    return time.monotonic() - began


def _copy(connection: sqlite3.Connection, table: str, copy: int) -> None:
    """The seed's rows once more under other numbers and names, whatever else the table holds."""
    shifted = {"seq": f"seq + {copy * SEED}", "ordering_key": f"ordering_key + {copy * SEED}"}
    named = {name: f"{name} || '-{copy}'" for name in ("id", "call_id", "session_id")}
    columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
    values = ", ".join((shifted | named).get(column, column) for column in columns)
    connection.execute(f"INSERT INTO {table} ({', '.join(columns)}) SELECT {values} FROM seed_{table}")
