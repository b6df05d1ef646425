"""Asks the call log what looks cannot tell: what became of a call that vanished, and what was missed while blind.

One question at a time, within the share of the rate limit that polling leaves; an unanswered one is asked again.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import datetime, timedelta
from functools import partial
from itertools import groupby
from typing import Protocol

import msgspec

from callcast.calls.index import is_open
from callcast.calls.model import Call, CallObservation, ChangeSet, Target
from callcast.calls.tracker import Rules, correct_missed, due_lookups, fill_gap, give_up, refuse, resolve
from callcast.polling.recorder import ChangeRecorder
from callcast.ports.clock import Clock
from callcast.ports.outbox import OutboxUnavailable
from callcast.ports.upstream import PollFailed, Upstream

STEP_EVERY_S = 1.0
OBSERVATIONS_AT_ONCE = 100
REFUSED_RETRY_S = 3600.0  # the platform does not let us read the log: ask seldom, somebody may grant it
BACKOFF_S = (30, 60, 120, 300)  # between questions about the same call, the last one repeated
# A call in a queue can begin long before it reaches anybody, and the call log is searched by a call's start.
LONGEST_WAIT = timedelta(hours=1)
# An ended call can be late in the list (3-10 s documented): so long before the last good poll it may be unseen.
LATENESS = timedelta(seconds=15)


class BackfillTelemetry(Protocol):
    def lookup_failed(self, error: PollFailed, /) -> None: ...
    def store_failed(self, error: OutboxUnavailable, /) -> None: ...
    def gap_filled(self, target: Target, after: datetime, calls: int, /) -> None: ...


class Gap(msgspec.Struct, frozen=True):
    """A target was not seen since `after`; the call log is asked about it from `due` on, once more after a failure."""

    extension_id: str | None
    after: datetime
    due: datetime
    failures: int = 0


class Refusal(msgspec.Struct, frozen=True):
    """The platform does not show a target: since when."""

    extension_id: str | None
    since: datetime


class Backfill:
    """Closes what polling left open, for one source. Its gaps survive a restart."""

    def __init__(
        self,
        recorder: ChangeRecorder,
        upstream: Upstream,
        rules: Rules,
        clock: Clock,
        telemetry: BackfillTelemetry,
        *,
        gaps: bytes | None = None,
        refused: bytes | None = None,
    ) -> None:
        self._recorder = recorder
        self._upstream = upstream
        self._rules = rules
        self._clock = clock
        self._telemetry = telemetry
        # Two of a target at most: one whose time is fixed, and a later one that grows with every further blind time.
        self._gaps: list[Gap] = msgspec.json.decode(gaps, type=list[Gap]) if gaps else []
        stored = msgspec.json.decode(refused, type=list[Refusal]) if refused else []
        self._refused = {one.extension_id: one for one in stored}
        self._stored_refusals = tuple(stored)
        self._polled: set[str | None] = set()  # targets of which this run has stored a good poll
        self._lookups: dict[str, tuple[int, float]] = {}  # call id -> questions so far, monotonic time of the next

    async def run(self) -> None:
        """Rounds beside one another: a question that waits for its turn holds up neither of the others."""
        async with asyncio.TaskGroup() as tasks:
            for step in (
                self.give_up_expired,
                self.store_refusals,
                self.correct_missed,
                self.fill_gaps,
                self.resolve_pending,
            ):
                tasks.create_task(self._repeat(step))

    def watch(self, extension_ids: Sequence[str | None]) -> None:
        """Ask about these targets and no others from now on; None is the account."""
        self._gaps = [gap for gap in self._gaps if gap.extension_id in extension_ids]
        self._refused = {one: refusal for one, refusal in self._refused.items() if one in extension_ids}

    async def refuse(self, target: Target) -> float:
        """The platform has just refused to show it: its calls cannot be followed, and end if that has lasted.

        Only such an answer ends them: what an earlier run or an earlier answer said may be over. Returns the seconds
        after which to ask again, so that they end in time; infinity where none is open.
        """
        index, now = self._recorder.index, self._upstream.now()
        refusal = self._refused.setdefault(target.extension_id, Refusal(target.extension_id, now))
        if not any(is_open(call) for call in index.of(target)):
            return math.inf
        left_s = self._rules.vanished_give_up_s - (now - refusal.since).total_seconds()
        if left_s > 0:
            return left_s

        def end() -> ChangeSet:
            still = self._refused.get(target.extension_id) is refusal
            return refuse(index, target, refusal.since, now) if still else ChangeSet()

        await self._recorder.record_change((), end)
        return math.inf

    def allow(self, target: Target) -> None:
        self._refused.pop(target.extension_id, None)

    def polled(self, target: Target) -> None:
        """A good poll of it is stored: its calls are known to be in the list, or gone from it."""
        self._polled.add(target.extension_id)

    async def _repeat(self, step: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await step()
            except OutboxUnavailable as error:
                self._telemetry.store_failed(error)
            await self._clock.sleep(STEP_EVERY_S)

    async def give_up_expired(self) -> None:
        """Close what vanished long ago, whatever the call log says; not before a good poll has shown that it is gone.

        Whether it was gone at the end of an earlier run says nothing of now.
        """
        index = self._recorder.index
        for call in self._pending():
            polled = not self._polled.isdisjoint((call.extension_id, None))
            if polled and call.vanished_at is not None and self._seconds_until_given_up(call) <= 0:
                await self._recorder.record_change((), lambda: give_up(index, call.call_id, self._upstream.now()))  # noqa: B023

    async def store_refusals(self) -> None:
        """Since when the platform refuses what: a restart does not begin to wait anew."""
        if (refused := tuple(self._refused.values())) != self._stored_refusals:
            await self._recorder.note("refused", msgspec.json.encode(refused) if refused else None)
            self._stored_refusals = refused

    async def correct_missed(self) -> None:
        """What an extension of another source is known to have answered by now."""
        index = self._recorder.index
        for session_id in index.answers.due(index.source):
            index.answers.corrected(index.source, session_id)  # before: it may be due again meanwhile
            try:
                change = partial(correct_missed, index, session_id, self._upstream.now())
                await self._recorder.record_change((), change, sessions=(session_id,))
            except BaseException:
                index.answers.make_due(index.source, session_id)
                raise

    async def fill_gaps(self) -> None:
        now = self._upstream.now()
        for gap in [gap for gap in self._gaps if gap.due <= now]:
            await self._try_fill(gap)

    async def resolve_pending(self) -> None:
        pending = self._pending()
        self._lookups = {call.call_id: self._lookups[call.call_id] for call in pending if call.call_id in self._lookups}
        for call in pending:
            await self._try_resolve(call)

    def _pending(self) -> Sequence[Call]:
        return due_lookups(self._recorder.index, self._upstream.now(), self._rules)

    async def add_gap(self, target: Target, after: datetime, until: datetime) -> None:
        """A target was not seen between these polls. Kept before the poll is: a crash in between must not hide it."""
        mine = [gap for gap in self._gaps if gap.extension_id == target.extension_id]
        for growing in mine[1:]:
            self._gaps.remove(growing)
            after = min(after, growing.after)
        earliest = max([until, *(gap.due for gap in mine[:1])])
        due = earliest + timedelta(seconds=self._rules.call_log_after_s)
        self._gaps.append(Gap(target.extension_id, after, due))
        await self._store_gaps()

    async def _try_fill(self, gap: Gap) -> None:
        target = Target(source=self._recorder.index.source, extension_id=gap.extension_id)
        try:
            found = await self._upstream.ended_since(target, after=gap.after - LONGEST_WAIT)
        except PollFailed as error:
            self._telemetry.lookup_failed(error)
            self._postpone(gap, at_least_s=REFUSED_RETRY_S if error.reason == "permission" else 0.0)
            return
        missed = [s for s in found if s.ended_at is None or s.ended_at >= gap.after - LATENESS]
        try:
            for part in whole_sessions(missed):
                await self._recorder.record_change(part, lambda: self._fill(target, gap, part))  # noqa: B023 (awaited)
        except OutboxUnavailable:
            self._postpone(gap)
            raise
        self._gaps = [one for one in self._gaps if one is not gap]
        await self._store_gaps()
        self._telemetry.gap_filled(target, gap.after, len(missed))

    def _fill(self, target: Target, gap: Gap, part: Sequence[CallObservation]) -> ChangeSet:
        index = self._recorder.index
        return fill_gap(index, target, part, self._upstream.now(), self._rules, after=gap.after)

    def _postpone(self, gap: Gap, *, at_least_s: float = 0.0) -> None:
        pause_s = max(BACKOFF_S[min(gap.failures, len(BACKOFF_S) - 1)], at_least_s)
        due = self._upstream.now() + timedelta(seconds=pause_s)
        later = msgspec.structs.replace(gap, due=due, failures=gap.failures + 1)
        self._gaps = [later if one is gap else one for one in self._gaps]

    async def _store_gaps(self) -> None:
        await self._recorder.note("gaps", msgspec.json.encode(self._gaps) if self._gaps else None)

    async def _try_resolve(self, call: Call) -> None:
        questions, next_at = self._lookups.get(call.call_id, (0, 0.0))
        if self._clock.monotonic() < next_at:
            return
        pause_s = BACKOFF_S[min(questions, len(BACKOFF_S) - 1)]
        self._lookups[call.call_id] = (questions + 1, self._clock.monotonic() + pause_s)
        try:
            found = await self._upstream.find(call)
        except PollFailed as error:
            self._telemetry.lookup_failed(error)
            return
        await self._recorder.record_change(found, lambda: self._resolved(call, found))

    def _resolved(self, call: Call, found: Sequence[CallObservation]) -> ChangeSet:
        return resolve(self._recorder.index, call.call_id, found, self._upstream.now(), self._rules)

    def _seconds_until_given_up(self, call: Call) -> float:
        """Seconds until a vanished call is given up."""
        since = call.vanished_at or self._upstream.now()
        return self._rules.vanished_give_up_s - (self._upstream.now() - since).total_seconds()


def whole_sessions(observations: Sequence[CallObservation]) -> Iterator[Sequence[CallObservation]]:
    """Whole sessions, some hundred observations at a time: one comparison must not hold the loop for long."""
    by_session = sorted(observations, key=lambda s: s.session_id)
    part: list[CallObservation] = []
    for _, session in groupby(by_session, key=lambda s: s.session_id):
        part += session
        if len(part) >= OBSERVATIONS_AT_ONCE:
            yield part
            part = []
    if part:
        yield part
