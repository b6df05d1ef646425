"""Statements for events and pending deliveries. Every access uses an index, however large the file is."""

import sqlite3
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from operator import itemgetter
from typing import Any

from msgspec import Struct

from callcast.calls.model import CallEvent, ChangeSet, Event, PollRecord
from callcast.outbox.sqlite import calls
from callcast.outbox.sqlite.codec import (
    batched,
    encode,
    encode_rows,
    event_of,
    ordering_key_of,
    ordering_key_of_delivery,
    rows_of,
    time_of,
)
from callcast.outbox.sqlite.schema import HELD, READY, WAITING
from callcast.ports.outbox import Acked, Overdue, SinkStats, Stats, Stored
from callcast.ports.retry import longest_wait_s
from callcast.ports.sink import Delivery, Filter

_SLICE = 500  # rows per step, so that other sinks do not wait long for the thread
_EVENTS_KEPT = 2048  # decoded events that are cached for the next claims
_ATTEMPTS_KEPT = 50  # attempts of one event and sink, for `explain`

_COLUMNS = "seq, ordering_key, attempts, pending_at, first_tried_at, replayed"
_CLAIMED = f"SELECT {_COLUMNS} FROM deliveries"  # noqa: S608

# Each statement handles many rows and returns one row of JSON: at each row and each statement the thread releases the
# interpreter lock, and may have to wait for it.
_KNOWN = """
SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'events'), 0),
  (SELECT json_group_array(id) FROM events WHERE id IN (SELECT value FROM json_each(?)))
"""
_READY = f"""
SELECT json_group_array(json_array({_COLUMNS})) FROM (
  {_CLAIMED} INDEXED BY deliveries_ready WHERE sink = ? AND state = 1 ORDER BY replayed, seq LIMIT ?)
"""  # noqa: S608
_PUT_EVENTS = "INSERT INTO events (seq, id, ordering_key, recorded_at, body) VALUES {}"
# A delivery is in front if its sink has no other pending delivery of the call. It is fresh if the sink was never sent
# an event of the call: `first` is 1 for a call's first event, 0 for a later one, null for an event without a call.
_POSITIONS = """
SELECT json_group_array(json_array(sink, seq, ordering_key, front, live,
  front AND first IS 1 OR front AND first IS 0 AND NOT EXISTS (
    SELECT 1 FROM events e JOIN attempts a ON a.seq = e.seq AND a.sink = pending.sink
    WHERE e.ordering_key = pending.ordering_key AND e.seq < pending.seq)))
FROM (
  SELECT sink, seq, ordering_key, live, first, NOT behind AND NOT EXISTS (
    SELECT 1 FROM deliveries d INDEXED BY deliveries_by_ordering_key WHERE d.sink = given.sink AND
      d.ordering_key = given.ordering_key) AS front
  FROM (
    SELECT json_extract(value, '$[0]') AS sink, json_extract(value, '$[1]') AS seq, json_extract(value, '$[2]')
      AS ordering_key,
      json_extract(value, '$[3]') AS live, json_extract(value, '$[4]') AS first, json_extract(value, '$[5]') AS behind
    FROM json_each(?)) given) pending
"""
_ADD_DELIVERIES = """
INSERT INTO deliveries (sink, seq, ordering_key, state, live, fresh, pending_at, due_at)
SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'),
  json_extract(value, '$[3]'), json_extract(value, '$[4]'), json_extract(value, '$[5]'), :now, :now
FROM json_each(:rows)
"""
_FOLLOWED = """
SELECT json_group_array(json_array(sink, ordering_key)) FROM followed WHERE (ordering_key, sink) IN (
  SELECT json_extract(value, '$[1]'), json_extract(value, '$[0]') FROM json_each(?))
"""
_PENDING = """
SELECT json_group_array(json_array(sink, seq, ordering_key)) FROM deliveries WHERE (sink, seq) IN (
  SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?))
"""
_SETTLE = """
DELETE FROM deliveries WHERE (sink, seq) IN (
  SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?))
"""
_ATTEMPTED = """
INSERT OR REPLACE INTO attempts (sink, seq, n, at, word, detail, took_us)
SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'),
  json_extract(value, '$[3]'), 'delivered', json_extract(value, '$[5]'), json_extract(value, '$[4]') FROM json_each(?)
"""
_TO_THE_FRONT = """
UPDATE deliveries SET state = 1 WHERE state = 0 AND (sink, seq) IN (
  SELECT sink, (SELECT d.seq FROM deliveries d INDEXED BY deliveries_by_ordering_key WHERE d.sink = settled.sink
    AND d.ordering_key = settled.ordering_key ORDER BY d.seq LIMIT 1)
  FROM (SELECT json_extract(value, '$[0]') AS sink, json_extract(value, '$[2]') AS ordering_key FROM
    json_each(?)) settled)
RETURNING sink
"""

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


