"""Statements for the stored calls, polls and notes of sources."""

import sqlite3
from collections.abc import Collection, Sequence
from typing import Any

from callcast.calls.model import Call, Known, PollRecord, Target
from callcast.outbox.sqlite.codec import batched, call_of, encode, ordering_key, time_of, us_of

ROWS = 64  # in one statement
_RECALL = """
SELECT body FROM calls INDEXED BY calls_by_session
WHERE source = ? AND session_id IN ({}) ORDER BY session_id, call_id
"""
_KEEP_CALLS = (
    "INSERT INTO calls (source, call_id, session_id, ordering_key, open, touched_at, body) VALUES {}"
    " ON CONFLICT (source, call_id) DO UPDATE SET session_id = excluded.session_id, open = excluded.open,"
    " touched_at = excluded.touched_at, body = excluded.body"
)


def sources(connection: sqlite3.Connection) -> Collection[str]:
    rows = connection.execute(
        "SELECT source FROM calls INDEXED BY calls_open WHERE open = 1"
        " UNION SELECT source FROM polls UNION SELECT source FROM notes"
    )
    return [source for (source,) in rows]


def known(connection: sqlite3.Connection, source: str) -> Known:
    def read(statement: str) -> list[Any]:
        return connection.execute(statement, (source,)).fetchall()

    calls = (
        call_of(body) for (body,) in read("SELECT body FROM calls INDEXED BY calls_open WHERE open = 1 AND source = ?")
    )
    polls = read("SELECT extension_id, taken_at FROM polls WHERE source = ?")
    return Known(
        calls={call.call_id: call for call in calls},
        polls={Target(source=source, extension_id=one or None): time_of(taken_at) for one, taken_at in polls},
        notes=dict(read("SELECT name, value FROM notes WHERE source = ?")),
    )


def recall(connection: sqlite3.Connection, source: str, session_ids: Collection[str]) -> Sequence[Call]:
    """Find calls by session id. Ids are bound one by one, because SQLite cuts JSON text at a NUL character."""
    found: list[Call] = []
    for some in batched(list(session_ids), ROWS):
        statement = _RECALL.format(",".join("?" * len(some)))
        found += (call_of(body) for (body,) in connection.execute(statement, (source, *some)))
    return found


def latest(connection: sqlite3.Connection, limit: int) -> Sequence[Call]:
    opened = connection.execute("SELECT body FROM calls WHERE open = 1")
    ended = connection.execute("SELECT body FROM calls WHERE open = 0 ORDER BY touched_at DESC LIMIT ?", (limit,))
    return [call_of(body) for (body,) in (*opened, *ended)]


def keep_calls(connection: sqlite3.Connection, source: str, calls: Sequence[Call], now_us: int) -> None:
    for some in batched(calls, ROWS):
        values: list[object] = []
        for call in some:
            of_call = ordering_key(source, call.call_id)
            # Open: the poller needs it at the start, because it is live or its end is still provisional.
            is_open = call.live or call.provisional_since is not None
            values += (source, call.call_id, call.session_id, of_call, is_open, now_us, encode(call))
        connection.execute(_KEEP_CALLS.format(",".join(["(?, ?, ?, ?, ?, ?, ?)"] * len(some))), values)


def keep_poll(connection: sqlite3.Connection, source: str, poll: PollRecord) -> None:
    connection.execute(
        "INSERT OR REPLACE INTO polls VALUES (?, ?, ?)",
        (source, poll.target.extension_id or "", us_of(poll.taken_at)),
    )


def keep_note(connection: sqlite3.Connection, source: str, name: str, value: bytes | None) -> None:
    if value is None:
        connection.execute("DELETE FROM notes WHERE source = ? AND name = ?", (source, name))
    else:
        connection.execute("INSERT OR REPLACE INTO notes VALUES (?, ?, ?)", (source, name, value))
