"""Commands on the outbox: dead letters, replay, and the history of a call. They work while the service runs.

Each change is a short transaction on the same file; the service detects it within a second.
"""

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import quote

from callcast.calls.model import Call
from callcast.outbox.sqlite.codec import (
    call_of,
    event_of,
    ordering_key,
    ordering_key_of,
    replay_ordering_key,
    time_of,
    us_of,
)
from callcast.outbox.sqlite.deliveries import sink_stats
from callcast.outbox.sqlite.schema import BEHIND, FILE, READY, check_version, newest
from callcast.ports.outbox import OutboxRefused, OutboxUnavailable, SinkStats, Stored
from callcast.ports.outbox_admin import (
    ALL,
    EVERYTHING,
    Attempt,
    CallHistory,
    DeadLetter,
    EventHistory,
    OutboxAdmin,
    OutboxMissing,
    Selection,
)
from callcast.ports.sink import Filter

_SLICE = 500  # rows in one transaction, so that the service never waits long for the file
_BUSY_TIMEOUT_S = 10.0


@contextmanager
def open_admin(directory: Path, *, read_only: bool = False) -> Iterator["SqliteAdmin"]:
    """Implements `callcast.outbox.opening.open_admin`."""
    path = directory / FILE
    missing = OutboxMissing(f"there is no outbox in {directory}: check data_dir, and that the service has run")
    try:
        if not path.exists():
            raise missing
        mode = "?mode=rw"
        if read_only:  # without a WAL no process has the file open, and `immutable` creates none
            mode = "?mode=ro" if path.with_name(f"{FILE}-wal").exists() else "?mode=ro&immutable=1"
        connected = sqlite3.connect(
            f"file:{quote(str(path))}{mode}", uri=True, timeout=_BUSY_TIMEOUT_S, isolation_level=None
        )
        with closing(connected) as connection:
            found = connection.execute("PRAGMA user_version").fetchone()[0]
            check_version(connection, path, found)
            if not found:
                raise missing
            if found != newest() and not read_only:
                raise OutboxRefused(
                    f"{path} has schema {found}, this version needs {newest()}: use the version that runs the service"
                )
            yield SqliteAdmin(connection)
    except (sqlite3.Error, OSError) as error:
        what = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise OutboxUnavailable(
            f"the outbox {path} cannot be {'read' if read_only else 'used'}: {what.lower()}: "
            "check permissions and the disk"
        ) from error


