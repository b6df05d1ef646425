"""The one door between a source's looks and the outbox: recall, compare, record, and only then believe it.

Changes of one session are made one at a time, because each is compared with what the last one left; those of
different sessions share commits. A large one (an account's first poll finds a thousand calls) is compared in a
thread, and told bit by bit, so that it does not hold the loop.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from typing import Any

from callcast.calls.index import CallIndex
from callcast.calls.model import CallObservation, ChangeSet, PollRecord, Snapshot, Target
from callcast.ports.outbox import Outbox, OutboxUnavailable

COMPARED_ON_LOOP_MAX = 200  # calls: what takes longer than some 5 ms is not compared on the loop
PUBLISHED_AT_ONCE = 100  # calls, and events
POLL_STORED_EVERY = timedelta(seconds=20)  # a poll without a change is stored this often; what is shown is as of then


class ChangeRecorder:
    """What is known of one source, in memory and on disk in step.

    told: called after each commit with what was recorded, a large change in several parts; must not block.
    stored: called after each commit of a poll.
    """

    def __init__(
        self,
        index: CallIndex,
        outbox: Outbox,
        publish: Callable[[ChangeSet], None],
        poll_stored: Callable[[PollRecord], None] = lambda _: None,
    ) -> None:
        self.index = index
        self._outbox = outbox
        self._publish = publish
        self._poll_stored = poll_stored
        self._locks = _SessionLocks()
        self._stored_polls: dict[Target, datetime] = dict(index.polls)

    async def record_poll(self, snapshot: Snapshot, compare: Callable[[], ChangeSet]) -> None:
        """Compare a poll with what is known, and record both. Raises OutboxUnavailable, then nothing has changed."""
        if self._is_idle(snapshot):
            self.index.apply(PollRecord(target=snapshot.target, taken_at=snapshot.taken_at), ChangeSet())
            return
        taken = False
        while not taken:  # what the target has may have changed while others had their turn
            touched = self._touched(snapshot)
            async with self._locks.of(touched) as waited:
                if taken := not waited or touched == self._touched(snapshot):
                    await self._record_poll(snapshot, compare)

    def _is_idle(self, snapshot: Snapshot) -> bool:
        """Nothing is shown where nothing is known, nothing is to be kept, and nobody works on all: most looks."""
        index = self.index
        if snapshot.observations or self._locks.all_are_locked or index.is_partly_loaded or index.of(snapshot.target):
            return False
        return not self._must_be_stored(
            PollRecord(target=snapshot.target, taken_at=index.clamped(snapshot.target, snapshot.taken_at))
        )

    async def _record_poll(self, snapshot: Snapshot, compare: Callable[[], ChangeSet]) -> None:
        await self._recall(self.index.sessions_to_recall(snapshot))
        taken_at = self.index.clamped(snapshot.target, snapshot.taken_at)
        poll = PollRecord(target=snapshot.target, taken_at=taken_at)
        size = max(len(snapshot.observations), len(self.index.of(snapshot.target)))
        change = await _compared(compare, size)
        if change or self._must_be_stored(poll):
            await _uninterrupted(self._record(poll, change))
        else:
            self.index.apply(poll, change)

    async def record_change(
        self,
        observations: Sequence[CallObservation],
        compare: Callable[[], ChangeSet],
        *,
        sessions: Collection[str] = (),
    ) -> None:
        """Record what something other than a poll has shown. Raises OutboxUnavailable.

        observations, sessions: what it is about; empty where any of the known calls may be concerned.
        """
        async with self._locks.of(None):
            await self._recall(self.index.sessions_to_recall(observations, sessions))
            change = await _compared(compare, len(observations) or len(self.index))
            if change:
                await _uninterrupted(self._record(None, change))

    async def note(self, name: str, value: bytes | None) -> None:
        await self._outbox.note(self.index.source, name, value)

    async def store_polls(self) -> None:
        """Keep the last good poll of each target: a clean stop leaves no gap that must be asked about."""
        async with self._locks.of(None):
            for target, taken_at in list(self.index.polls.items()):
                if self._stored_polls.get(target) != taken_at:
                    await _uninterrupted(self._record(PollRecord(target=target, taken_at=taken_at), ChangeSet()))

    def _touched(self, snapshot: Snapshot) -> frozenset[str] | None:
        """The sessions that a poll of an extension may change; None: any. A look at the account is about all."""
        if snapshot.target.extension_id is None or self.index.is_partly_loaded:
            return None
        known = self.index.of(snapshot.target)
        if max(len(known), len(snapshot.observations)) > COMPARED_ON_LOOP_MAX:
            return None
        return frozenset({call.session_id for call in known} | {seen.session_id for seen in snapshot.observations})

    async def _recall(self, sessions: Collection[str]) -> None:
        if sessions:
            self.index.learn(await self._outbox.recall(self.index.source, sessions))

    async def _record(self, poll: PollRecord | None, change: ChangeSet) -> None:
        await self._outbox.record(poll, change)
        if poll is not None:
            self._stored_polls[poll.target] = poll.taken_at
            self._poll_stored(poll)
        self.index.apply(poll, change)
        self.index.answers.learn(change.calls)
        for n, part in enumerate(_parts(change)):
            if n:
                await asyncio.sleep(0)
            self._publish(part)

    def _must_be_stored(self, poll: PollRecord) -> bool:
        stored_at = self._stored_polls.get(poll.target)
        return stored_at is None or poll.taken_at - stored_at >= POLL_STORED_EVERY


class _SessionLocks:
    """Who works on which sessions. Whoever wants one that is worked on waits for those who came before."""

    def __init__(self) -> None:
        self._holders: dict[asyncio.Future[None], frozenset[str] | None] = {}

    @property
    def all_are_locked(self) -> bool:
        return None in self._holders.values()

    @asynccontextmanager
    async def of(self, sessions: frozenset[str] | None) -> AsyncIterator[bool]:
        """None: all sessions. True: others had their turn meanwhile."""
        before = [turn for turn, theirs in self._holders.items() if _overlap(sessions, theirs)]
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
    """In a thread where it would take long. It only reads what is known, and that stays as it is meanwhile: who
    gives up waiting keeps the lock until the thread is done.
    """
    if size <= COMPARED_ON_LOOP_MAX:
        return compare()
    job = asyncio.ensure_future(asyncio.to_thread(compare))
    try:
        return await asyncio.shield(job)
    except asyncio.CancelledError:
        await asyncio.wait([job])
        job.result()  # a fault of the program, if anything
        raise


def _parts(change: ChangeSet) -> Iterator[ChangeSet]:
    """The change, so many calls and events at a time."""
    for first in range(0, max(len(change.calls), len(change.events)), PUBLISHED_AT_ONCE):
        some = slice(first, first + PUBLISHED_AT_ONCE)
        yield ChangeSet(calls=change.calls[some], events=change.events[some])


async def _uninterrupted(recording: Coroutine[Any, Any, None]) -> None:
    """Once begun, finished even when the caller is cancelled: what is on the disk must be told and known too."""
    job = asyncio.ensure_future(recording)
    try:
        await asyncio.shield(job)
    except asyncio.CancelledError:
        await asyncio.wait([job])
        with suppress(OutboxUnavailable):  # the next poll compares with what is known
            job.result()
        raise
