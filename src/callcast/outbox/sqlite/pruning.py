"""Deletes old rows in slices, and the least important ones when the size limit is reached."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from msgspec import Struct

from callcast.outbox.sqlite.codec import event_of, ordering_key_of
from callcast.outbox.sqlite.deliveries import Deliveries
from callcast.ports.outbox import Pruned

SLICE = 200
_HOUR_US = 3_600_000_000
_DAY_US = 24 * _HOUR_US
_SHRINK_TO = 0.95  # shrink below the limit, so that the next event does not reach it again
_MEMORY_MIN_US = _HOUR_US  # an ended call is kept at least this long, because its record remains upstream
_BLIND_MAX_US = 30 * _DAY_US  # and until a later poll or the call log has covered it, but no longer than this
# The last poll of an extension or of its account, and whether its source has gaps to fill.
_LAST_POLL_AND_GAPS = """
SELECT (SELECT max(taken_at) FROM polls WHERE source = :source AND extension_id IN (:extension, '')),
  (SELECT count(*) FROM notes WHERE source = :source AND name = 'gaps')
"""


class Limits(Struct, frozen=True, kw_only=True):
    retention_h: float
    outbox_max_mb: float
    dead_letter_days: float


class Pruner:
    """Works through the file in slices and keeps its position. Starts again every hour, for rows that were pending.

    This machine's clock may be weeks ahead. So nothing is older than a day after the last stored poll, whose time is
    the platform's.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._started_us: int | None = None
        self._shrinking = False
        self._after: dict[str, tuple[Any, ...]] = {}  # by kind of rows, the last one that was processed

    def change(self, limits: Limits) -> None:
        if limits != self._limits:
            self._limits = limits
            self.begin_again()

    def begin_again(self) -> None:
        self._started_us = None

    def slice(self, deliveries: Deliveries, now_us: int, claimed: Mapping[str, Collection[int]]) -> tuple[Pruned, bool]:
        """Delete a limited number of rows. The second value is true while there may be more.

        claimed: the ordering keys of claimed deliveries, by sink.
        """
        if self._started_us is None or now_us - self._started_us >= _HOUR_US:
            self._started_us = now_us
            self._forget("events", "calls")
        work = _Work(deliveries, now_us, claimed)
        aged_us = min(now_us, work.last_poll_us(default=now_us) + _DAY_US)
        kept_us = aged_us - round(self._limits.retention_h * _HOUR_US)
        dead_us = aged_us - round(self._limits.dead_letter_days * _DAY_US)
        past_us = min(kept_us, now_us - _MEMORY_MIN_US)
        more = (  # in this order: a call is kept as long as its events, and those as long as they are pending
            work.dead_letters("INDEXED BY dead_by_age WHERE dead_at < ? ORDER BY dead_at", dead_us) == SLICE
            or work.removed_sink(kept_us)
            or self._walk("events", (-1, 0), lambda after: work.settled_events(after, kept_us)) == SLICE
            or self._walk("calls", (-1, "", ""), lambda after: work.ended_calls(after, past_us, seen_past=True))
            == SLICE
            or self._shrink(work)
        )
        return work.pruned(), more

    def _walk(
        self, kind: str, start: tuple[Any, ...], step: Callable[[tuple[Any, ...]], Sequence[tuple[Any, ...]]]
    ) -> int:
        """Process the rows after those that `step` returned the last time. Returns how many there were."""
        rows = step(self._after.get(kind, start))
        if rows:
            self._after[kind] = rows[-1]
        return len(rows)

    def _forget(self, *kinds: str) -> None:
        for kind in kinds:
            self._after.pop(kind, None)

    def _shrink(self, work: "_Work") -> bool:
        """Shrink towards the limit: settled events, then old calls, then dead letters, and last pending deliveries."""
        cap = self._limits.outbox_max_mb * 1_000_000
        used = work.used_bytes()
        if not self._shrinking and used > cap:
            self._shrinking = True
            self._forget("all events", "all calls")
        past_us = work.now_us - _MEMORY_MIN_US
        self._shrinking = (
            self._shrinking
            and used > cap * _SHRINK_TO
            and bool(
                self._walk("all events", (-1, 0), lambda after: work.settled_events(after, work.now_us))
                or self._walk("all calls", (-1, "", ""), lambda after: work.ended_calls(after, past_us))
                or work.drop_dead_letters()
                or work.drop_deliveries()
            )
        )
        return self._shrinking


