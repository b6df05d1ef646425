"""Schedules the polls of one source, and passes each successful poll to the recorder.

The polls of all targets are spread evenly over the interval. Several targets may be polled at once, with one request
each, so that a slow target delays no other. A slow target skips polls; these are counted and not made up for.
"""

import asyncio
import heapq
import math
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime

from callcast.calls.freshness import WHOLE, Freshness
from callcast.calls.model import Snapshot, SourceEvent, Target
from callcast.calls.tracker import unwatch
from callcast.polling.backfill import Backfill
from callcast.polling.recorder import ChangeRecorder
from callcast.ports.clock import Clock
from callcast.ports.outbox import OutboxUnavailable
from callcast.ports.telemetry import Telemetry
from callcast.ports.upstream import PollFailed, Upstream

CHUNK_S = 1.0  # the longest sleep: freshness is checked at least this often
SLOT_S = 0.02  # polls due within this time start together: waking up for each costs as much as the poll
SENT_AT_ONCE = 32  # polls sent together: with hundreds in flight, each costs half as much again
ANSWER_WAIT_S = (
    0.005  # how long the next batch waits for responses; short, so that a slow platform is not polled less often
)
STORE_RETRY_S = 30.0
GAP_S = 5.0  # after an interval plus this long without a successful poll, whole calls may have been missed
RECORDED_AT_ONCE = 16  # snapshots compared and recorded at a time; more would starve the deliveries on the loop
REFUSED_EVERY_S = 300.0  # a target that the platform denies access to is polled every 5 min


