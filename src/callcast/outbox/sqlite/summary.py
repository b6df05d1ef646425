"""Reads the pending counts of an outbox without changing it, whether or not the service runs."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

from msgspec import Struct

from callcast.outbox.sqlite.codec import time_of
from callcast.outbox.sqlite.schema import FILE, check_version
from callcast.ports.outbox import OutboxUnavailable

BUSY_TIMEOUT_S = 2.0


class PendingDeliveries(Struct, frozen=True, kw_only=True):
    """The pending deliveries and dead letters of one sink. `removed_at`: when the sink was removed."""

    sink: str
    pending: int
    dead: int
    removed_at: datetime | None


def pending(directory: Path) -> Sequence[PendingDeliveries]:
    """One entry for every sink that ever existed; empty if there is no outbox yet.

    Raises OutboxRefused for an outbox of another version, OutboxUnavailable when it cannot be read.
    """
    path = directory / FILE
    try:
        if not path.exists():
            return []
        with closing(_connected(path)) as connection:
            schema = connection.execute("PRAGMA user_version").fetchone()[0]
            check_version(connection, path, schema)
            rows = (
                connection.execute("SELECT name, pending, dead, removed_at FROM sinks ORDER BY name") if schema else ()
            )
            return [_pending(*row) for row in rows]
    except (sqlite3.Error, OSError) as error:
        what = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise OutboxUnavailable(f"the outbox {path} cannot be read: {what.lower()}") from error


def _connected(path: Path) -> sqlite3.Connection:
    """Open read-only. Without a WAL file no process has the outbox open; then `immutable` creates no files."""
    alone = not path.with_name(f"{FILE}-wal").exists()
    uri = f"file:{quote(str(path))}?mode=ro{'&immutable=1' if alone else ''}"
    return sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S)


def _pending(sink: str, pending: int, dead: int, removed_at: int | None) -> PendingDeliveries:
    return PendingDeliveries(
        sink=sink, pending=pending, dead=dead, removed_at=None if removed_at is None else time_of(removed_at)
    )
