"""A command that only reads changes nothing in the outbox, whether or not the service runs."""

import sqlite3
from collections.abc import Sequence
from pathlib import Path

import pytest

from callcast.outbox.opening import open_admin
from callcast.outbox.sqlite.schema import FILE
from callcast.ports.outbox import OutboxRefused, OutboxUnavailable, SinkStats
from callcast.ports.outbox_admin import OutboxMissing
from callcast.ports.sink import Filter
from tests.builders import NINE, change, event
from tests.integration.outbox.test_admin import bury, service


def sinks(folder: Path) -> Sequence[SinkStats]:
    with open_admin(folder, read_only=True) as admin:
        return admin.sinks()


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


async def test_what_is_pending_beside_the_service(tmp_path: Path) -> None:
    """Deliveries and dead letters of every sink, also of one that the service does not know any more."""
    async with service(tmp_path) as outbox:
        await bury(outbox, "a")
        await outbox.record("acme", None, change(event("b", "call.ringing", 1), event("c", "call.ringing", 1)))
        await outbox.subscribe({"lines": Filter()})
        assert [(one.sink, one.pending, one.dead, one.removed_at) for one in sinks(tmp_path)] == [
            ("crm", 2, 1, NINE),
            ("lines", 0, 0, None),
        ]


async def test_a_stopped_outbox_is_not_touched(tmp_path: Path) -> None:
    """No file is created or changed, because the command may run as another user than the service."""
    async with service(tmp_path) as outbox:
        await outbox.record("acme", None, change(event("a", "call.ringing", 1)))
    before = files(tmp_path)
    assert [one.pending for one in sinks(tmp_path)] == [1, 0]
    assert files(tmp_path) == before


def test_no_outbox_yet(tmp_path: Path) -> None:
    """Before the first start there is nothing, and nothing is made."""
    for folder in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(OutboxMissing, match="has run"):
            sinks(folder)
    assert files(tmp_path) == {}


async def test_an_outbox_that_cannot_be_read(tmp_path: Path) -> None:
    """An unreadable file and one of a newer version are reported differently."""
    async with service(tmp_path):
        pass
    with sqlite3.connect(tmp_path / FILE) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(OutboxRefused, match="newer callcast"):
        sinks(tmp_path)
    (tmp_path / FILE).write_bytes(b"no database at all" * 100)
    with pytest.raises(OutboxUnavailable, match="not a database"):
        sinks(tmp_path)