class Poller:
    """Polls one source.

    interval_s: seconds between two polls of a target; None: as short as the rate limit allows.
    acquire: called once per extension id; returns false when another source owns the extension.
    start_after_s: delay before the first poll, in seconds.
    """

    def __init__(
        self,
        source: str,
        extensions: Sequence[str] | None,
        *,
        interval_s: float | None,
        upstream: Upstream,
        recorder: ChangeRecorder,
        backfill: Backfill,
        freshness: Freshness,
        clock: Clock,
        telemetry: Telemetry,
        acquire: Callable[[str], bool],
        start_after_s: float = 0.0,
    ) -> None:
        self._source = source
        self._extensions = extensions
        self._interval_s = interval_s
        self._upstream = upstream
        self._recorder = recorder
        self._backfill = backfill
        self._freshness = freshness
        self._clock = clock
        self._telemetry = telemetry
        self._acquire = acquire
        self._recording = asyncio.Semaphore(RECORDED_AT_ONCE)
        self._start_after_s = start_after_s
        self._due: list[tuple[float, int, Target]] = []  # a heap: monotonic time, tie-break, target
        wanted = [None] if extensions is None else extensions
        self._targets = [Target(source=source, extension_id=one) for one in wanted]
        self._refused: set[Target] = set()  # the platform denies access to them
        self._planned_s: dict[Target, float] = {}  # the interval at the time when the target's next poll was scheduled
        self._sleep: asyncio.Task[None] | None = None
        self._wakes_at = math.inf
        self._missed: Counter[Target] = Counter()
        self._awaited = 0  # responses outstanding of the last batch
        self._unrecorded: list[SourceEvent] = list(freshness.unrecorded)
        self._source_events_lock = asyncio.Lock()  # only one task at a time records source events
        self._sequence = 0

    async def run(self) -> None:
        """Poll until cancelled. Failures of the platform or the disk do not end it."""
        await self._clock.sleep(self._start_after_s)
        try:
            async with asyncio.TaskGroup() as tasks:
                stepping = tasks.create_task(self._step_until_cancelled())
                await self._find_targets()
                stepping.cancel()
                tasks.create_task(self._backfill.run())
                await self._schedule(tasks)
        finally:
            await self._stop()

    @property
    def interval_s(self) -> float:
        """Seconds between two polls of a target, as the rate limit currently allows."""
        shown = len(self._targets) - len(self._refused)
        return max(self._interval_s or 0.0, self._upstream.spacing_s() * max(1, shown))

    async def _find_targets(self) -> None:
        if self._extensions is not None:
            own = await self._own_extension() if "~" in self._extensions else ""
            wanted = dict.fromkeys(own if e == "~" else e for e in self._extensions)
            self._targets = [Target(source=self._source, extension_id=e) for e in wanted if self._acquired(e)]
            await self._end_unwatched(frozenset(t.extension_id for t in self._targets if t.extension_id))
        self._backfill.watch([t.extension_id for t in self._targets])
        self._upstream.watch(self._targets)
        polls = {t.extension_id or WHOLE: at for t in self._targets if (at := self._recorder.index.polls.get(t))}
        start = self._clock.monotonic()
        self._freshness.watch([t.extension_id or WHOLE for t in self._targets], polls, start)
        watched = [t.extension_id for t in self._targets if t.extension_id]
        self._telemetry.watching(None if self._extensions is None else watched, self.interval_s)
        gap_s = self.interval_s / max(1, len(self._targets))
        self._due = [(start + i * gap_s, i, target) for i, target in enumerate(self._targets)]
        self._sequence = len(self._due)  # a tie-break for polls that are due at the same time

    def _acquired(self, extension_id: str) -> bool:
        acquired = self._acquire(extension_id)
        if not acquired:
            self._telemetry.watched_twice(extension_id)
        return acquired

    async def _own_extension(self) -> str:
        """Resolve `~` to an extension id; retries until it succeeds. Meanwhile the whole source may be degraded."""
        target = Target(source=self._source, extension_id="~")
        self._freshness.watch_whole(self._recorder.index.last_poll_at(None), self._clock.monotonic())
        while True:
            started = self._clock.monotonic()
            try:
                return (await self._upstream.identify()).extension_id
            except PollFailed as error:
                self._freshness.poll_failed(WHOLE, error.reason)
                self._telemetry.poll_failed(target, error, self._clock.monotonic() - started)
                await self._clock.sleep(max(self.interval_s, error.retry_after_s or 0.0, CHUNK_S))

    async def _end_unwatched(self, watched: frozenset[str]) -> None:
        index = self._recorder.index
        while gone := {call.extension_id for call in index.live_calls()} - watched:
            try:
                await self._recorder.record_change(unwatch, gone, self._upstream.now())
            except OutboxUnavailable as error:
                self._telemetry.store_failed(error)
                await self._clock.sleep(STORE_RETRY_S)

    async def _schedule(self, tasks: asyncio.TaskGroup) -> None:
        next_step = self._clock.monotonic()
        while True:
            now = self._clock.monotonic()
            if now >= next_step:
                next_step = now + CHUNK_S
                self._telemetry.paced(self.interval_s)
                await self._step()
            wait_s = max(self._due[0][0] - now, self._upstream.hold_s()) if self._due else CHUNK_S
            if wait_s <= 0 and self._awaited >= SENT_AT_ONCE:
                await self._await_answers(now + ANSWER_WAIT_S)
            elif wait_s <= 0:
                self._awaited += 1
                due, _, target = heapq.heappop(self._due)
                tasks.create_task(self._poll_and_reschedule(target, due))
            elif wait_s <= SLOT_S:
                await self._clock.sleep(SLOT_S)
            else:
                await self._sleep_until(now + min(wait_s, CHUNK_S))

    async def _step_until_cancelled(self) -> None:
        """Run `_step` every second while the targets are not known yet."""
        while True:
            await self._step()
            await self._clock.sleep(CHUNK_S)

    async def _step(self) -> None:
        """The work of every second, also during a penalty."""
        self._telemetry.stepped()
        if self._missed:
            self._telemetry.polls_missed(self._missed)
            self._missed = Counter()
        await self._check_freshness()

    async def _sleep_until(self, at: float) -> bool:
        """Sleep until `at`. Returns false if woken early, for example by a poll that is due sooner."""
        self._wakes_at = at
        self._sleep = asyncio.ensure_future(self._clock.sleep(at - self._clock.monotonic()))
        try:
            await asyncio.wait((self._sleep,))
        finally:
            self._sleep.cancel()
            self._wakes_at = -math.inf
        return not self._sleep.cancelled()

    async def _await_answers(self, until: float) -> None:
        """Wait until half of the last batch has responded, or until the time is up."""
        if await self._sleep_until(until):
            self._awaited = 0

    async def _poll_and_reschedule(self, target: Target, due: float) -> None:
        """Poll a target once, and schedule its next poll."""
        started = self._clock.monotonic()
        wait_s = 0.0
        try:
            snapshot = await self._poll(target)
        except PollFailed as error:
            wait_s = await self._failed(target, error, self._clock.monotonic() - started)
        else:
            took_s = self._clock.monotonic() - started
            async with self._recording:  # entered after the response: a slow target does not block others
                await self._succeeded(snapshot, took_s)
        self._reschedule(target, due, wait_s)

    async def _poll(self, target: Target) -> Snapshot:
        try:
            return await self._upstream.poll(target)
        finally:
            self._awaited = max(0, self._awaited - 1)
            if self._awaited == SENT_AT_ONCE // 2 and self._sleep is not None:
                self._sleep.cancel()

    async def _succeeded(self, snapshot: Snapshot, took_s: float) -> None:
        target = snapshot.target
        self._refused.discard(target)
        self._backfill.allow(target)
        self._telemetry.poll_succeeded(snapshot, took_s)
        steady_s = self._clock.monotonic()
        self._unrecorded += self._freshness.poll_succeeded(target.extension_id or WHOLE, snapshot.taken_at, steady_s)
        try:
            await self._note_gap(target, snapshot.taken_at)
            await self._recorder.record_poll(snapshot)
            self._backfill.polled(target)
            await self._record_source_events()
        except OutboxUnavailable as error:
            self._telemetry.store_failed(error)

    async def _note_gap(self, target: Target, taken_at: datetime) -> None:
        """Have the call log read if the target was not polled for longer than planned."""
        last = self._recorder.index.last_poll_at(target.extension_id)
        planned_s = max(self.interval_s, self._planned_s.get(target, 0.0))
        if last is not None and (taken_at - last).total_seconds() > planned_s + GAP_S:
            await self._backfill.add_gap(target, last, taken_at)

    async def _failed(self, target: Target, error: PollFailed, took_s: float) -> float:
        """Handle a failed poll. Returns the seconds until the target may be polled again; 0: as scheduled."""
        refused = error.reason == "permission"
        if refused:
            self._refused.add(target)
        else:
            self._refused.discard(target)
        self._freshness.poll_failed(target.extension_id or WHOLE, error.reason, refused=refused)
        self._telemetry.poll_failed(target, error, took_s)
        if not refused:
            return error.retry_after_s or 0.0
        try:
            return min(REFUSED_EVERY_S, max(CHUNK_S, await self._backfill.refuse(target)))
        except OutboxUnavailable as fault:
            self._telemetry.store_failed(fault)
            return STORE_RETRY_S

    def _reschedule(self, target: Target, due: float, wait_s: float) -> None:
        """Schedule the target's next poll, at the same offset in the interval."""
        now = self._clock.monotonic()
        interval_s = self.interval_s
        missed = int(max(0.0, now + wait_s - due) // interval_s)
        next_due = now + wait_s if target in self._refused else due + (missed + 1) * interval_s
        if missed and not wait_s:
            self._missed[target] += missed
        self._planned_s[target] = interval_s
        self._sequence += 1
        heapq.heappush(self._due, (next_due, self._sequence, target))
        if self._sleep is not None and next_due + SLOT_S < self._wakes_at:
            self._sleep.cancel()

    async def _check_freshness(self) -> None:
        if (until := self._upstream.waits_to_sign_in_until()) is not None:
            self._freshness.restart_timers(until)
        self._unrecorded += self._freshness.check(self._upstream.now(), self._clock.monotonic(), self.interval_s)
        try:
            await self._record_source_events()
        except OutboxUnavailable as error:
            self._telemetry.store_failed(error)

    async def _record_source_events(self) -> None:
        """Record pending source events. The state with these events is stored first, so that a crash in between
        records the same events again at the next start.
        """
        if not self._unrecorded:
            return
        async with self._source_events_lock:
            if events := tuple(self._unrecorded):
                await self._recorder.note("freshness", self._freshness.dump(events))
                await self._recorder.record_source_events(events)
                self._unrecorded = [event for event in self._unrecorded if event not in events]
                await self._recorder.note("freshness", self._freshness.dump(self._unrecorded))

    async def _stop(self) -> None:
        try:
            await self._recorder.store_polls()
        except OutboxUnavailable as error:
            self._telemetry.store_failed(error)
