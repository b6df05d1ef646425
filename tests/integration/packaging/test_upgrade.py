"""An outbox that a minor version away wrote, full of pending deliveries: nothing of it is lost upwards, nor
downwards.
"""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from callcast.calls.model import Call
from callcast.outbox.sqlite import schema
from callcast.outbox.sqlite.store import SqliteOutbox, open_outbox
from callcast.ports.outbox import OutboxRefused
from callcast.ports.sink import Filter
from tests.builders import call, change, event
from tests.clock import TurnedClock

NAMES = [f"s-{number}" for number in range(50)]


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[SqliteOutbox]:
    async with open_outbox(path, TurnedClock(), retention_h=72, outbox_max_mb=100, dead_letter_days=30) as outbox:
        yield outbox


async def fill(path: Path) -> list[str]:
    """Two sinks with pending deliveries of fifty calls each, and one dead letter; returns the pending ids in order."""
    async with opened(path) as outbox:
        await outbox.subscribe({"crm": Filter(), "wall": Filter()})
        await outbox.record("acme", None, change(*(event(name) for name in NAMES)))
        (first,) = await outbox.claim("crm", limit=1)
        await outbox.dead_letter(first, reason="http_413", detail="answered 413", took_s=0.1)
    return [event(name).id for name in NAMES]


async def taken(path: Path, sink: str) -> list[str]:
    """The pending deliveries, as a delivery worker claims them."""
    async with opened(path) as outbox:
        await outbox.subscribe({"crm": Filter(), "wall": Filter()})
        return [one.event.id for one in await outbox.claim(sink, limit=100)]


def rows(path: Path, query: str) -> Any:
    with closing(sqlite3.connect(path / schema.FILE)) as connection:
        return connection.execute(query).fetchall()


def next_schema(connection: sqlite3.Connection) -> None:
    """As the next minor version might change it."""
    connection.execute("ALTER TABLE events ADD COLUMN origin TEXT NOT NULL DEFAULT 'poll'")
    connection.execute("CREATE TABLE extras (seq INTEGER PRIMARY KEY)")


async def test_an_upgrade_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next version's migration runs once, in a transaction with the new number; pending deliveries, dead
    letters, ids stay.
    """
    ids = await fill(tmp_path)
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, next_schema))
    assert await taken(tmp_path, "crm") == ids[1:]
    assert await taken(tmp_path, "wall") == ids
    assert rows(tmp_path, "PRAGMA user_version") == [(schema.newest(),)]
    assert rows(tmp_path, "SELECT count(*), min(origin) FROM events") == [(50, "poll")]
    assert rows(tmp_path, "SELECT count(*) FROM dead") == [(1,)]


async def test_a_file_of_an_older_schema_is_refused_with_what_it_holds(tmp_path: Path) -> None:
    """The message counts what would be lost and gives the next step; the file is not touched."""
    await fill(tmp_path)
    with closing(sqlite3.connect(tmp_path / schema.FILE)) as connection:
        connection.execute("ALTER TABLE sinks RENAME COLUMN pending TO owed")
        connection.execute("PRAGMA user_version = 3")
        connection.commit()
    with pytest.raises(OutboxRefused, match=r"99 pending deliveries and 1 dead letters: run that version"):
        await taken(tmp_path, "crm")
    assert rows(tmp_path, "PRAGMA user_version") == [(3,)]
    assert rows(tmp_path, "SELECT sum(owed), sum(dead) FROM sinks") == [(99, 1)]


async def test_an_upgrade_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its steps did is undone with the number; the old version goes on with everything."""
    ids = await fill(tmp_path)

    def breaks(connection: sqlite3.Connection) -> None:
        next_schema(connection)
        connection.execute("DELETE FROM deliveries")
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, breaks))
        with pytest.raises(Exception, match="disk I/O error"):
            await taken(tmp_path, "wall")
    assert rows(tmp_path, "PRAGMA user_version") == [(schema.newest(),)]
    assert await taken(tmp_path, "wall") == ids


async def test_a_downgrade_over_another_schema_is_refused_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The older version names the version to run and changes nothing; the newer one then delivers everything."""
    ids = await fill(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, next_schema))
        await taken(tmp_path, "wall")
    with pytest.raises(OutboxRefused, match="newer callcast"):
        await taken(tmp_path, "wall")
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, next_schema))
        assert await taken(tmp_path, "wall") == ids


async def test_within_a_schema_a_newer_versions_fields_are_no_trouble(tmp_path: Path) -> None:
    """A downgrade: events and calls that hold a field more are read, and delivered with the same ids."""
    ids = await fill(tmp_path)
    with closing(sqlite3.connect(tmp_path / schema.FILE)) as connection:
        for seq, body in connection.execute("SELECT seq, body FROM events").fetchall():
            connection.execute("UPDATE events SET body = ? WHERE seq = ?", (with_more(body), seq))
        for call_id, body in connection.execute("SELECT call_id, body FROM calls").fetchall():
            connection.execute("UPDATE calls SET body = ? WHERE call_id = ?", (with_more(body), call_id))
        connection.commit()
    assert await taken(tmp_path, "crm") == ids[1:]
    async with opened(tmp_path) as outbox:
        await outbox.known("acme")


def with_more(body: bytes) -> bytes:
    """One field more at each level, as a newer version would write it."""
    value = msgspec.msgpack.decode(body)
    if isinstance(value, dict):
        value["field_of_tomorrow"] = 1
    else:
        value.append(1)
    return msgspec.msgpack.encode(value)


def test_an_older_versions_call_is_read() -> None:
    """An upgrade within a schema: every field of a call that came later must have a default."""
    stored = msgspec.msgpack.decode(msgspec.msgpack.encode(call()))
    required = {field.encode_name for field in msgspec.structs.fields(Call) if field.required}
    oldest = {name: value for name, value in stored.items() if name in required}
    assert msgspec.convert(oldest, Call).call_id == "101/s-1"
