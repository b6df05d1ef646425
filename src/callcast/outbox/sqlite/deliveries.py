"""Statements for events and pending deliveries. Every access uses an index, however large the file is."""

import sqlite3
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from callcast.calls.model import CallEvent, ChangeSet, Event, PollRecord
from callcast.outbox.claims import Due, Front
from callcast.outbox.sqlite import calls
from callcast.outbox.sqlite.codec import (
    batched,
    encode,
    encode_rows,
    event_of,
    ordering_key_of,
    time_of,
)
from callcast.outbox.sqlite.schema import HELD, READY, WAITING
from callcast.ports.outbox import Acked, Overdue, SinkStats, Stats, Stored
from callcast.ports.retry import longest_wait_s
from callcast.ports.sink import Delivery, Filter

_SLICE = 500  # rows per step, so that other sinks do not wait long for the thread
_EVENTS_KEPT = 2048  # decoded events, cached for the next claims: 10 % of the work for an event with three sinks
_ATTEMPTS_KEPT = 50  # attempts of one event and sink, for `explain`

_COLUMNS = "seq, ordering_key, attempts, pending_at, first_tried_at, replayed"
_CLAIMED = f"SELECT {_COLUMNS} FROM deliveries"  # noqa: S608

# Statements get many rows as one JSON parameter. Each execution hands the interpreter lock to the other threads.
_KNOWN = "SELECT id FROM events WHERE id IN (SELECT value FROM json_each(?))"
_READY = f"{_CLAIMED} INDEXED BY deliveries_ready WHERE sink = ? AND state = 1 ORDER BY replayed, seq LIMIT ?"
_PUT_EVENTS = "INSERT INTO events (seq, id, ordering_key, recorded_at, body) VALUES {}"
# A delivery is in front if its sink has no other pending delivery of the call. It is fresh if the sink was never sent
# an event of the call: `first` is 1 for a call's first event, 0 for a later one, null for an event without a call.
_ADD_DELIVERIES = """
INSERT INTO deliveries (sink, seq, ordering_key, state, live, fresh, pending_at, due_at)
SELECT sink, seq, ordering_key, front, live,
  front AND first IS 1 OR front AND first IS 0 AND NOT EXISTS (
    SELECT 1 FROM events e JOIN attempts a ON a.seq = e.seq AND a.sink = pending.sink
    WHERE e.ordering_key = pending.ordering_key AND e.seq < pending.seq), :now, :now
FROM (
  SELECT sink, seq, ordering_key, live, first, NOT behind AND NOT EXISTS (
    SELECT 1 FROM deliveries d INDEXED BY deliveries_by_ordering_key WHERE d.sink = given.sink AND
      d.ordering_key = given.ordering_key) AS front
  FROM (
    SELECT json_extract(value, '$[0]') AS sink, json_extract(value, '$[1]') AS seq, json_extract(value, '$[2]')
      AS ordering_key,
      json_extract(value, '$[3]') AS live, json_extract(value, '$[4]') AS first, json_extract(value, '$[5]') AS behind
    FROM json_each(:rows)) given) pending
RETURNING sink, seq, ordering_key, state, fresh
"""
_FOLLOWED = """
SELECT sink, ordering_key FROM followed WHERE (ordering_key, sink) IN (
  SELECT json_extract(value, '$[1]'), json_extract(value, '$[0]') FROM json_each(?))
"""
_PENDING = """
SELECT sink, seq, ordering_key FROM deliveries WHERE (sink, seq) IN (
  SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?))
"""
_REMOVE = """
DELETE FROM deliveries WHERE (sink, seq) IN (
  SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?))
"""
_ADD_ATTEMPTS = """
INSERT OR REPLACE INTO attempts (sink, seq, n, at, word, detail, took_us)
SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'),
  json_extract(value, '$[3]'), json_extract(value, '$[4]'), json_extract(value, '$[5]'), json_extract(value, '$[6]')
FROM json_each(?)
"""
_TO_THE_FRONT = f"""
UPDATE deliveries SET state = 1 WHERE state = 0 AND (sink, seq) IN (
  SELECT sink, (SELECT d.seq FROM deliveries d INDEXED BY deliveries_by_ordering_key WHERE d.sink = settled.sink
    AND d.ordering_key = settled.ordering_key ORDER BY d.seq LIMIT 1)
  FROM (SELECT json_extract(value, '$[0]') AS sink, json_extract(value, '$[2]') AS ordering_key FROM
    json_each(?)) settled)
RETURNING {_COLUMNS}, (SELECT name FROM sinks WHERE id = sink)
"""  # noqa: S608

