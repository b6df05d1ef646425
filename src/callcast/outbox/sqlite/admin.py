"""Commands on the outbox: dead letters, replay, and the history of a call. They work while the service runs.

Each change is a short transaction on the same file; the service detects it within a second.
"""

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from msgspec import Struct

from callcast.calls.model import Call, Event
from callcast.outbox.sqlite.codec import (
    call_of,
    event_of,
    ordering_key,
    ordering_key_of,
    replay_ordering_key,
    time_of,
    us_of,
)
from callcast.outbox.sqlite.schema import BEHIND, FILE, READY, check_version, newest
from callcast.ports.outbox import (
    Attempt,
    CallHistory,
    DeadLetter,
    EventHistory,
    OutboxRefused,
    OutboxUnavailable,
    Stored,
)
from callcast.ports.sink import Filter

_SLICE = 500  # rows in one transaction, so that the service never waits long for the file
_BUSY_TIMEOUT_S = 10.0


class Which(Struct, frozen=True, kw_only=True):
    """Selects dead letters. None and empty values match all; `type_` is a glob; times are when they became dead."""

    sink: str | None = None
    event_ids: frozenset[str] = frozenset()
    type_: str = "*"
    reason: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def matches(self, event: Event) -> bool:
        return (not self.event_ids or event.id in self.event_ids) and fnmatchcase(event.type, self.type_)


ALL = Which()
EVERYTHING = Filter()


@contextmanager
def open_admin(directory: Path) -> Iterator["OutboxAdmin"]:
    """Open the outbox. Raises OutboxRefused if there is none that this version reads, OutboxUnavailable on errors."""
    path = directory / FILE
    try:
        if not path.exists():
            raise OutboxRefused(f"there is no outbox in {directory}: check data_dir, and that the service has run")
        connection = sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
        try:
            _check_schema(connection, path)
            yield OutboxAdmin(connection)
        finally:
            connection.close()
    except (sqlite3.Error, OSError) as error:
        raise OutboxUnavailable(f"the outbox {path} cannot be used: {error}: check permissions and the disk") from error


def _check_schema(connection: sqlite3.Connection, path: Path) -> None:
    found = connection.execute("PRAGMA user_version").fetchone()[0]
    check_version(connection, path, found)
    if found != newest():
        raise OutboxRefused(
            f"{path} has schema {found}, this version needs {newest()}: use the version that runs the service"
        )


