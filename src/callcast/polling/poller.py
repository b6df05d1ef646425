"""Sends the polls of one source as its scheduler decides, and passes each successful poll to the recorder.

Several targets may be polled at once, with one request each, so that a slow target delays no other. A slow target skips
polls; these are counted and not made up for.
"""

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from callcast.calls.freshness import WHOLE, Freshness
from callcast.calls.model import Snapshot, SourceEvent, Target
from callcast.calls.tracker import unwatch
from callcast.polling.backfill import Backfill
from callcast.polling.recorder import ChangeRecorder
from callcast.polling.scheduler import Poll, Scheduler
from callcast.ports.clock import Clock
from callcast.ports.hints import Hint, Hints, HintsChange
from callcast.ports.outbox import OutboxUnavailable
from callcast.ports.telemetry import Telemetry
from callcast.ports.upstream import Places, PollFailed, Upstream

CHUNK_S = 1.0  # the longest sleep: freshness is checked at least this often
SLOT_S = 0.02  # polls due within this time start together: waking up for each costs as much as the poll
SENT_AT_ONCE = 32  # polls sent together: with hundreds in flight, each costs half as much again
ANSWER_WAIT_S = (
    0.005  # how long the next batch waits for responses; short, so that a slow platform is not polled less often
)
STORE_RETRY_S = 30.0
# Snapshots compared and recorded at a time. More would starve the deliveries where the core is full: of 1,000 events/s
# at 500 extensions, 158 to 460 were delivered without the limit, 610 to 621 with it (`python -m bench.drain`).
RECORDED_AT_ONCE = 16
REFUSED_EVERY_S = 300.0  # a target that the platform denies access to is polled every 5 min


