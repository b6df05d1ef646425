"""Reads the call log for what polls cannot show: how a vanished call ended, and the calls of a gap in polling.

Requests use the part of the rate limit that polling leaves. A failed request is retried.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import datetime, timedelta
from itertools import groupby

import msgspec

from callcast.calls.index import is_open
from callcast.calls.model import Call, CallObservation, Target
from callcast.calls.tracker import correct_missed, due_lookups, fill_gap, give_up, refuse, resolve
from callcast.polling.recorder import ChangeRecorder
from callcast.ports.clock import Clock
from callcast.ports.outbox import OutboxUnavailable
from callcast.ports.telemetry import Telemetry
from callcast.ports.upstream import PollFailed, Upstream

STEP_EVERY_S = 1.0
OBSERVATIONS_AT_ONCE = 100  # more in one transaction would delay polls and deliveries after a long gap
REFUSED_RETRY_S = 3600.0  # retry interval while the platform denies access to the call log: it may be granted later
BACKOFF_S = (30, 60, 120, 300)  # between lookups of the same call; the last one repeats
# The call log is searched by start time, and a queued call may begin long before it reaches an extension.
LONGEST_WAIT = timedelta(hours=1)
# The list may lag by 3-10 s (documented), so a call that ended this long before the last poll may not have been seen.
LATENESS = timedelta(seconds=15)


class Gap(msgspec.Struct, frozen=True):
    """A target was not polled since `after`; its call log is read at `due`, and again after a failure."""

    extension_id: str | None
    after: datetime
    due: datetime
    failures: int = 0


class Refusal(msgspec.Struct, frozen=True):
    """The platform denies access to a target, since `since`."""

    extension_id: str | None
    since: datetime


class Backfill:
    """Resolves what polling left open, for one source. Gaps survive a restart."""

    def __init__(
        self,
        recorder: ChangeRecorder,
        upstream: Upstream,
        clock: Clock,
        telemetry: Telemetry,
        *,
        gaps: bytes | None = None,
        refused: bytes | None = None,
    ) -> None:
        self._recorder = recorder
        self._upstream = upstream
        self._rules = recorder.rules
        self._clock = clock
        self._telemetry = telemetry
        # At most two per target: one whose due time is fixed, and a later one that is extended by every further gap.
        self._gaps: list[Gap] = msgspec.json.decode(gaps, type=list[Gap]) if gaps else []
        stored = msgspec.json.decode(refused, type=list[Refusal]) if refused else []
        self._refused = {one.extension_id: one for one in stored}
        self._stored_refusals = tuple(stored)
        self._polled: set[str | None] = set()  # targets with a successful poll stored in this run
        self._lookups: dict[str, tuple[int, float]] = {}  # call id -> lookups so far, monotonic time of the next

    async def run(self) -> None:
        """Run all steps concurrently, so that a request that waits for the rate limit delays only its own step."""
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
        """Set the watched targets; None is the account. Gaps of other targets are dropped."""
        self._gaps = [gap for gap in self._gaps if gap.extension_id in extension_ids]
        self._refused = {one: refusal for one, refusal in self._refused.items() if one in extension_ids}

    async def refuse(self, target: Target) -> float:
        """Note that the platform has just denied access to a target; its calls end if that has lasted long enough.

        Calls end only on such a response, because an earlier denial may no longer hold. Returns the seconds after
        which to poll again so that the calls end in time; infinity if none is open. Raises OutboxUnavailable.
        """
        index, now = self._recorder.index, self._upstream.now()
        refusal = self._refused.setdefault(target.extension_id, Refusal(target.extension_id, now))
        if not any(is_open(call) for call in index.of(target)):
            return math.inf
        left_s = self._rules.vanished_give_up_s - (now - refusal.since).total_seconds()
        if left_s > 0:
            return left_s
        await self._recorder.record_change(refuse, target, refusal.since, now)
        return math.inf

    def allow(self, target: Target) -> None:
        """Note that the platform grants access to a target again."""
        self._refused.pop(target.extension_id, None)

    def polled(self, target: Target) -> None:
        """Note that a successful poll of a target is stored, so that its vanished calls are known to be gone."""
        self._polled.add(target.extension_id)

    async def _repeat(self, step: Callable[[], Awaitable[None]]) -> None:
        failed = False
        while True:
            try:
                await step()
                if failed:
                    self._telemetry.store_recovered()
                failed = False
            except OutboxUnavailable as error:
                self._telemetry.store_failed(error)
                failed = True
            await self._clock.sleep(STEP_EVERY_S)

    async def give_up_expired(self) -> None:
        """End calls that vanished long ago, with or without a record in the call log.

        A successful poll in this run must have shown that the call is gone: an earlier run proves nothing about now.
        """
        for call in self._pending():
            is_polled = not self._polled.isdisjoint((call.extension_id, None))
            expired = self._upstream.now() - timedelta(seconds=self._rules.vanished_give_up_s)
            if is_polled and call.vanished_at is not None and call.vanished_at <= expired:
                await self._recorder.record_change(give_up, call.call_id, self._upstream.now())

    async def store_refusals(self) -> None:
        """Store since when the platform denies access, so that a restart does not extend the wait."""
        if (refused := tuple(self._refused.values())) != self._stored_refusals:
            await self._recorder.note("refused", msgspec.json.encode(refused) if refused else None)
            self._stored_refusals = refused

    async def correct_missed(self) -> None:
        """Correct missed calls that an extension of another source answered."""
        index = self._recorder.index
        for session_id in index.answers.due(index.source):
            index.answers.corrected(index.source, session_id)  # removed first: it may become due again meanwhile
            try:
                await self._recorder.record_change(
                    correct_missed, session_id, self._upstream.now(), sessions=(session_id,)
                )
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
        """Note that a target was not polled between these times. Call before the poll is recorded, so that a crash
        in between does not lose the gap.
        """
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
        is_own = self._recorder.is_own
        missed = [s for s in found if is_own(s) and (s.ended_at is None or s.ended_at >= gap.after - LATENESS)]
        try:
            for part in whole_sessions(missed):
                now = self._upstream.now()
                await self._recorder.record_change(
                    fill_gap, target, part, now, self._rules, gap.after, observations=part
                )
        except OutboxUnavailable:
            self._postpone(gap)
            raise
        self._gaps = [one for one in self._gaps if one is not gap]
        await self._store_gaps()
        self._telemetry.gap_filled(target, gap.after, len(missed))

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
        # Records of the call's own extension count even if another source owns it by now.
        found = [s for s in found if s.extension_id == call.extension_id or self._recorder.is_own(s)]
        now = self._upstream.now()
        await self._recorder.record_change(resolve, call.call_id, found, now, self._rules, observations=found)


def whole_sessions(observations: Sequence[CallObservation]) -> Iterator[Sequence[CallObservation]]:
    """Split observations into parts of whole sessions, so that no comparison blocks the event loop for long."""
    by_session = sorted(observations, key=lambda s: s.session_id)
    part: list[CallObservation] = []
    for _, session in groupby(by_session, key=lambda s: s.session_id):
        part += session
        if len(part) >= OBSERVATIONS_AT_ONCE:
            yield part
            part = []
    if part:
        yield part
