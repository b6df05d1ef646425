"""The live calls, in memory: updated after each recorded change, and read by metrics, page, API and sinks.

The cost of a change does not depend on the number of calls, and readers never block the poller. Everything here runs
on the event loop's thread.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta, tzinfo
from itertools import islice
from operator import attrgetter
from typing import Any

import msgspec

from callcast.calls.freshness import stale_after_s
from callcast.calls.model import (
    UNASSIGNED,
    Call,
    CallEvent,
    ChangeSet,
    Direction,
    Known,
    State,
    Target,
)
from callcast.calls.summary import Counts, Summary
from callcast.live.daily_statistics import DailyStatistics
from callcast.ports.clock import Clock
from callcast.ports.live_calls import LiveChange
from callcast.ports.outbox import Outbox, OutboxUnavailable, Stored

SERVICE = ""  # the source name under which the service stores its own notes
COUNTS_NOTE = "counts"  # the note in the outbox that holds the counts across a restart
SLA_S = 20.0

_CHANGES_MAX = 1024
_CHANGED_CALLS_MAX = 2048  # in all changes together: a poll of a busy account may change a hundred calls
_STORE_EVERY_S = 10.0  # also the longest time between recording an event and applying it
_STORE_AGAIN_S = 900.0  # the calls that were recent in the last note stay in the outbox for an hour
_REPLAY_EVENTS_MAX = 100_000
_REPLAY_PAGE = 500

CallGroup = tuple[str, State, Direction]


class InMemoryLiveCalls:
    """Implements `ports.live_calls.Statistics`.

    timezone: decides when midnight is; None: this machine's timezone.
    sla_s: calls answered within this many seconds count for the service level.
    """

    def __init__(self, clock: Clock, timezone: tzinfo | None = None, sla_s: float = SLA_S) -> None:
        self._clock = clock
        self._statistics = DailyStatistics(clock, timezone, sla_s)
        self._counted_seq: int | None = None
        self._recent: Collection[tuple[str, str]] = ()  # sources and sessions to count again
        self._sources: dict[str, _Source] = {}
        self._changes: deque[tuple[Call, ...]] = deque()
        self._changed_calls = 0
        self._version = 0
        self._changed = asyncio.Event()
        self._newest_first: tuple[Call, ...] | None = ()

    # Updates.

    def restore(self, notes: Mapping[str, bytes]) -> None:
        """Start from the counts that an earlier run kept in the service's notes; before every `load`."""
        self._counted_seq, self._recent = self._statistics.restore(notes.get(COUNTS_NOTE, b""))

    def load(self, source: str, known: Known) -> None:
        """Start from what the outbox holds: live calls and last polls."""
        source_view = self._source(source)
        source_view.load(known)
        self._statistics.count(known.calls.values())
        self._reset()

    def watch(self, source: str, extension_ids: Sequence[str] | None, interval_s: float) -> None:
        """Set the source's watched extensions (None: the whole account) and its poll interval in seconds."""
        self._source(source).watch(extension_ids, interval_s)
        self._publish(())

    def signs_in(self, source: str, ahead: int | None) -> None:
        """Set how many sources sign in before this one; None: it is not queued to sign in."""
        source_view = self._source(source)
        if source_view.sign_ins_ahead != ahead:
            source_view.sign_ins_ahead = ahead
            self._publish(())

    def stored(self, target: Target, taken_at: datetime) -> None:
        """Note that a poll is stored; it decides the target's `as_of`."""
        self._source(target.source).stored[target.extension_id] = taken_at

    def polled(self, target: Target, taken_at: datetime) -> None:
        """Note a successful poll, stored or not."""
        if self._source(target.source).polled(target.extension_id, taken_at):
            self._publish(())

    def apply(self, change: ChangeSet) -> None:
        """Apply a recorded change."""
        if not change.calls:
            return
        for call in change.calls:
            self._source(call.source).put(call)
        self._statistics.count(change.calls)
        self._publish(change.calls)

    def unwatch(self, source: str) -> None:
        """Remove a source."""
        if self._sources.pop(source, None) is not None:
            self._statistics.forget_source(source)
            self._reset()

    def recount(self, calls: Iterable[Call]) -> None:
        """Count calls that the stored counts may not include; calls of unknown sources are ignored."""
        self._statistics.count(call for call in calls if call.source in self._sources)

    def count_by(self, timezone: tzinfo | None, sla_s: float) -> None:
        """Set the timezone that decides midnight, and the service level's limit in seconds."""
        self._statistics.configure(timezone, sla_s)

    # Reading.

    @property
    def version(self) -> int:
        return self._version

    def calls(self) -> Sequence[Call]:
        if self._newest_first is None:
            every = [call for source_view in self._sources.values() for call in source_view.calls.values()]
            every.sort(key=attrgetter("started_at", "call_id"), reverse=True)
            self._newest_first = tuple(every)
        return self._newest_first

    def sources(self) -> Sequence[str]:
        return tuple(self._sources)

    def extensions(self, source: str, /) -> Sequence[str]:
        source_view = self._sources.get(source)
        return tuple(source_view.extensions) if source_view else ()

    def active(self, source: str) -> Mapping[CallGroup, int]:
        """The number of calls by extension, state and direction; a combination once used stays, with 0."""
        source_view = self._sources.get(source)
        return source_view.groups if source_view else {}

    def staleness_s(self, source: str) -> float:
        """Age in seconds of the oldest last poll among the source's targets; before the first poll, since watching."""
        source_view = self._sources.get(source)
        return source_view.staleness_s() if source_view else 0.0

    def summaries(self) -> Sequence[Summary]:
        return [self._summary(source_view) for source_view in self._sources.values()]

    def total(self) -> Counts:
        waits = [summary.longest_wait_s for summary in self.summaries() if summary.longest_wait_s is not None]
        return Counts(**self._totals(), longest_wait_s=max(waits, default=None))

    def extension_counts(self, source: str, /) -> Mapping[str, Counts]:
        source_view = self._sources.get(source)
        if source_view is None:
            return {}
        extensions = dict.fromkeys((*source_view.extensions, *self._statistics.extensions(source)))
        return {one: self._counts(source_view, extension_id=one) for one in extensions}

    def dump_counts(self, *, seq: int) -> bytes:
        """The counts since midnight, to be stored. `seq`: the newest event that they certainly include."""
        return self._statistics.dump(seq)

    def uncounted(self) -> tuple[int | None, Collection[tuple[str, str]]]:
        """The event after which the stored counts may be incomplete (None: there is no source), and the sessions."""
        return (self._counted_seq or 0) if self._sources else None, self._recent

    def _summary(self, source_view: "_Source") -> Summary:
        return Summary(**msgspec.structs.asdict(self._counts(source_view)), **source_view.freshness())

    def _counts(self, source_view: "_Source", extension_id: str = "") -> Counts:
        totals = self._totals(source_view.name, extension_id)
        since = totals["longest_waiting_since"]
        wait_s = None if since is None else max(0.0, ((source_view.now() or self._clock.now()) - since).total_seconds())
        return Counts(**totals, longest_wait_s=wait_s)

    def _totals(self, source: str = "", extension_id: str = "") -> dict[str, Any]:
        counts = self._statistics.counts(source, extension_id)
        return {
            **msgspec.structs.asdict(self._statistics.now(source, extension_id)),
            "answered_today": counts.answered,
            "missed_today": counts.missed,
            "abandoned_today": counts.abandoned,
            "average_speed_of_answer_s": counts.average_speed_s,
            "service_level": counts.service_level,
        }

    async def changed(self, since: int, /) -> LiveChange:
        while self._version <= since:
            await self._changed.wait()
        behind = self._version - since
        if behind > len(self._changes):
            return LiveChange(version=self._version, calls=None)
        latest: dict[tuple[str, str], Call] = {}
        for calls in islice(self._changes, len(self._changes) - behind, None):
            for call in calls:
                latest[call.source, call.call_id] = call
        return LiveChange(version=self._version, calls=tuple(latest.values()))

    def _source(self, name: str) -> "_Source":
        if name not in self._sources:
            self._sources[name] = _Source(name, self._clock)
        return self._sources[name]

    def _publish(self, calls: tuple[Call, ...]) -> None:
        self._changes.append(calls)
        self._changed_calls += len(calls)
        while len(self._changes) > _CHANGES_MAX or self._changed_calls > _CHANGED_CALLS_MAX:
            self._changed_calls -= len(self._changes.popleft())
        if calls:
            self._newest_first = None
        self._version += 1
        self._changed.set()
        self._changed = asyncio.Event()

    def _reset(self) -> None:
        """Make every reader read all calls again: too much has changed to list."""
        self._publish(())
        self._changes.clear()
        self._changed_calls = 0
        self._newest_first = None