class Poller:
    """Polls one source.

    interval_s: seconds between two polls of a target; None: as short as the rate limit allows.
    hints: None: every target is polled evenly.
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
        hints: Hints | None = None,
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
        self._hints = hints
        wanted = [None] if extensions is None else extensions
        self._scheduler = self._scheduler_of([Target(source=source, extension_id=one) for one in wanted])
        self._sleep: asyncio.Task[None] | None = None
        self._wakes_at = math.inf
        self._missed: Counter[Target] = Counter()
        self._awaited = 0  # responses outstanding of the last batch
        self._unrecorded: list[SourceEvent] = list(freshness.unrecorded)
        self._source_events_lock = asyncio.Lock()  # only one task at a time records source events

    async def run(self) -> None:
        """Poll until cancelled. Failures of the platform or the disk do not end it."""
        await self._clock.sleep(self._start_after_s)
        try:
            async with asyncio.TaskGroup() as tasks:
                stepping = tasks.create_task(self._step_until_cancelled())
                targets = await self._find_targets()
                stepping.cancel()
                tasks.create_task(self._backfill.run())
                if self._hints is not None:
                    tasks.create_task(self._hints.run(targets, self._report))
                await self._schedule(tasks)
        finally:
            await self._stop()

    @property
    def interval_s(self) -> float:
        """Seconds between two polls of a target, as the rate limit currently allows."""
        return self._scheduler.plan_s(self._upstream.spacing_s())

    def _scheduler_of(self, targets: Sequence[Target]) -> Scheduler:
        return Scheduler(targets, interval_s=self._interval_s, hints=self._hints, telemetry=self._telemetry)

    async def _find_targets(self) -> Sequence[Target]:
        targets = [Target(source=self._source)]
        if self._extensions is not None:
            own = await self._own_extension() if "~" in self._extensions else ""
            wanted = dict.fromkeys(own if e == "~" else e for e in self._extensions)
            targets = [Target(source=self._source, extension_id=e) for e in wanted if self._acquired(e)]
            await self._end_unwatched(frozenset(t.extension_id for t in targets if t.extension_id))
        self._backfill.watch([t.extension_id for t in targets])
        self._upstream.watch(targets)
        polls = {t.extension_id or WHOLE: at for t in targets if (at := self._recorder.index.polls.get(t))}
        start = self._clock.monotonic()
        self._freshness.watch([t.extension_id or WHOLE for t in targets], polls, start)
        self._scheduler = self._scheduler_of(targets)
        watched = [t.extension_id for t in targets if t.extension_id]
        self._telemetry.watching(None if self._extensions is None else watched, self.interval_s)
        self._scheduler.start(start, self._upstream.spacing_s())
        return targets

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
            places = self._places()
            if now >= next_step:
                next_step = now + CHUNK_S
                self._scheduler.review(now, places)
                self._telemetry.paced(self._scheduler.plan_s(places.spacing_s), self._scheduler.promised_s)
                await self._step(self._scheduler.waiting_since(now))
            found = self._scheduler.next(now, places, self._upstream.hold_s())
            if isinstance(found, Poll):
                if self._awaited >= SENT_AT_ONCE:
                    await self._await_answers(now + ANSWER_WAIT_S)
                self._awaited += 1
                tasks.create_task(self._poll_and_reschedule(found))
            elif found <= SLOT_S:
                await self._clock.sleep(SLOT_S)
            else:
                await self._sleep_until(now + min(found, CHUNK_S))

    def _places(self) -> Places:
        """The places of the rate limit. While no hints come, only the spacing counts."""
        if not self._scheduler.up:
            return Places(used=0, limit=1, spacing_s=self._upstream.spacing_s())
        return self._upstream.places()

    def _report(self, reported: Hint | HintsChange) -> None:
        if isinstance(reported, Hint):
            self._scheduler.hint(reported)
        else:
            self._scheduler.change(reported, self._upstream.places())
        self._wake()

    def _wake(self) -> None:
        """Have the schedule examined now."""
        if self._sleep is not None:
            self._sleep.cancel()

    async def _step_until_cancelled(self) -> None:
        """Run `_step` every second while the targets are not known yet."""
        while True:
            await self._step()
            await self._clock.sleep(CHUNK_S)

    async def _step(self, waiting: Mapping[Target, float] | None = None) -> None:
        """The work of every second, also during a penalty. `waiting`: see `Scheduler.waiting_since`."""
        self._telemetry.stepped(waiting)
        if self._missed:
            self._telemetry.polls_missed(self._missed)
            self._missed = Counter()
        await self._check_freshness(waiting)

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

    async def _poll_and_reschedule(self, poll: Poll) -> None:
        """Poll a target once, and schedule its next poll."""
        started = self._clock.monotonic()
        self._telemetry.poll_sent(poll.cause)
        wait_s = 0.0
        try:
            snapshot = await self._poll(poll)
        except PollFailed as error:
            wait_s = await self._failed(poll, error, self._clock.monotonic() - started)
        else:
            now = self._clock.monotonic()
            self._scheduler.succeeded(poll, snapshot, now)
            async with self._recording:  # entered after the response: a slow target does not block others
                await self._succeeded(poll, snapshot, now - started)
        if skipped := self._scheduler.reschedule(poll, self._clock.monotonic(), self._places(), wait_s=wait_s):
            self._missed[poll.target] += skipped
        if self._scheduler.up or self._scheduler.due(poll.target) + SLOT_S < self._wakes_at:
            self._wake()

    async def _poll(self, poll: Poll) -> Snapshot:
        try:
            return await self._upstream.poll(poll.target, paced=poll.paced)
        finally:
            self._awaited = max(0, self._awaited - 1)
            if self._awaited == SENT_AT_ONCE // 2:
                self._wake()

    async def _succeeded(self, poll: Poll, snapshot: Snapshot, took_s: float) -> None:
        target = snapshot.target
        self._backfill.allow(target)
        self._telemetry.poll_succeeded(snapshot, took_s)
        steady_s = self._clock.monotonic()
        self._unrecorded += self._freshness.poll_succeeded(target.extension_id or WHOLE, snapshot.taken_at, steady_s)
        try:
            await self._note_gap(target, snapshot.taken_at)
            await self._recorder.record_poll(snapshot, poll.hint)
            self._backfill.polled(target)
            await self._record_source_events()
        except OutboxUnavailable as error:
            self._telemetry.store_failed(error)

    async def _note_gap(self, target: Target, taken_at: datetime) -> None:
        """Have the call log read if whole calls may have been missed since the last good poll."""
        last = self._recorder.index.last_poll_at(target.extension_id)
        if last is None:
            return
        passed_s, now = (taken_at - last).total_seconds(), self._clock.monotonic()
        if self._scheduler.is_gap(target, passed_s, now, self._upstream.spacing_s()):
            await self._backfill.add_gap(target, last, taken_at)

    async def _failed(self, poll: Poll, error: PollFailed, took_s: float) -> float:
        """Handle a failed poll. Returns the seconds until the target may be polled again; 0: as scheduled."""
        target, refused = poll.target, error.reason == "permission"
        self._scheduler.failed(poll, self._clock.monotonic(), refused=refused)
        self._freshness.poll_failed(target.extension_id or WHOLE, error.reason, refused=refused)
        self._telemetry.poll_failed(target, error, took_s)
        if not refused:
            return error.retry_after_s or 0.0
        try:
            return min(REFUSED_EVERY_S, max(CHUNK_S, await self._backfill.refuse(target)))
        except OutboxUnavailable as fault:
            self._telemetry.store_failed(fault)
            return STORE_RETRY_S

    async def _check_freshness(self, waiting: Mapping[Target, float] | None) -> None:
        if (until := self._upstream.waits_to_sign_in_until()) is not None:
            self._freshness.restart_timers(until)
        missing = None if waiting is None else {t.extension_id or WHOLE: since for t, since in waiting.items()}
        now = self._clock.monotonic()
        self._unrecorded += self._freshness.check(self._upstream.now(), now, self.interval_s, missing)
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
