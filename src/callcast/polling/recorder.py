"""Records the changes of one source: recall stored calls, compare, commit to the outbox, then update the index.

The rule: memory changes only after the commit. Changes of one session are made one at a time, because each compares
with the result of the last; those of different sessions may share a commit. A large change (the first poll of an
account may find a thousand calls) is compared in a thread and published in parts, so that it does not block the event
loop.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from typing import Any, TypeVarTuple

from msgspec.structs import replace

from callcast.calls.index import CallIndex
from callcast.calls.model import (
    CallEvent,
    CallObservation,
    ChangeSet,
    PollHint,
    PollRecord,
    Snapshot,
    SourceEvent,
    Target,
)
from callcast.calls.tracker import Rules, compare
from callcast.ports.outbox import Outbox, OutboxUnavailable
from callcast.ports.telemetry import Telemetry

# Calls; more are compared in a thread. On the loop, a poll of an account with 1,000 calls would block it for 47 ms
# instead of 10 ms (`python -m bench.held`).
COMPARED_ON_LOOP_MAX = 200
# Calls, and events. Publishing 1,000 at once would block the loop for 45 ms instead of 10 ms (`python -m bench.held`).
PUBLISHED_AT_ONCE = 100
POLL_STORED_EVERY = timedelta(seconds=20)  # how often a poll without changes is stored; `as_of` is the last stored poll

Facts = TypeVarTuple("Facts")


class ChangeRecorder:
    """Keeps the index of one source in step with the outbox.

    committed: called after each commit; must not block.
    is_own: false for an observation that another source records; it is left out of polls.
    """

    def __init__(
        self,
        index: CallIndex,
        outbox: Outbox,
        rules: Rules,
        telemetry: Telemetry,
        committed: Callable[[], None] = lambda: None,
    ) -> None:
        self.index = index
        self.rules = rules
        self.is_own: Callable[[CallObservation], bool] = lambda _: True
        self._outbox = outbox
        self._telemetry = telemetry
        self._committed = committed
        self._locks = _SessionLocks()
        self._stored_polls: dict[Target, datetime] = dict(index.polls)

    async def record_poll(self, snapshot: Snapshot, hint: PollHint | None = None) -> None:
        """Compare a snapshot with the index, and record the poll and the change. `hint`: what caused the poll.

        Raises OutboxUnavailable; then nothing has changed.
        """
        own = tuple(filter(self.is_own, snapshot.observations))
        if len(own) < len(snapshot.observations):
            snapshot = replace(snapshot, observations=own)
        if self._is_idle(snapshot):
            self.index.apply(PollRecord(target=snapshot.target, taken_at=snapshot.taken_at), ChangeSet())
            return
        recorded = False
        while not recorded:  # the calls of the target may have changed while waiting for the lock
            touched = self._touched(snapshot)
            async with self._locks.of(touched) as waited:
                if recorded := not waited or touched == self._touched(snapshot):
                    await self._record_poll(snapshot, hint)

    async def record_change(
        self,
        find: Callable[[CallIndex, *Facts], ChangeSet],
        *facts: *Facts,
        observations: Sequence[CallObservation] = (),
        sessions: Collection[str] = (),
    ) -> None:
        """Record the change that `find`, a function of `calls.tracker`, finds with these facts.

        observations, sessions: what the change is about; their stored calls are loaded first. Empty if it is only
        about calls in the index. Raises OutboxUnavailable; then nothing has changed.
        """
        async with self._locks.of(None):
            await self._recall(self.index.sessions_to_recall(observations, sessions))
            size = len(observations) or len(self.index)
            change = await _compared(lambda: find(self.index, *facts), size)
            if change:
                await _uninterrupted(self._record(None, change))

    async def record_source_events(self, events: Collection[SourceEvent]) -> None:
        """Raises OutboxUnavailable; then nothing is recorded."""
        await _uninterrupted(self._record(None, ChangeSet(events=tuple(events))))

    async def note(self, name: str, value: bytes | None) -> None:
        """Store a small fact of the source (None deletes it). Raises OutboxUnavailable."""
        await self._outbox.note(self.index.source, name, value)

    async def store_polls(self) -> None:
        """Store the last successful poll of each target, so that a clean stop leaves no gap to backfill."""
        async with self._locks.of(None):
            for target, taken_at in list(self.index.polls.items()):
                if self._stored_polls.get(target) != taken_at:
                    await _uninterrupted(self._record(PollRecord(target=target, taken_at=taken_at), ChangeSet()))

    def _is_idle(self, snapshot: Snapshot) -> bool:
        """True when there are no calls before and after, and nothing to store: the case of most polls."""
        index = self.index
        if snapshot.observations or self._locks.all_are_locked or index.is_partly_loaded or index.of(snapshot.target):
            return False
        return not self._must_be_stored(
            PollRecord(target=snapshot.target, taken_at=index.clamped(snapshot.target, snapshot.taken_at))
        )

    def _touched(self, snapshot: Snapshot) -> frozenset[str] | None:
        """The sessions that a poll may change. None: any, as for a poll of the account."""
        if snapshot.target.extension_id is None or self.index.is_partly_loaded:
            return None
        known = self.index.of(snapshot.target)
        if max(len(known), len(snapshot.observations)) > COMPARED_ON_LOOP_MAX:
            return None
        return frozenset({call.session_id for call in known} | {seen.session_id for seen in snapshot.observations})

    async def _record_poll(self, snapshot: Snapshot, hint: PollHint | None) -> None:
        await self._recall(self.index.sessions_to_recall(snapshot.observations))
        taken_at = self.index.clamped(snapshot.target, snapshot.taken_at)
        poll = PollRecord(target=snapshot.target, taken_at=taken_at)
        size = max(len(snapshot.observations), len(self.index.of(snapshot.target)))
        change = await _compared(lambda: compare(self.index, snapshot, self.rules), size)
        if hint is not None:
            change = _caused_by(hint, change)
        if change or self._must_be_stored(poll):
            await _uninterrupted(self._record(poll, change))
        else:
            self.index.apply(poll, change)

    async def _recall(self, sessions: Collection[str]) -> None:
        if sessions:
            self.index.learn(await self._outbox.recall(self.index.source, sessions))

    async def _record(self, poll: PollRecord | None, change: ChangeSet) -> None:
        await self._outbox.record(self.index.source, poll, change)
        if poll is not None:
            self._stored_polls[poll.target] = poll.taken_at
            self._telemetry.poll_stored(poll)
        self.index.apply(poll, change)
        self.index.answers.learn(change.calls)
        self._committed()
        for n, part in enumerate(_parts(change)):
            if n:
                await asyncio.sleep(0)
            self._telemetry.change_recorded(part)

    def _must_be_stored(self, poll: PollRecord) -> bool:
        stored_at = self._stored_polls.get(poll.target)
        return stored_at is None or poll.taken_at - stored_at >= POLL_STORED_EVERY


class _SessionLocks:
    """Locks on sessions, granted in the order of requests."""

    def __init__(self) -> None:
        self._holders: dict[asyncio.Future[None], frozenset[str] | None] = {}

    @property
    def all_are_locked(self) -> bool:
        return None in self._holders.values()

    @asynccontextmanager
    async def of(self, sessions: frozenset[str] | None) -> AsyncIterator[bool]:
        """Lock these sessions; None locks all. Yields whether it had to wait."""
        before = [holder for holder, theirs in self._holders.items() if _overlap(sessions, theirs)]
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._holders[mine] = sessions
        try:
            if before:
                await asyncio.wait(before)
            yield bool(before)
        finally:
            del self._holders[mine]
            mine.set_result(None)


def _overlap(ours: frozenset[str] | None, theirs: frozenset[str] | None) -> bool:
    return ours is None or theirs is None or not ours.isdisjoint(theirs)


async def _compared(compare: Callable[[], ChangeSet], size: int) -> ChangeSet:
    """Compare, in a thread if it would take long.

    The thread reads the index, so a caller that is cancelled holds its lock until the thread has ended.
    """
    if size <= COMPARED_ON_LOOP_MAX:
        return compare()
    job = asyncio.ensure_future(asyncio.to_thread(compare))
    try:
        return await asyncio.shield(job)
    except asyncio.CancelledError:
        await asyncio.wait([job])
        job.result()  # raises only on a bug
        raise


def _caused_by(hint: PollHint, change: ChangeSet) -> ChangeSet:
    events = (replace(event, hint=hint) if isinstance(event, CallEvent) else event for event in change.events)
    return replace(change, events=tuple(events))


def _parts(change: ChangeSet) -> Iterator[ChangeSet]:
    """Split a change into parts of at most `PUBLISHED_AT_ONCE` calls and events."""
    for first in range(0, max(len(change.calls), len(change.events)), PUBLISHED_AT_ONCE):
        some = slice(first, first + PUBLISHED_AT_ONCE)
        yield ChangeSet(calls=change.calls[some], events=change.events[some])


async def _uninterrupted(recording: Coroutine[Any, Any, None]) -> None:
    """Finish recording even if the caller is cancelled: what is on disk must also be published and in the index."""
    job = asyncio.ensure_future(recording)
    try:
        await asyncio.shield(job)
    except asyncio.CancelledError:
        await asyncio.wait([job])
        with suppress(OutboxUnavailable):  # the next poll finds the change again
            job.result()
        raise
