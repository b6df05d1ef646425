"""Statements for the stored calls, polls and notes of sources."""

import sqlite3
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

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


def known(connection: sqlite3.Connection) -> Mapping[str, Known]:
    calls: dict[str, dict[str, Call]] = {}
    polls: dict[str, dict[Target, datetime]] = {}
    notes: dict[str, dict[str, bytes]] = {}
    for source, body in connection.execute("SELECT source, body FROM calls INDEXED BY calls_open WHERE open = 1"):
        call = call_of(body)
        calls.setdefault(source, {})[call.call_id] = call
    for source, extension_id, taken_at in connection.execute("SELECT source, extension_id, taken_at FROM polls"):
        target = Target(source=source, extension_id=extension_id or None)
        polls.setdefault(source, {})[target] = time_of(taken_at)
    for source, name, value in connection.execute("SELECT source, name, value FROM notes"):
        notes.setdefault(source, {})[name] = value
    return {
        source: Known(calls=calls.get(source, {}), polls=polls.get(source, {}), notes=notes.get(source, {}))
        for source in calls.keys() | polls.keys() | notes.keys()
    }


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


def keep_calls(connection: sqlite3.Connection, calls: Sequence[Call], now_us: int) -> None:
    for some in batched(calls, ROWS):
        rows = ",".join(["(?, ?, ?, ?, ?, ?, ?)"] * len(some))
        connection.execute(_KEEP_CALLS.format(rows), [value for call in some for value in _row(call, now_us)])


def _row(call: Call, now_us: int) -> tuple[object, ...]:
    of_call = ordering_key(call.source, call.call_id)
    return (call.source, call.call_id, call.session_id, of_call, _is_open(call), now_us, encode(call))


def keep_poll(connection: sqlite3.Connection, poll: PollRecord) -> None:
    connection.execute(
        "INSERT OR REPLACE INTO polls VALUES (?, ?, ?)",
        (poll.target.source, poll.target.extension_id or "", us_of(poll.taken_at)),
    )


def keep_note(connection: sqlite3.Connection, source: str, name: str, value: bytes | None) -> None:
    if value is None:
        connection.execute("DELETE FROM notes WHERE source = ? AND name = ?", (source, name))
    else:
        connection.execute("INSERT OR REPLACE INTO notes VALUES (?, ?, ?)", (source, name, value))


def _is_open(call: Call) -> bool:
    """Whether the poller needs the call at the start: it is live, or its end is still provisional."""
    return call.live or call.provisional_since is not None