class OutboxAdmin:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._execute = connection.execute

    def sinks(self) -> Sequence[str]:
        """The names of all sinks that ever existed."""
        return [name for (name,) in self._execute("SELECT name FROM sinks ORDER BY name")]

    # Dead letters

    def dead_letters(self, which: Which = ALL) -> Iterator[DeadLetter]:
        """Dead letters, oldest first. Read in pages, so that the service is not blocked meanwhile."""
        after = (-1, -1, -1)
        while rows := self._dead_letter_rows(after, which, 1 << 62):
            yield from (dead_letter for row in rows if which.matches((dead_letter := _dead_letter(row)).event))
            after = _position(rows[-1])

    def _dead_letter_rows(self, after: tuple[int, int, int], which: Which, until_us: int) -> list[Any]:
        return self._execute(
            "SELECT d.dead_at, d.sink, d.seq, s.name, d.attempts, d.reason, d.detail, e.body FROM dead d"
            " INDEXED BY dead_by_age JOIN sinks s ON s.id = d.sink JOIN events e ON e.seq = d.seq"
            " WHERE (d.dead_at, d.sink, d.seq) > (?, ?, ?) AND d.dead_at >= ? AND d.dead_at <= ?"
            " AND s.name = coalesce(?, s.name) AND d.reason = coalesce(?, d.reason)"
            " ORDER BY d.dead_at, d.sink, d.seq LIMIT ?",
            (
                *after,
                -1 if which.since is None else us_of(which.since),
                until_us if which.until is None else min(until_us, us_of(which.until)),
                which.sink,
                which.reason,
                _SLICE,
            ),
        ).fetchall()

    def retry(self, now: datetime, which: Which = ALL) -> int:
        """Make these dead letters pending again, with the same ids and a new time to live. Returns how many."""
        return self._each_dead_letter(which, lambda row: self._make_pending(row[1], row[2], row[7], us_of(now)))

    def drop(self, which: Which = ALL) -> int:
        """Delete these dead letters. Returns how many."""
        return self._each_dead_letter(which, lambda _: None)

    def _each_dead_letter(self, which: Which, act: Callable[[Any], object]) -> int:
        """Apply `act` to the dead letters that exist now; one that becomes dead again meanwhile is not repeated."""
        after, count = (-1, -1, -1), 0
        newest_us = self._execute("SELECT coalesce(max(dead_at), -1) FROM dead").fetchone()[0]
        while True:
            with self._transaction():
                rows = self._dead_letter_rows(after, which, newest_us)
                meant = [row for row in rows if which.matches(event_of(row[7]))]
                for row in meant:
                    act(row)
                    self._execute("DELETE FROM dead WHERE sink = ? AND seq = ?", row[1:3])
            if not rows:
                return count
            after, count = _position(rows[-1]), count + len(meant)

    # Replay

    def replay(
        self, now: datetime, *, sink: str, since: datetime, until: datetime, type_: str = "*", wish: Filter = EVERYTHING
    ) -> int:
        """Make recorded events pending again, unless they are; with the same ids, oldest first.

        since, until: limits of the time of recording. type_: a glob. wish: the filter of the sink; later events of a
        call of which the sink got one match in any direction. Returns how many. Raises KeyError for an unknown sink.
        """
        row = self._execute("SELECT id FROM sinks WHERE name = ?", (sink,)).fetchone()
        if row is None:
            raise KeyError(sink)
        after, count = (us_of(since), 0), 0
        while rows := self._recorded(after, us_of(until)):
            with self._transaction():
                for _, seq, body in rows:
                    event = event_of(body)
                    if fnmatchcase(event.type, type_) and wish.wants(event, followed=self._is_followed(row[0], seq)):
                        count += self._make_pending(row[0], seq, body, us_of(now))
            after = (rows[-1][0], rows[-1][1])
        return count

    def _is_followed(self, sink: int, seq: int) -> bool:
        """Whether the sink got an event of the same call before this one, or this one itself."""
        row = self._execute(
            "SELECT 1 FROM events e JOIN followed f ON f.ordering_key = e.ordering_key AND f.sink = ? AND"
            " f.since <= e.seq"
            " WHERE e.seq = ?",
            (sink, seq),
        ).fetchone()
        return row is not None

    def _recorded(self, after: tuple[int, int], until_us: int) -> list[tuple[int, int, bytes]]:
        return self._execute(
            "SELECT recorded_at, seq, body FROM events INDEXED BY events_by_age WHERE (recorded_at, seq) > (?, ?)"
            " AND recorded_at <= ? ORDER BY recorded_at, seq LIMIT ?",
            (*after, until_us, _SLICE),
        ).fetchall()

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

    def find(self, what: str) -> Sequence[Call]:
        """The calls that `what` names, oldest first: a call id, session id, or the last four digits of a number."""
        if len(what) == 4 and what.isdigit():
            found = [call for call in self._calls() if _has_digits(call, what) or what == call.session_id]
        else:
            rows = self._execute("SELECT body FROM calls WHERE call_id = :name OR session_id = :name", {"name": what})
            found = [call_of(body) for (body,) in rows]
        return sorted(found, key=lambda call: (call.started_at, call.call_id))

    def story(self, call: Call) -> CallHistory:
        return self._story(call, ordering_key(call.source, call.call_id))

    def story_of(self, event_id: str) -> CallHistory | None:
        """The history of the call or source of an event. None if there is no such event."""
        event = self._event(event_id)
        if event is None:
            return None
        row = self._execute(
            "SELECT body FROM calls WHERE source = ? AND call_id = ?", (event.source, event.key)
        ).fetchone()
        return self._story(None if row is None else call_of(row[0]), ordering_key_of(event))

    def _story(self, call: Call | None, ordering_key: int) -> CallHistory:
        return CallHistory(call=call, events=tuple(self._told(row) for row in self._events(ordering_key)))

    def _told(self, row: tuple[int, int, bytes]) -> EventHistory:
        seq, recorded_at, body = row
        attempts = self._execute(
            "SELECT s.name, a.n, a.at, a.word, a.detail, a.took_us FROM attempts a JOIN sinks s ON s.id = a.sink"
            " WHERE a.seq = ? ORDER BY a.at, a.n",
            (seq,),
        )
        return EventHistory(
            stored=Stored(seq=seq, recorded_at=time_of(recorded_at), event=event_of(body)),
            attempts=tuple(
                Attempt(
                    sink=name,
                    number=n,
                    at=time_of(at),
                    word=word,
                    detail=detail,
                    took_s=None if took_us is None else took_us / 1e6,
                )
                for name, n, at, word, detail, took_us in attempts
            ),
            pending=self._sinks_in("deliveries", seq),
            dead=self._sinks_in("dead", seq),
        )

    def _sinks_in(self, table: str, seq: int) -> tuple[str, ...]:
        rows = self._execute(
            f"SELECT name FROM sinks s WHERE EXISTS (SELECT 1 FROM {table} t WHERE t.sink = s.id AND t.seq = ?)"  # noqa: S608
            " ORDER BY name",
            (seq,),
        )
        return tuple(name for (name,) in rows)

    def _events(self, ordering_key: int) -> list[tuple[int, int, bytes]]:
        return self._execute(
            "SELECT seq, recorded_at, body FROM events INDEXED BY events_by_ordering_key WHERE ordering_key = ?"
            " ORDER BY seq",
            (ordering_key,),
        ).fetchall()

    def _event(self, event_id: str) -> Event | None:
        row = self._execute("SELECT body FROM events WHERE id = ?", (event_id,)).fetchone()
        return None if row is None else event_of(row[0])

    def _calls(self) -> Iterator[Call]:
        """All stored calls, read in pages."""
        after = ("", "")
        while rows := self._execute(
            "SELECT source, call_id, body FROM calls WHERE (source, call_id) > (?, ?) ORDER BY source, call_id LIMIT ?",
            (*after, _SLICE),
        ).fetchall():
            for _, _, body in rows:
                yield call_of(body)
            after = rows[-1][:2]

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


def _position(row: Any) -> tuple[int, int, int]:
    """The position of a dead letter in the order of reading."""
    dead_at, sink, seq, *_ = row
    return dead_at, sink, seq


def _dead_letter(row: Any) -> DeadLetter:
    dead_at, _, _, sink, attempts, reason, detail, body = row
    return DeadLetter(
        sink=sink,
        event=event_of(body),
        dead_at=time_of(dead_at),
        attempts=attempts,
        reason=reason,
        detail=detail,
    )


def _has_digits(call: Call, last: str) -> bool:
    parties = (call.from_party, call.to_party)
    return any(party is not None and (party.number or "").endswith(last) for party in parties)
