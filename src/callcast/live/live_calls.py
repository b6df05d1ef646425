"""The live calls, in memory: updated after each recorded change, and read by metrics, page, API and sinks.

The cost of a change does not depend on the number of calls, and readers never block the poller. Everything here runs
on the event loop's thread.
"""

import asyncio
import math
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta, tzinfo
from itertools import islice
from operator import attrgetter
from typing import Any

import msgspec

from callcast.calls.freshness import stale_after_s
from callcast.calls.model import (
    UNASSIGNED,
    Call,
    ChangeSet,
    Direction,
    Known,
    State,
    Target,
)
from callcast.calls.summary import Counts, HintsState, Summary
from callcast.live.daily_statistics import DailyStatistics
from callcast.ports.clock import Clock
from callcast.ports.live_calls import LiveChange

SLA_S = 20.0

_CHANGES_MAX = 1024
_CHANGED_CALLS_MAX = 2048  # in all changes together: a poll of a busy account may change a hundred calls

CallGroup = tuple[str, State, Direction]


class InMemoryLiveCalls:
    """Implements `ports.live_calls.LiveCalls`.

    timezone: decides when midnight is; None: this machine's timezone.
    sla_s: calls answered within this many seconds count for the service level.
    """

    def __init__(self, clock: Clock, timezone: tzinfo | None = None, sla_s: float = SLA_S) -> None:
        self._clock = clock
        self.statistics = DailyStatistics(clock, timezone, sla_s)
        self._sources: dict[str, _Source] = {}
        self._changes: deque[tuple[Call, ...]] = deque()
        self._changed_calls = 0
        self._version = 0
        self._changed = asyncio.Event()
        self._newest_first: tuple[Call, ...] | None = ()

    # Updates.

    def load(self, source: str, known: Known) -> None:
        """Start from what the outbox holds: live calls and last polls."""
        self._source(source).load(known)
        self.statistics.count(known.calls.values())
        self._reset()

    def watch(self, source: str, extension_ids: Sequence[str] | None, interval_s: float) -> None:
        """Set the source's watched extensions (None: the whole account) and its poll interval in seconds."""
        self._source(source).watch(extension_ids, interval_s)
        self._publish(())

    def waiting(self, source: str, since: Mapping[str | None, float] | None) -> None:
        """Set from when on a good poll of a target is missing (monotonic); the others are quiet by plan. None: without
        hints, where the time since the last poll counts.
        """
        self._source(source).waiting = since

    def hints(self, source: str, state: HintsState | None) -> None:
        """Set how the source's hints come; None: it has none."""
        source_view = self._source(source)
        before, source_view.hints = source_view.hints, state
        if (before and before.via) != (state and state.via):
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
        self.statistics.count(change.calls)
        self._publish(change.calls)

    def unwatch(self, source: str) -> None:
        """Remove a source."""
        if self._sources.pop(source, None) is not None:
            self.statistics.forget_source(source)
            self._reset()

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

    def watches(self, source: str, extension_id: str, /) -> bool:
        source_view = self._sources.get(source)
        return source_view is not None and source_view.watches(extension_id)

    def active(self, source: str) -> Mapping[CallGroup, int]:
        """The number of calls by extension, state and direction; a combination once used stays, with 0."""
        source_view = self._sources.get(source)
        return source_view.groups if source_view else {}

    def staleness_s(self, source: str) -> float:
        """Age in seconds of the oldest last poll among the source's targets; before the first poll, since watching."""
        source_view = self._sources.get(source)
        return source_view.staleness_s() if source_view else 0.0

    def summaries(self) -> Sequence[Summary]:
        return [
            Summary(**msgspec.structs.asdict(self._counts(source_view)), **source_view.freshness())
            for source_view in self._sources.values()
        ]

    def total(self) -> Counts:
        """Counts over all sources. A conversation that several sources of one account see counts once."""
        waits = [self._counts(source_view).longest_wait_s for source_view in self._sources.values()]
        counts = self.statistics.counts(self._clock.now())
        return msgspec.structs.replace(counts, longest_wait_s=max((s for s in waits if s is not None), default=None))

    def extension_counts(self, source: str, /) -> Mapping[str, Counts]:
        """By extension id, for each extension of `extensions` and each that had a call today."""
        source_view = self._sources.get(source)
        if source_view is None:
            return {}
        extensions = dict.fromkeys((*source_view.extensions, *self.statistics.extensions(source)))
        return {one: self._counts(source_view, one) for one in extensions}

    def _counts(self, source_view: "_Source", extension_id: str = "") -> Counts:
        now = source_view.now() or self._clock.now()
        return self.statistics.counts(now, source_view.name, extension_id)

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
        self._targets_known = False
        self.stored: dict[str | None, datetime] = {}  # by target, the newest poll on the disk
        self._polls: dict[str | None, float] = {}  # monotonic
        self._newest_poll: tuple[datetime, float] | None = None  # of all polls since the start
        self._overdue_after_s = stale_after_s(0.0)
        self.sign_ins_ahead: int | None = None
        self.hints: HintsState | None = None
        self.waiting: Mapping[str | None, float] | None = None

    def load(self, known: Known) -> None:
        for call in known.calls.values():
            self.put(call)
        now, monotonic = self._clock.now(), self._clock.monotonic()
        for target, taken_at in known.polls.items():
            age_s = max(0.0, (now - taken_at).total_seconds())
            self._polls[target.extension_id] = monotonic - age_s
            self.stored[target.extension_id] = taken_at

    def watch(self, extension_ids: Sequence[str] | None, interval_s: float) -> None:
        self._targets_known = True
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

    def watches(self, extension_id: str) -> bool:
        return not self._targets_known or None in self._watched or extension_id in self._watched

    def put(self, call: Call) -> None:
        if before := self.calls.pop(call.call_id, None):
            self.groups[_group(before)] -= 1
        self._add(call)

    def freshness(self) -> dict[str, Any]:
        """The fields of a summary other than the counts."""
        overdue = [one for one in self._watched if self._is_overdue(one)]
        all_are_stored = self._watched and self._watched.keys() <= self.stored.keys()
        return {
            "source": self.name,
            "as_of": min(self.stored[one] for one in self._watched) if all_are_stored else None,
            "complete": bool(self._watched) and not overdue,
            "overdue": tuple(one for one in overdue if one and len(overdue) < len(self._watched)),
            "sign_ins_ahead": self.sign_ins_ahead,
            "hints": self.hints,
            "now": self.now(),
        }

    def staleness_s(self) -> float:
        monotonic = self._clock.monotonic()
        return max((monotonic - self._polls.get(one, since) for one, since in self._watched.items()), default=0.0)

    def _add(self, call: Call) -> None:
        if call.extension_id != UNASSIGNED:
            self.extensions.setdefault(call.extension_id)
        if call.live and call.sequence:  # a call without an event is not shown
            self.calls[call.call_id] = call
            self.groups[_group(call)] += 1

    def now(self) -> datetime | None:
        """The platform's time, derived from the newest poll: this machine's clock may be wrong."""
        if self._newest_poll is None:
            return None
        taken_at, monotonic = self._newest_poll
        return taken_at + timedelta(seconds=self._clock.monotonic() - monotonic)

    def _is_overdue(self, extension_id: str | None) -> bool:
        since = self._polls.get(extension_id)
        if since is None:
            return True
        if self.waiting is not None:
            since = max(since, self.waiting.get(extension_id, math.inf))
        return since < self._clock.monotonic() - self._overdue_after_s


def _group(call: Call) -> CallGroup:
    return call.extension_id, call.state, call.direction