class _Work:
    """The deletions of one slice, with counts."""

    def __init__(self, deliveries: Deliveries, now_us: int, claimed: Mapping[str, Collection[int]]) -> None:
        self.execute = deliveries.connection.execute
        self.now_us = now_us
        self.claimed = claimed
        self.events = 0
        self.calls = 0
        self.dropped: Counter[str] = Counter()
        self.orphaned: Counter[str] = Counter()
        self._deliveries = deliveries

    def pruned(self) -> Pruned:
        return Pruned(events=self.events, calls=self.calls, dropped=dict(+self.dropped), orphaned=dict(+self.orphaned))

    def used_bytes(self) -> int:
        pages = self._deliveries.pragma("page_count") - self._deliveries.pragma("freelist_count")
        return pages * self._deliveries.pragma("page_size")

    def last_poll_us(self, *, default: int) -> int:
        polled_us: int | None = self.execute("SELECT max(taken_at) FROM polls").fetchone()[0]
        return default if polled_us is None else polled_us

    def settled_events(self, after: tuple[Any, ...], before_us: int) -> list[tuple[Any, ...]]:
        rows = self.execute(
            "SELECT recorded_at, seq FROM events INDEXED BY events_by_age"
            " WHERE (recorded_at, seq) > (?, ?) AND recorded_at < ? ORDER BY recorded_at, seq LIMIT ?",
            (*after, before_us, SLICE),
        ).fetchall()
        for _, seq in rows:
            self._free(seq)
        return rows

    def ended_calls(self, after: tuple[Any, ...], before_us: int, *, seen_past: bool = False) -> list[tuple[Any, ...]]:
        """Delete ended calls of which no event is left.

        seen_past: also require that a backfill cannot return them again. After days without a poll, the call log is
        read for the last calls before the gap too.
        """
        rows = self.execute(
            "SELECT touched_at, source, call_id, ordering_key FROM calls INDEXED BY calls_closed WHERE open = 0"
            " AND (touched_at, source, call_id) > (?, ?, ?) AND touched_at < ?"
            " ORDER BY touched_at, source, call_id LIMIT ?",
            (*after, before_us, SLICE),
        ).fetchall()
        for touched_us, source, call_id, ordering_key in rows:
            if not seen_past or self._is_past(source, call_id, touched_us):
                self._forget(source, call_id, ordering_key, before_us)
        return [row[:3] for row in rows]

    def dead_letters(self, which: str, bound: int, *, free: bool = False) -> int:
        """Delete dead letters. free: also their events, if no sink needs them, and their calls."""
        rows = self.execute(f"SELECT sink, seq FROM dead {which} LIMIT {SLICE}", (bound,)).fetchall()  # noqa: S608
        for row in rows:
            self.execute("DELETE FROM dead WHERE sink = ? AND seq = ?", row)
            if free:
                self._free_with_call(row[1])
        return len(rows)

    def removed_sink(self, before_us: int) -> bool:
        """Delete what is left of a sink that was removed from the configuration. False if there is none."""
        row = self.execute(
            "SELECT id, name FROM sinks WHERE removed_at < ? AND (pending > 0 OR dead > 0)", (before_us,)
        ).fetchone()
        if row is None:
            return False
        sink, name = row
        self.orphaned[name] += self._deliveries_of(sink, ()) + self.dead_letters("WHERE sink = ?", sink)
        return True

    def drop_dead_letters(self) -> int:
        """Drop the oldest dead letters of the sink that has the oldest one."""
        row = self.execute(
            "SELECT d.sink, s.name FROM dead d JOIN sinks s ON s.id = d.sink ORDER BY dead_at LIMIT 1"
        ).fetchone()
        if row is None:
            return 0
        sink, name = row
        dropped = self.dead_letters("INDEXED BY dead_by_age WHERE sink = ? ORDER BY dead_at", sink, free=True)
        self.dropped[name] += dropped
        return dropped

    def drop_deliveries(self) -> int:
        """Drop the oldest deliveries of the sink that is furthest behind."""
        row = self.execute(
            "SELECT id, name, (SELECT pending_at FROM deliveries WHERE sink = id ORDER BY seq LIMIT 1) AS since"
            " FROM sinks WHERE pending > 0 ORDER BY since LIMIT 1"
        ).fetchone()
        if row is None:
            return 0
        sink, name, _ = row
        dropped = self._deliveries_of(sink, self.claimed.get(name, ()), free=True)
        self.dropped[name] += dropped
        return dropped

    def _deliveries_of(self, sink: int, claimed: Collection[int], *, free: bool = False) -> int:
        rows = self.execute(
            "SELECT seq, ordering_key FROM deliveries WHERE sink = ? ORDER BY seq LIMIT ?",
            (sink, SLICE + len(claimed)),
        ).fetchall()
        idle = [(sink, seq, ordering_key) for seq, ordering_key in rows if ordering_key not in claimed]
        self._deliveries.remove(idle)
        if free:
            for _, seq, _ in idle:
                self._free_with_call(seq)
        return len(idle)

    def _free(self, seq: int) -> None:
        pending = (
            "SELECT 1 FROM sinks s WHERE EXISTS (SELECT 1 FROM deliveries d WHERE d.sink = s.id AND d.seq = :seq)"
            " OR EXISTS (SELECT 1 FROM dead d WHERE d.sink = s.id AND d.seq = :seq) LIMIT 1"
        )
        if not self._any(pending, {"seq": seq}):
            self.execute("DELETE FROM attempts WHERE seq = ?", (seq,))
            self.execute("DELETE FROM events WHERE seq = ?", (seq,))
            self.events += 1

    def _free_with_call(self, seq: int) -> None:
        (body,) = self.execute("SELECT body FROM events WHERE seq = ?", (seq,)).fetchone()
        self._free(seq)
        event = event_of(body)
        self._forget(event.source, event.key, ordering_key_of(event), self.now_us - _MEMORY_MIN_US)

    def _forget(self, source: str, call_id: str, ordering_key: int, before_us: int) -> None:
        if not self._any("SELECT 1 FROM events WHERE ordering_key = :key LIMIT 1", {"key": ordering_key}):
            self.calls += self.execute(
                "DELETE FROM calls WHERE source = ? AND call_id = ? AND open = 0 AND touched_at < ?",
                (source, call_id, before_us),
            ).rowcount

    def _is_past(self, source: str, call_id: str, touched_us: int) -> bool:
        """Whether its extension was polled long after the call ended, and its source has no gaps to fill."""
        extension_id = call_id.partition("/")[0]
        polled_us, gaps = self.execute(_LAST_POLL_AND_GAPS, {"source": source, "extension": extension_id}).fetchone()
        seen_past = not gaps and (polled_us is None or touched_us < polled_us - _MEMORY_MIN_US)
        return seen_past or touched_us < self.now_us - _BLIND_MAX_US

    def _any(self, statement: str, values: Mapping[str, int]) -> bool:
        return self.execute(statement, values).fetchone() is not None