class _Source:
    """One source: its live calls, indexed for each question, and the freshness of its targets."""

    def __init__(self, name: str, clock: Clock) -> None:
        self.name = name
        self.calls: dict[str, Call] = {}
        self.extensions: dict[str, None] = {}  # the watched ones, then others that had a call
        self.groups: Counter[CallGroup] = Counter()
        self._clock = clock
        self._watched: dict[str | None, float] = {}  # since when, monotonic
        self.stored: dict[str | None, datetime] = {}  # by target, the newest poll on the disk
        self._polls: dict[str | None, float] = {}  # monotonic
        self._newest_poll: tuple[datetime, float] | None = None  # of all polls since the start
        self._overdue_after_s = stale_after_s(0.0)
        self.sign_ins_ahead: int | None = None

    def load(self, known: Known) -> None:
        for call in known.calls.values():
            self._add(call)
        now, monotonic = self._clock.now(), self._clock.monotonic()
        for target, taken_at in known.polls.items():
            age_s = max(0.0, (now - taken_at).total_seconds())
            self._polls[target.extension_id] = monotonic - age_s
            self.stored[target.extension_id] = taken_at

    def watch(self, extension_ids: Sequence[str] | None, interval_s: float) -> None:
        monotonic = self._clock.monotonic()
        wanted: Iterable[str | None] = (None,) if extension_ids is None else extension_ids
        self._watched = {one: self._watched.get(one, monotonic) for one in wanted}
        self._polls = {one: at for one, at in self._polls.items() if one in self._watched}
        self.stored = {one: at for one, at in self.stored.items() if one in self._watched}
        self._overdue_after_s = stale_after_s(interval_s)
        seen = [call.extension_id for call in self.calls.values() if call.extension_id != UNASSIGNED]
        self.extensions = dict.fromkeys((*(extension_ids or ()), *seen))

    def polled(self, extension_id: str | None, taken_at: datetime) -> bool:
        """Note a successful poll. Returns true if it was overdue or the first."""
        overdue = self._is_overdue(extension_id)
        self._polls[extension_id] = monotonic = self._clock.monotonic()
        self._newest_poll = (taken_at, monotonic)
        return overdue

    def put(self, call: Call) -> None:
        self._remove(call.call_id)
        self._add(call)

    def freshness(self) -> dict[str, Any]:
        """The fields of a summary other than the counts."""
        overdue = self._overdue()
        return {
            "source": self.name,
            "as_of": self._as_of(),
            "complete": bool(self._watched) and not overdue,
            "overdue": tuple(one for one in overdue if one and len(overdue) < len(self._watched)),
            "sign_ins_ahead": self.sign_ins_ahead,
            "now": self.now(),
        }

    def staleness_s(self) -> float:
        monotonic = self._clock.monotonic()
        return max((monotonic - self._last_good(one) for one in self._watched), default=0.0)

    def _add(self, call: Call) -> None:
        if call.extension_id != UNASSIGNED:
            self.extensions.setdefault(call.extension_id)
        if not (call.live and call.sequence):  # a call without an event is not shown
            return
        self.calls[call.call_id] = call
        self._tally(call, +1)

    def _remove(self, call_id: str) -> None:
        if call := self.calls.pop(call_id, None):
            self._tally(call, -1)

    def _tally(self, call: Call, step: int) -> None:
        self.groups[call.extension_id, call.state, call.direction] += step

    def _as_of(self) -> datetime | None:
        if not self._watched or not self._watched.keys() <= self.stored.keys():
            return None
        return min(self.stored[one] for one in self._watched)

    def now(self) -> datetime | None:
        """The platform's time, derived from the newest poll: this machine's clock may be wrong."""
        if self._newest_poll is None:
            return None
        taken_at, monotonic = self._newest_poll
        return taken_at + timedelta(seconds=self._clock.monotonic() - monotonic)

    def _overdue(self) -> Sequence[str | None]:
        due = self._clock.monotonic() - self._overdue_after_s
        polls = self._polls
        return [one for one in self._watched if one not in polls or polls[one] < due]

    def _is_overdue(self, extension_id: str | None) -> bool:
        poll = self._polls.get(extension_id)
        return poll is None or poll < self._clock.monotonic() - self._overdue_after_s

    def _last_good(self, extension_id: str | None) -> float:
        if extension_id in self._polls:
            return self._polls[extension_id]
        return self._watched[extension_id]