_New = tuple[int, int, Event]  # number, ordering key, event


class DueDelivery(Struct, frozen=True):
    """A new delivery that is due now; `fresh` if it is the first event of its call for the sink."""

    ordering_key: int
    delivery: Delivery
    fresh: bool


class Claimed(Struct, frozen=True):
    """Deliveries with their ordering keys, and when more may be claimed: None if that needs another change."""

    found: Sequence[tuple[int, Delivery]]
    due_us: int | None


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

    def record(self, source: str, poll: PollRecord | None, change: ChangeSet, now_us: int) -> Sequence[DueDelivery]:
        if poll is not None:
            calls.keep_poll(self.connection, source, poll)
        calls.keep_calls(self.connection, source, change.calls, now_us)
        return [
            due
            for some in batched(change.events, calls.ROWS)
            for due in self._add_deliveries(self._put(some, now_us), now_us)
        ]

    def _put(self, events: Sequence[Event], now_us: int) -> list[_New]:
        """Store the events that are not stored yet, numbered in order."""
        given = {event.id: event for event in events}
        last, known = self._execute(_KNOWN, (encode_rows(list(given)),)).fetchone()
        for event_id in rows_of(known):
            del given[event_id]
        new = [(seq, ordering_key_of(event), event) for seq, event in enumerate(given.values(), last + 1)]
        if new:
            row = ",".join(["(?, ?, ?, ?, ?)"] * len(new))
            values = [
                value
                for seq, ordering_key, event in new
                for value in (seq, event.id, ordering_key, now_us, encode(event))
            ]
            self._execute(_PUT_EVENTS.format(row), values)
        for seq, _, event in new:
            self._keep_event(seq, event, now_us)
        return new

    def _add_deliveries(self, new: Sequence[_New], now_us: int) -> list[DueDelivery]:
        rows = self._pending(new)
        if not rows:
            return []
        positions = self._execute(_POSITIONS, (encode_rows(rows),)).fetchone()[0]
        self._execute(_ADD_DELIVERIES, {"rows": positions, "now": now_us})
        names, events, at = self._names(), {seq: event for seq, _, event in new}, time_of(now_us)
        return [
            DueDelivery(ordering_key, _first_attempt(names[sink], seq, events[seq], at), bool(fresh))
            for sink, seq, ordering_key, state, _, fresh in sorted(rows_of(positions), key=itemgetter(1))
            if state == READY
        ]

    def _pending(self, new: Sequence[_New]) -> list[tuple[int, int, int, bool, int | None, bool]]:
        """A row for each event and sink that gets it; `behind` if an earlier row is of the same call."""
        rows, earlier, followed = [], set(), self._followed(new)
        for seq, ordering_key, event in new:
            first = int(event.sequence == 1) if isinstance(event, CallEvent) else None
            for name, wish in self.filters.items():
                key = (self.id_of(name), ordering_key)
                if wish.wants(event, followed=key in followed or key in earlier):
                    rows.append((key[0], seq, ordering_key, event.live, first, key in earlier))
                    earlier.add(key)
        return rows

    def _followed(self, new: Sequence[_New]) -> set[tuple[int, int]]:
        """Sinks and calls (as ordering keys) with an earlier event, where that makes a difference."""
        undecided = {
            (self.id_of(name), ordering_key)
            for _, ordering_key, event in new
            for name, wish in self.filters.items()
            if wish.wants(event, followed=True) and not wish.wants(event)
        }
        if not undecided:
            return set()
        found = self._execute(_FOLLOWED, (encode_rows(list(undecided)),)).fetchone()[0]
        return {(sink, ordering_key) for sink, ordering_key in rows_of(found)}

    def _names(self) -> Mapping[int, str]:
        return {self.id_of(name): name for name in self.filters}

    # Claiming

    def claim(self, sink: str, limit: int, in_flight: Collection[int], now_us: int) -> Claimed:
        sink_id = self.id_of(sink)
        self._promote(sink_id, now_us)
        rows = rows_of(self._execute(_READY, (sink_id, limit + len(in_flight))).fetchone()[0])
        rows.sort(key=itemgetter(5, 0))  # by replayed, seq, because json_group_array does not keep the order
        found = [(row[1], self._delivery(sink, row)) for row in rows if row[1] not in in_flight][:limit]
        busy = in_flight if not found else {*in_flight, *(ordering_key for ordering_key, _ in found)}
        return Claimed(found, self._waiting_until_us(sink_id, busy) if len(found) < limit else 0)

    def claim_probe(
        self, sink: str, after_seq: int, fresh: bool, in_flight: Collection[int], now_us: int
    ) -> tuple[int, Delivery] | None:
        which = "INDEXED BY deliveries_fresh WHERE sink = :sink AND seq > :after AND fresh = 1 AND state = 1"
        if not fresh:
            which = "WHERE sink = :sink AND seq > :after AND (state IN (1, 2) OR state = 3 AND due_at <= :now)"
        rows = self._execute(
            f"{_CLAIMED} {which} ORDER BY seq LIMIT :most",
            {"sink": self.id_of(sink), "after": after_seq, "most": 1 + len(in_flight), "now": now_us},
        )
        free = [row for row in rows.fetchall() if row[1] not in in_flight]
        return (free[0][1], self._delivery(sink, free[0])) if free else None

    def next_due_us(self, sink: str, in_flight: Collection[int]) -> int | None:
        """When a delivery may be claimed: 0 for now, None if that needs another change."""
        sink_id, enough = self.id_of(sink), 1 + len(in_flight)
        ready = self._execute(
            "SELECT ordering_key FROM deliveries INDEXED BY deliveries_ready WHERE sink = ? AND state = 1 LIMIT ?",
            (sink_id, enough),
        )
        if any(ordering_key not in in_flight for (ordering_key,) in ready.fetchall()):
            return 0
        return self._waiting_until_us(sink_id, in_flight)

    def _waiting_until_us(self, sink: int, in_flight: Collection[int]) -> int | None:
        waiting = self._execute(
            "SELECT ordering_key, due_at FROM deliveries INDEXED BY deliveries_waiting WHERE sink = ? AND state > 1"
            " ORDER BY due_at LIMIT ?",
            (sink, 1 + len(in_flight)),
        )
        return next((due_at for ordering_key, due_at in waiting.fetchall() if ordering_key not in in_flight), None)

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

    def _delivery(self, sink: str, row: tuple[int, int, int, int, int | None, int]) -> Delivery:
        seq, _, attempts, pending_at, first_tried_at, replayed = row
        event, recorded_at = self._event(seq)
        return Delivery(
            sink=sink,
            seq=seq,
            event=event,
            attempt=attempts + 1,
            recorded_at=time_of(recorded_at),
            pending_at=time_of(pending_at),
            first_tried_at=None if first_tried_at is None else time_of(first_tried_at),
            replayed=bool(replayed),
        )

    # Settling. Deliveries that were dropped while in flight are ignored

    def settle(self, batch: Sequence[Acked], now_us: int) -> frozenset[str]:
        """Acknowledge deliveries. Returns the sinks for which the next event of a call is due now."""
        taken = {(self.id_of(one.delivery.sink), one.delivery.seq): one for one in batch}
        found = self._execute(_PENDING, (encode_rows(list(taken)),)).fetchone()[0]
        pending = rows_of(found)
        if not pending:
            return frozenset()
        self._execute(_SETTLE, (found,))
        attempts = [(sink, seq, *_attempt(taken[sink, seq], now_us)) for sink, seq, _ in pending]
        self._execute(_ATTEMPTED, (encode_rows(attempts),))
        for sink, seq, number, *_ in attempts:
            self._forget_attempts(seq, sink, number)
        names = {sink: taken[sink, seq].delivery.sink for sink, seq, _ in pending}
        followed = self._execute(_TO_THE_FRONT, (found,)).fetchall()
        return frozenset(names[sink] for (sink,) in followed)

    def retry(
        self, delivery: Delivery, due_at: int, held: bool, reason: str, detail: str, took_s: float, now_us: int
    ) -> None:
        if not self._is_pending(delivery):
            return
        self._record_attempt(delivery, reason, detail, took_s, now_us)
        state = HELD if held else WAITING
        self._execute(
            "UPDATE deliveries SET state = ?, due_at = ?, attempts = ?, fresh = 0, reason = ?, detail = ?,"
            " first_tried_at = coalesce(first_tried_at, ?) WHERE sink = ? AND seq = ?",
            (state, due_at, delivery.attempt, reason, detail, now_us, self.id_of(delivery.sink), delivery.seq),
        )

    def dead_letter(self, delivery: Delivery, reason: str, detail: str, took_s: float, now_us: int) -> None:
        if not self._is_pending(delivery):
            return
        self._record_attempt(delivery, reason, detail, took_s, now_us)
        self._add_dead_letter(self.id_of(delivery.sink), delivery.seq, delivery.attempt, reason, detail, now_us)
        self._settled(delivery)

    def expire(self, sink: str, seq: int, now_us: int) -> bool:
        """Expire a delivery. True if it was a live event, false if it became a dead letter or was settled."""
        sink_id = self.id_of(sink)
        row = self._execute(
            "SELECT ordering_key, live, attempts, reason, detail FROM deliveries WHERE sink = ? AND seq = ?",
            (sink_id, seq),
        ).fetchone()
        if row is None:
            return False
        ordering_key, live, attempts, reason, detail = row
        if live:
            self._put_attempt(seq, sink_id, attempts, now_us, "expired", "", None)
        else:
            why = detail or reason or "never tried"
            self._add_dead_letter(sink_id, seq, attempts, reason or "never_tried", f"given up: {why}", now_us)
        self.drop(sink_id, seq, ordering_key)
        return bool(live)

    def expire_overdue(
        self, sink: str, live_before_us: int, final_before_us: int, in_flight: Collection[int], now_us: int
    ) -> Overdue:
        sink_id = self.id_of(sink)
        live = self._overdue(sink_id, "INDEXED BY deliveries_live WHERE sink = ? AND live = 1", live_before_us)
        tried = "INDEXED BY deliveries_tried WHERE sink = ? AND first_tried_at IS NOT NULL AND live = 0"
        final = self._overdue(sink_id, tried, final_before_us)
        outcomes = [
            self.expire(sink, seq, now_us)
            for seq, ordering_key in live + final
            if ordering_key not in in_flight and self._first_of(sink_id, ordering_key) == seq
        ]
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

    def drop(self, sink: int, seq: int, ordering_key: int) -> None:
        """Delete a delivery, and make the next one of its call ready."""
        self._execute("DELETE FROM deliveries WHERE sink = ? AND seq = ?", (sink, seq))
        following = self._first_of(sink, ordering_key)
        if following is not None:
            self._execute("UPDATE deliveries SET state = 1 WHERE sink = ? AND seq = ? AND state = 0", (sink, following))

    def _settled(self, delivery: Delivery) -> None:
        self.drop(self.id_of(delivery.sink), delivery.seq, ordering_key_of_delivery(delivery))

    def _is_pending(self, delivery: Delivery) -> bool:
        key = (self.id_of(delivery.sink), delivery.seq)
        return self._execute("SELECT 1 FROM deliveries WHERE sink = ? AND seq = ?", key).fetchone() is not None

    def _add_dead_letter(self, sink: int, seq: int, attempts: int, reason: str, detail: str, now_us: int) -> None:
        self._execute(
            "INSERT OR IGNORE INTO dead (sink, seq, dead_at, attempts, reason, detail) VALUES (?, ?, ?, ?, ?, ?)",
            (sink, seq, now_us, attempts, reason, detail),
        )

    def _record_attempt(self, delivery: Delivery, word: str, detail: str, took_s: float, now_us: int) -> None:
        sink = self.id_of(delivery.sink)
        self._put_attempt(delivery.seq, sink, delivery.attempt, now_us, word, detail, round(took_s * 1e6))
        self._forget_attempts(delivery.seq, sink, delivery.attempt)

    def _forget_attempts(self, seq: int, sink: int, number: int) -> None:
        if number > _ATTEMPTS_KEPT:
            self._execute(
                "DELETE FROM attempts WHERE seq = ? AND sink = ? AND n <= ?", (seq, sink, number - _ATTEMPTS_KEPT)
            )

    def _put_attempt(self, *row: Any) -> None:
        self._execute("INSERT OR REPLACE INTO attempts VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def _first_of(self, sink: int, ordering_key: int) -> int | None:
        """The oldest pending event of a call."""
        row = self._execute(
            "SELECT seq FROM deliveries INDEXED BY deliveries_by_ordering_key WHERE sink = ? AND ordering_key ="
            " ? ORDER BY seq LIMIT 1",
            (sink, ordering_key),
        ).fetchone()
        return None if row is None else int(row[0])

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


def _first_attempt(sink: str, seq: int, event: Event, at: datetime) -> Delivery:
    return Delivery(sink=sink, seq=seq, event=event, attempt=1, recorded_at=at, pending_at=at)


def _longest_wait_us(attempts: int, live: int, state: int) -> int:
    return round(longest_wait_s(attempts, live=bool(live), held=state == HELD) * 1e6)


def _attempt(taken: Acked, now_us: int) -> tuple[int, int, int, str]:
    return taken.delivery.attempt, now_us, round(taken.took_s * 1e6), taken.detail