# The wall clock may have been ahead when these times were written. Then recorded events count as new, and waiting
# deliveries are due at the latest after their longest delay from now. The times of earlier attempts are discarded.
_CORRECT_TIMES = (
    "UPDATE events SET recorded_at = :now WHERE recorded_at > :now",
    "UPDATE dead SET dead_at = :now WHERE dead_at > :now",
    "UPDATE calls SET touched_at = :now WHERE open = 0 AND touched_at > :now",
    "UPDATE sinks SET removed_at = :now WHERE removed_at > :now",
    "UPDATE deliveries SET pending_at = min(pending_at, :now),"
    " due_at = min(due_at - max(0, pending_at - :now), :now + longest_wait_us(attempts, live, state))"
    " WHERE pending_at > :now OR state > 1 AND due_at > :now",
    "UPDATE deliveries SET first_tried_at = NULL WHERE first_tried_at IS NOT NULL",
)


class Deliveries:
    """Deliveries on one connection. Used in the writer thread; the caller of each method opens the transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self._execute = connection.execute
        self.filters: Mapping[str, Filter] = {}
        self._ids: dict[str, int] = {}
        self._events: dict[int, tuple[Event, int]] = {}

    def forget(self, filters: Mapping[str, Filter]) -> None:
        """Reset to these filters after a rollback, and discard cached sink ids."""
        self.filters = filters
        self._ids.clear()

    def correct_times(self, now_us: int) -> None:
        """Correct times in the future, once after opening, because the clock may have been wrong."""
        self.connection.create_function("longest_wait_us", 3, _longest_wait_us, deterministic=True)
        for statement in _CORRECT_TIMES:
            self._execute(statement, {"now": now_us})

    # Sinks

    def subscribe(self, filters: Mapping[str, Filter], now_us: int) -> None:
        names = list(filters)
        marks = ",".join("?" * len(names))
        self._execute(
            f"UPDATE sinks SET removed_at = ? WHERE removed_at IS NULL AND name NOT IN ({marks})",  # noqa: S608
            (now_us, *names),
        )
        for name in names:
            self._execute(
                "INSERT INTO sinks (name) VALUES (?) ON CONFLICT (name) DO UPDATE SET removed_at = NULL"
                " WHERE removed_at IS NOT NULL",
                (name,),
            )
        self.filters = filters

    def id_of(self, sink: str) -> int:
        """The id of a sink; -1 for an unknown name, which matches no rows."""
        if sink not in self._ids:
            row = self._execute("SELECT id FROM sinks WHERE name = ?", (sink,)).fetchone()
            if row is None:
                return -1
            self._ids[sink] = row[0]
        return self._ids[sink]

    # Recording

    def record(self, source: str, poll: PollRecord | None, change: ChangeSet, now_us: int) -> Sequence[Due]:
        """Returns the new deliveries that are due."""
        if poll is not None:
            calls.keep_poll(self.connection, source, poll)
        calls.keep_calls(self.connection, source, change.calls, now_us)
        filters = [(self.id_of(name), one) for name, one in self.filters.items() if one.has_source(source)]
        due: list[Due] = []
        for some in batched(change.events, calls.ROWS):
            new = self._put_events(some, now_us)
            if rows := self._wanted(new, filters):
                added = self._execute(_ADD_DELIVERIES, {"rows": encode_rows(rows), "now": now_us}).fetchall()
                due += self._first_attempts(added, now_us)
        return due

    def _put_events(self, events: Sequence[Event], now_us: int) -> list[tuple[int, int, Event]]:
        """Store the events that are not stored yet. Returns them with their numbers, in order, and ordering keys."""
        given = {event.id: event for event in events}
        for (event_id,) in self._execute(_KNOWN, (encode_rows(list(given)),)).fetchall():
            del given[event_id]
        new = [(seq, ordering_key_of(event), event) for seq, event in enumerate(given.values(), self.last_seq() + 1)]
        values: list[object] = []
        for seq, ordering_key, event in new:
            values += (seq, event.id, ordering_key, now_us, encode(event))
            self._keep_event(seq, event, now_us)
        if new:
            self._execute(_PUT_EVENTS.format(",".join(["(?, ?, ?, ?, ?)"] * len(new))), values)
        return new

    def _wanted(
        self, new: Sequence[tuple[int, int, Event]], filters: Sequence[tuple[int, Filter]]
    ) -> list[tuple[int, int, int, bool, int | None, bool]]:
        """A row for each event and sink that gets it; the last value: an earlier row is of the same call."""
        undecided = [  # sinks that get the event only if they got an earlier one of the call
            (sink, ordering_key)
            for _, ordering_key, event in new
            for sink, one in filters
            if one.wants(event, followed=True) and not one.wants(event)
        ]
        followed, earlier, rows = set(), set(), []
        if undecided:
            followed = set(self._execute(_FOLLOWED, (encode_rows(undecided),)).fetchall())
        for seq, ordering_key, event in new:
            first = int(event.sequence == 1) if isinstance(event, CallEvent) else None
            for sink, one in filters:
                key = (sink, ordering_key)
                if one.wants(event, followed=key in followed or key in earlier):
                    rows.append((sink, seq, ordering_key, event.live, first, key in earlier))
                    earlier.add(key)
        return rows

    def _first_attempts(self, rows: Sequence[tuple[int, int, int, int, int]], now_us: int) -> list[Due]:
        at, names = time_of(now_us), {self.id_of(name): name for name in self.filters}
        return [
            Due(
                ordering_key,
                Delivery(
                    sink=names[sink], seq=seq, event=self._event(seq)[0], attempt=1, recorded_at=at, pending_at=at
                ),
                bool(fresh),
            )
            for sink, seq, ordering_key, state, fresh in rows
            if state == READY
        ]

    # Claiming

    def front(self, sink: str, limit: int, claimed: int, now_us: int) -> Front:
        """The first due deliveries. `claimed`: how many of the sink are claimed, which are found too."""
        sink_id = self.id_of(sink)
        self._promote(sink_id, now_us)
        rows = self._execute(_READY, (sink_id, limit + claimed)).fetchall()
        waiting = self._execute(
            "SELECT ordering_key, due_at FROM deliveries INDEXED BY deliveries_waiting WHERE sink = ? AND state > 1"
            " ORDER BY due_at LIMIT ?",
            (sink_id, 1 + claimed),
        ).fetchall()
        return Front([self._due(sink, row) for row in rows], len(rows) < limit + claimed, waiting)

    def probe(self, sink: str, after_seq: int, fresh: bool, claimed: Collection[int], now_us: int) -> Due | None:
        """A delivery for a recovery probe. `claimed`: ordering keys."""
        which = "INDEXED BY deliveries_fresh WHERE sink = :sink AND seq > :after AND fresh = 1 AND state = 1"
        if not fresh:
            which = "WHERE sink = :sink AND seq > :after AND (state IN (1, 2) OR state = 3 AND due_at <= :now)"
        rows = self._execute(
            f"{_CLAIMED} {which} ORDER BY seq LIMIT :most",
            {"sink": self.id_of(sink), "after": after_seq, "most": 1 + len(claimed), "now": now_us},
        )
        return next((self._due(sink, row) for row in rows.fetchall() if row[1] not in claimed), None)

    def _promote(self, sink: int, now_us: int, *, held: bool = True) -> int:
        """Make waiting deliveries ready that are due; writes only if there are any."""
        due = "FROM deliveries INDEXED BY deliveries_waiting WHERE sink = :sink AND state > 1 AND due_at <= :now"
        if not held:
            due += f" AND state <> {HELD}"
        given = {"sink": sink, "now": now_us, "most": _SLICE}
        if self._execute(f"SELECT 1 {due} LIMIT 1", given).fetchone() is None:
            return 0
        return self._execute(
            f"UPDATE deliveries SET state = 1 WHERE sink = :sink AND seq IN"  # noqa: S608
            f" (SELECT seq {due} ORDER BY due_at LIMIT :most)",
            given,
        ).rowcount

    def make_due(self, sink: str, *, held: bool) -> bool:
        """Process one slice; true while there are more."""
        return self._promote(self.id_of(sink), 1 << 62, held=held) == _SLICE

    def _due(self, sink: str, row: Sequence[Any]) -> Due:
        seq, ordering_key, attempts, pending_at, first_tried_at, replayed = row
        event, recorded_at = self._event(seq)
        delivery = Delivery(
            sink=sink,
            seq=seq,
            event=event,
            attempt=attempts + 1,
            recorded_at=time_of(recorded_at),
            pending_at=time_of(pending_at),
            first_tried_at=None if first_tried_at is None else time_of(first_tried_at),
            replayed=bool(replayed),
        )
        return Due(ordering_key, delivery)

    # Settling. Deliveries that were dropped while claimed are ignored. Returns the deliveries that are due now instead

    def settle(self, batch: Sequence[Acked], now_us: int) -> Sequence[Due]:
        """Acknowledge deliveries."""
        acked = {(self.id_of(one.delivery.sink), one.delivery.seq): one for one in batch}
        pending = self._pending(list(acked))
        attempts = []
        for sink, seq, _ in pending:
            one = acked[sink, seq]
            took_us = round(one.took_s * 1e6)
            attempts.append((sink, seq, one.delivery.attempt, now_us, "delivered", one.detail, took_us))
        self._add_attempts(attempts)
        return self.remove(pending)

    def retry(
        self, delivery: Delivery, due_at: int, held: bool, reason: str, detail: str, took_s: float, now_us: int
    ) -> None:
        for sink, seq, _ in self._pending([(self.id_of(delivery.sink), delivery.seq)]):
            self._add_attempts([(sink, seq, delivery.attempt, now_us, reason, detail, round(took_s * 1e6))])
            self._execute(
                "UPDATE deliveries SET state = ?, due_at = ?, attempts = ?, fresh = 0, reason = ?, detail = ?,"
                " first_tried_at = coalesce(first_tried_at, ?) WHERE sink = ? AND seq = ?",
                (HELD if held else WAITING, due_at, delivery.attempt, reason, detail, now_us, sink, seq),
            )

    def dead_letter(self, delivery: Delivery, reason: str, detail: str, took_s: float, now_us: int) -> Sequence[Due]:
        pending = self._pending([(self.id_of(delivery.sink), delivery.seq)])
        for sink, seq, _ in pending:
            self._add_attempts([(sink, seq, delivery.attempt, now_us, reason, detail, round(took_s * 1e6))])
            self._add_dead_letter(sink, seq, delivery.attempt, reason, detail, now_us)
        return self.remove(pending)

    def expire(self, delivery: Delivery, now_us: int) -> Sequence[Due]:
        pending = self._pending([(self.id_of(delivery.sink), delivery.seq)])
        for sink, seq, _ in pending:
            self._expire(sink, seq, now_us)
        return self.remove(pending)

    def _expire(self, sink: int, seq: int, now_us: int) -> bool:
        """Note that a delivery expires. True if it is a live event, false if it becomes a dead letter."""
        live, attempts, reason, detail = self._execute(
            "SELECT live, attempts, reason, detail FROM deliveries WHERE sink = ? AND seq = ?", (sink, seq)
        ).fetchone()
        if live:
            self._add_attempts([(sink, seq, attempts, now_us, "expired", "", None)])
        else:
            why = detail or reason or "never tried"
            self._add_dead_letter(sink, seq, attempts, reason or "never_tried", f"given up: {why}", now_us)
        return bool(live)

    def expire_overdue(
        self, sink: str, live_before_us: int, final_before_us: int, claimed: Collection[int], now_us: int
    ) -> Overdue:
        sink_id = self.id_of(sink)
        live = self._overdue(sink_id, "INDEXED BY deliveries_live WHERE sink = ? AND live = 1", live_before_us)
        tried = "INDEXED BY deliveries_tried WHERE sink = ? AND first_tried_at IS NOT NULL AND live = 0"
        outcomes = []
        for seq, ordering_key in live + self._overdue(sink_id, tried, final_before_us):
            first = self._execute(
                "SELECT seq FROM deliveries INDEXED BY deliveries_by_ordering_key WHERE sink = ? AND ordering_key = ?"
                " ORDER BY seq LIMIT 1",
                (sink_id, ordering_key),
            ).fetchone()
            if ordering_key not in claimed and first == (seq,):
                outcomes.append(self._expire(sink_id, seq, now_us))
                self.remove([(sink_id, seq, ordering_key)])
        return Overdue(expired=sum(outcomes), dead=len(outcomes) - sum(outcomes))

    def _overdue(self, sink: int, which: str, before_us: int) -> list[tuple[int, int]]:
        rows = self._execute(
            f"SELECT seq, ordering_key, pending_at, replayed FROM deliveries {which} ORDER BY seq LIMIT {_SLICE}",  # noqa: S608
            (sink,),
        )
        overdue = []
        for seq, ordering_key, pending_at, replayed in rows:
            if pending_at < before_us:
                overdue.append((seq, ordering_key))
            elif not replayed:  # replayed deliveries are out of order by age
                break
        return overdue

    def _pending(self, keys: Sequence[tuple[int, int]]) -> list[tuple[int, int, int]]:
        """Those of these deliveries (sink, seq) that are still pending, with their ordering keys."""
        return self._execute(_PENDING, (encode_rows(keys),)).fetchall()

    def remove(self, rows: Sequence[tuple[int, int, int]]) -> Sequence[Due]:
        """Delete deliveries (sink, seq, ordering key), and make the next one of each call ready. Returns these."""
        if not rows:
            return ()
        given = (encode_rows(rows),)
        self._execute(_REMOVE, given)
        return [self._due(sink, row) for *row, sink in self._execute(_TO_THE_FRONT, given).fetchall()]

    def _add_dead_letter(self, sink: int, seq: int, attempts: int, reason: str, detail: str, now_us: int) -> None:
        self._execute(
            "INSERT OR IGNORE INTO dead (sink, seq, dead_at, attempts, reason, detail) VALUES (?, ?, ?, ?, ?, ?)",
            (sink, seq, now_us, attempts, reason, detail),
        )

    def _add_attempts(self, rows: Sequence[tuple[int, int, int, int, str, str, int | None]]) -> None:
        """Store attempts (sink, seq, number, at, word, detail, took_us), and delete old ones of the same events."""
        self._execute(_ADD_ATTEMPTS, (encode_rows(rows),))
        for sink, seq, number, *_ in rows:
            if number > _ATTEMPTS_KEPT:
                self._execute(
                    "DELETE FROM attempts WHERE seq = ? AND sink = ? AND n <= ?", (seq, sink, number - _ATTEMPTS_KEPT)
                )

    # Reading

    def history(self, after_seq: int, limit: int) -> list[Stored]:
        rows = self._execute(
            "SELECT seq, recorded_at, body FROM events WHERE seq > ? ORDER BY seq LIMIT ?", (after_seq, limit)
        )
        return [Stored(seq=seq, recorded_at=time_of(at), event=event_of(body)) for seq, at, body in rows]

    def last_seq(self) -> int:
        row = self._execute("SELECT seq FROM sqlite_sequence WHERE name = 'events'").fetchone()
        return row[0] if row else 0

    def stats(self, bytes_used: int) -> Stats:
        shown = (one for one in sink_stats(self._execute) if one.removed_at is None or one.pending or one.dead)
        return Stats(sinks=tuple(shown), bytes_used=bytes_used)

    def number_from(self, seq: int) -> None:
        """Give the next event a higher number than this."""
        if self.last_seq() < seq:
            self._execute("DELETE FROM sqlite_sequence WHERE name = 'events'")
            self._execute("INSERT INTO sqlite_sequence VALUES ('events', ?)", (seq,))

    def beat(self) -> None:
        self._execute("UPDATE pulse SET beat = beat + 1")

    def pragma(self, name: str) -> int:
        return int(self._execute(f"PRAGMA {name}").fetchone()[0])

    def _event(self, seq: int) -> tuple[Event, int]:
        if seq not in self._events:
            recorded_at, body = self._execute("SELECT recorded_at, body FROM events WHERE seq = ?", (seq,)).fetchone()
            self._keep_event(seq, event_of(body), recorded_at)
        return self._events[seq]

    def _keep_event(self, seq: int, event: Event, recorded_at: int) -> None:
        if len(self._events) >= _EVENTS_KEPT:
            del self._events[next(iter(self._events))]
        self._events[seq] = (event, recorded_at)


def sink_stats(execute: Callable[[str], Iterable[Any]]) -> list[SinkStats]:
    """All sinks that ever existed."""
    rows = execute(
        "SELECT name, pending, dead, removed_at,"
        " (SELECT pending_at FROM deliveries WHERE sink = id ORDER BY seq LIMIT 1) FROM sinks ORDER BY name"
    )
    return [
        SinkStats(
            sink=name,
            pending=pending,
            dead=dead,
            removed_at=None if removed_at is None else time_of(removed_at),
            oldest_recorded_at=None if oldest is None else time_of(oldest),
        )
        for name, pending, dead, removed_at, oldest in rows
    ]


def _longest_wait_us(attempts: int, live: int, state: int) -> int:
    return round(longest_wait_s(attempts, live=bool(live), held=state == HELD) * 1e6)