async def catch_up(live_calls: InMemoryLiveCalls, outbox: Outbox) -> None:
    """Count what may have changed since the counts were last stored. Called once, at start, after every `load`.

    Each session is counted as a whole, with all its stored calls. Raises OutboxUnavailable.
    """
    counted, recent = live_calls.uncounted()
    if counted is None:
        return
    live = {(call.source, call.session_id) for call in live_calls.calls()}
    await _count_again(live_calls, outbox, {*recent, *live})
    newest = await outbox.last_seq()
    after = max(counted, newest - _REPLAY_EVENTS_MAX)
    while page := await outbox.history(after_seq=after, limit=_REPLAY_PAGE):
        calls = _calls_of(page)
        await _count_again(live_calls, outbox, {(call.source, call.session_id) for call in calls})
        live_calls.recount(calls)  # includes calls that have been pruned
        after = page[-1].seq


async def _count_again(live_calls: InMemoryLiveCalls, outbox: Outbox, sessions: Collection[tuple[str, str]]) -> None:
    by_source: dict[str, list[str]] = {}
    for source, session_id in sorted(sessions):
        by_source.setdefault(source, []).append(session_id)
    for source, names in by_source.items():
        for first in range(0, len(names), _REPLAY_PAGE):
            live_calls.recount(await outbox.recall(source, names[first : first + _REPLAY_PAGE]))


def _calls_of(page: Sequence[Stored]) -> Sequence[Call]:
    """The calls of these events, each in its newest state."""
    newest: dict[tuple[str, str], Call] = {}
    for stored in page:
        if isinstance(stored.event, CallEvent):
            newest[stored.event.source, stored.event.key] = stored.event.call
    return tuple(newest.values())


async def store_counts(live_calls: InMemoryLiveCalls, outbox: Outbox, clock: Clock) -> None:
    """Store the counts every few seconds if they have changed, until cancelled.

    Events are recorded before they are counted, so each note claims only the events recorded one round earlier.
    `catch_up` counts the rest again; counting a call twice has no effect.
    """
    seq = noted = -1
    noted_at_s = clock.monotonic()
    while True:
        try:
            newest = await outbox.last_seq()
            is_old = clock.monotonic() - noted_at_s >= _STORE_AGAIN_S
            if seq >= 0 and (noted != newest or is_old):
                await outbox.note(SERVICE, COUNTS_NOTE, live_calls.dump_counts(seq=seq))
                noted, noted_at_s = seq, clock.monotonic()
            seq = newest
        except OutboxUnavailable:
            pass  # reported by the recorder; the next round stores these counts too
        await clock.sleep(_STORE_EVERY_S)