class SqliteAdmin(OutboxAdmin):
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._execute = connection.execute

    def sinks(self) -> Sequence[SinkStats]:
        return sink_stats(self._execute)

    # Dead letters

    def dead_letters(self, selection: Selection = ALL, /) -> Iterator[DeadLetter]:
        after = (-1, -1, -1)  # in pages, so that the service is not blocked meanwhile
        while rows := self._dead_letter_rows(after, selection, 1 << 62):
            for dead_at, _, _, sink, attempts, reason, detail, body in rows:
                event = event_of(body)
                if selection.matches(event):
                    yield DeadLetter(
                        sink=sink,
                        event=event,
                        dead_at=time_of(dead_at),
                        attempts=attempts,
                        reason=reason,
                        detail=detail,
                    )
            after = rows[-1][:3]

    def _dead_letter_rows(self, after: tuple[int, int, int], selection: Selection, until_us: int) -> list[Any]:
        return self._execute(
            "SELECT d.dead_at, d.sink, d.seq, s.name, d.attempts, d.reason, d.detail, e.body FROM dead d"
            " INDEXED BY dead_by_age JOIN sinks s ON s.id = d.sink JOIN events e ON e.seq = d.seq"
            " WHERE (d.dead_at, d.sink, d.seq) > (?, ?, ?) AND d.dead_at >= ? AND d.dead_at <= ?"
            " AND s.name = coalesce(?, s.name) AND d.reason = coalesce(?, d.reason)"
            " ORDER BY d.dead_at, d.sink, d.seq LIMIT ?",
            (
                *after,
                -1 if selection.since is None else us_of(selection.since),
                until_us if selection.until is None else min(until_us, us_of(selection.until)),
                selection.sink,
                selection.reason,
                _SLICE,
            ),
        ).fetchall()

    def retry(self, now: datetime, selection: Selection = ALL, /) -> int:
        return self._remove_dead_letters(
            selection, lambda sink, seq, body: self._make_pending(sink, seq, body, us_of(now))
        )

    def drop(self, selection: Selection = ALL, /) -> int:
        return self._remove_dead_letters(selection, lambda *_: None)

    def _remove_dead_letters(self, selection: Selection, act: Callable[[int, int, bytes], object]) -> int:
        """Apply `act` to the dead letters that exist now; one that becomes dead again meanwhile is not repeated."""
        after, count = (-1, -1, -1), 0
        newest_us = self._execute("SELECT coalesce(max(dead_at), -1) FROM dead").fetchone()[0]
        while True:
            with self._transaction():
                rows = self._dead_letter_rows(after, selection, newest_us)
                for _, sink, seq, *_, body in rows:
                    if selection.matches(event_of(body)):
                        act(sink, seq, body)
                        self._execute("DELETE FROM dead WHERE sink = ? AND seq = ?", (sink, seq))
                        count += 1
            if not rows:
                return count
            after = rows[-1][:3]

    # Replay

    def replay(
        self, now: datetime, *, sink: str, since: datetime, until: datetime, type_: str = "*", only: Filter = EVERYTHING
    ) -> int:
        row = self._execute("SELECT id FROM sinks WHERE name = ?", (sink,)).fetchone()
        if row is None:
            raise KeyError(sink)
        after, count = (us_of(since), 0), 0
        while True:
            rows = self._execute(
                "SELECT recorded_at, seq, body FROM events INDEXED BY events_by_age WHERE (recorded_at, seq) > (?, ?)"
                " AND recorded_at <= ? ORDER BY recorded_at, seq LIMIT ?",
                (*after, us_of(until), _SLICE),
            ).fetchall()
            if not rows:
                return count
            with self._transaction():
                for _, seq, body in rows:
                    event = event_of(body)
                    if fnmatchcase(event.type, type_) and only.wants(event, followed=self._is_followed(row[0], seq)):
                        count += self._make_pending(row[0], seq, body, us_of(now))
            after = rows[-1][:2]

    def _is_followed(self, sink: int, seq: int) -> bool:
        """Whether the sink got an event of the same call before this one, or this one itself."""
        row = self._execute(
            "SELECT 1 FROM events e JOIN followed f ON f.ordering_key = e.ordering_key AND f.sink = ? AND"
            " f.since <= e.seq WHERE e.seq = ?",
            (sink, seq),
        ).fetchone()
        return row is not None

    def _make_pending(self, sink: int, seq: int, body: bytes, now_us: int) -> bool:
        """Make an event pending. False if it is already, or was deleted meanwhile."""
        own_ordering_key = replay_ordering_key(ordering_key_of(event_of(body)))
        first = self._execute(
            "SELECT 1 FROM deliveries WHERE sink = ? AND ordering_key = ? LIMIT 1", (sink, own_ordering_key)
        ).fetchone()
        return bool(
            self._execute(
                "INSERT OR IGNORE INTO deliveries (sink, seq, ordering_key, state, live, fresh, replayed,"
                " pending_at, due_at, attempts)"
                " SELECT :sink, :seq, :ordering_key, :state, 0, 0, 1, :now, :now,"
                " (SELECT coalesce(max(n), 0) FROM attempts WHERE seq = :seq AND sink = :sink)"
                " WHERE EXISTS (SELECT 1 FROM events WHERE seq = :seq)",
                {
                    "sink": sink,
                    "seq": seq,
                    "ordering_key": own_ordering_key,
                    "state": READY if first is None else BEHIND,
                    "now": now_us,
                },
            ).rowcount
        )

    # The history of a call

    def find(self, what: str, /) -> Sequence[Call]:
        if len(what) == 4 and what.isdigit():
            found = [call for call in self._calls() if what == call.session_id or _ends_with(call, what)]
        else:
            rows = self._execute("SELECT body FROM calls WHERE call_id = :name OR session_id = :name", {"name": what})
            found = [call_of(body) for (body,) in rows]
        return sorted(found, key=lambda call: (call.started_at, call.call_id))

    def _calls(self) -> Iterator[Call]:
        """All stored calls, read in pages."""
        after = ("", "")
        while rows := self._execute(
            "SELECT source, call_id, body FROM calls WHERE (source, call_id) > (?, ?) ORDER BY source, call_id LIMIT ?",
            (*after, _SLICE),
        ).fetchall():
            yield from (call_of(body) for *_, body in rows)
            after = rows[-1][:2]

    def history_of(self, call: Call, /) -> CallHistory:
        return self._history(call, ordering_key(call.source, call.call_id))

    def history_around(self, event_id: str, /) -> CallHistory | None:
        row = self._execute("SELECT body FROM events WHERE id = ?", (event_id,)).fetchone()
        if row is None:
            return None
        event = event_of(row[0])
        row = self._execute(
            "SELECT body FROM calls WHERE source = ? AND call_id = ?", (event.source, event.key)
        ).fetchone()
        return self._history(None if row is None else call_of(row[0]), ordering_key_of(event))

    def _history(self, call: Call | None, ordering_key: int) -> CallHistory:
        rows = self._execute(
            "SELECT seq, recorded_at, body FROM events INDEXED BY events_by_ordering_key WHERE ordering_key = ?"
            " ORDER BY seq",
            (ordering_key,),
        ).fetchall()
        events = (
            EventHistory(
                stored=Stored(seq=seq, recorded_at=time_of(recorded_at), event=event_of(body)),
                attempts=self._attempts(seq),
                pending=self._sinks_in("deliveries", seq),
                dead=self._sinks_in("dead", seq),
            )
            for seq, recorded_at, body in rows
        )
        return CallHistory(call=call, events=tuple(events))

    def _attempts(self, seq: int) -> tuple[Attempt, ...]:
        rows = self._execute(
            "SELECT s.name, a.n, a.at, a.word, a.detail, a.took_us FROM attempts a JOIN sinks s ON s.id = a.sink"
            " WHERE a.seq = ? ORDER BY a.at, a.n",
            (seq,),
        )
        return tuple(
            Attempt(
                sink=name,
                number=n,
                at=time_of(at),
                outcome=outcome,
                detail=detail,
                took_s=None if took_us is None else took_us / 1e6,
            )
            for name, n, at, outcome, detail, took_us in rows
        )

    def _sinks_in(self, table: str, seq: int) -> tuple[str, ...]:
        rows = self._execute(
            f"SELECT name FROM sinks s WHERE EXISTS (SELECT 1 FROM {table} t WHERE t.sink = s.id AND t.seq = ?)"  # noqa: S608
            " ORDER BY name",
            (seq,),
        )
        return tuple(name for (name,) in rows)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Run a transaction, then pause as long as it took, so that the service gets access in between."""
        self._execute("BEGIN IMMEDIATE")
        began_s = time.monotonic()
        try:
            yield
        except BaseException:
            self._execute("ROLLBACK")
            raise
        self._execute("COMMIT")
        time.sleep(time.monotonic() - began_s)


def _ends_with(call: Call, digits: str) -> bool:
    parties = (call.from_party, call.to_party)
    return any(party is not None and (party.number or "").endswith(digits) for party in parties)
