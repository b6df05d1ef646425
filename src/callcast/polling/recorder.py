"""The one door between a source's looks and the outbox: recall, compare, record, and only then believe it.

Changes of one session are made one at a time, because each is compared with what the last one left; those of
different sessions share commits. A large one (an account's first look finds a thousand calls) is compared in a
thread, and told bit by bit, so that it does not hold the loop.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from typing import Any

from callcast.calls.index import Picture
from callcast.calls.model import Change, Look, Sighting, Snapshot, Target
from callcast.ports.outbox import Outbox, OutboxUnavailable

HERE_MAX = 200  # calls: what takes longer than some 5 ms is not compared on the loop
TOLD_AT_ONCE = 100  # calls, and events
LOOK_KEPT_EVERY = timedelta(seconds=20)  # a poll without a change is stored this often; what is shown is as of then


class Ledger:
    """What is known of one source, in memory and on disk in step.

    told: called after each commit with what was recorded, a large change in several parts; must not block.
    stored: called after each commit of a poll.
    """

    def __init__(
        self,
        picture: Picture,
        outbox: Outbox,
        told: Callable[[Change], None],
        stored: Callable[[Look], None] = lambda _: None,
    ) -> None:
        self.picture = picture
        self._outbox = outbox
        self._told = told
        self._stored = stored
        self._turns = _Turns()
        self._kept: dict[Target, datetime] = dict(picture.looks)

    async def take(self, snapshot: Snapshot, compare: Callable[[], Change]) -> None:
        """Compare a look with what is known, and record both. Raises OutboxUnavailable, then nothing has changed."""
        if self._is_idle(snapshot):
            self.picture.apply(Look(target=snapshot.target, taken_at=snapshot.taken_at), Change())
            return
        taken = False
        while not taken:  # what the target has may have changed while others had their turn
            touched = self._touched(snapshot)
            async with self._turns.of(touched) as waited:
                if taken := not waited or touched == self._touched(snapshot):
                    await self._take(snapshot, compare)

    def _is_idle(self, snapshot: Snapshot) -> bool:
        """Nothing is shown where nothing is known, nothing is to be kept, and nobody works on all: most looks."""
        picture = self.picture
        if snapshot.sightings or self._turns.one_is_of_all or picture.is_half_known or picture.of(snapshot.target):
            return False
        return not self._is_old(
            Look(target=snapshot.target, taken_at=picture.clamped(snapshot.target, snapshot.taken_at))
        )

    async def _take(self, snapshot: Snapshot, compare: Callable[[], Change]) -> None:
        await self._recall(self.picture.unknown_sessions(snapshot))
        taken_at = self.picture.clamped(snapshot.target, snapshot.taken_at)
        look = Look(target=snapshot.target, taken_at=taken_at)
        size = max(len(snapshot.sightings), len(self.picture.of(snapshot.target)))
        change = await _compared(compare, size)
        if change or self._is_old(look):
            await _whole(self._record(look, change))
        else:
            self.picture.apply(look, change)

    async def change(
        self, sightings: Sequence[Sighting], compare: Callable[[], Change], *, sessions: Collection[str] = ()
    ) -> None:
        """Record what something other than a look has shown. Raises OutboxUnavailable.

        sightings, sessions: what it is about; empty where any of the known calls may be concerned.
        """
        async with self._turns.of(None):
            await self._recall(self.picture.unknown_sessions(sightings, sessions))
            change = await _compared(compare, len(sightings) or len(self.picture))
            if change:
                await _whole(self._record(None, change))

    async def note(self, name: str, value: bytes | None) -> None:
        await self._outbox.note(self.picture.source, name, value)

    async def keep_looks(self) -> None:
        """Keep the last good look of each target: a clean stop leaves no gap that must be asked about."""
        async with self._turns.of(None):
            for target, taken_at in list(self.picture.looks.items()):
                if self._kept.get(target) != taken_at:
                    await _whole(self._record(Look(target=target, taken_at=taken_at), Change()))

    def _touched(self, snapshot: Snapshot) -> frozenset[str] | None:
        """The sessions that a look at an extension may change; None: any. A look at the account is about all."""
        if snapshot.target.extension_id is None or self.picture.is_half_known:
            return None
        known = self.picture.of(snapshot.target)
        if max(len(known), len(snapshot.sightings)) > HERE_MAX:
            return None
        return frozenset({call.session_id for call in known} | {seen.session_id for seen in snapshot.sightings})

    async def _recall(self, sessions: Collection[str]) -> None:
        if sessions:
            self.picture.learn(await self._outbox.recall(self.picture.source, sessions))

    async def _record(self, look: Look | None, change: Change) -> None:
        await self._outbox.record(look, change)
        if look is not None:
            self._kept[look.target] = look.taken_at
            self._stored(look)
        self.picture.apply(look, change)
        self.picture.answers.learn(change.calls)
        for n, part in enumerate(_parts(change)):
            if n:
                await asyncio.sleep(0)
            self._told(part)

    def _is_old(self, look: Look) -> bool:
        kept = self._kept.get(look.target)
        return kept is None or look.taken_at - kept >= LOOK_KEPT_EVERY


class _Turns:
    """Who works on which sessions. Whoever wants one that is worked on waits for those who came before."""

    def __init__(self) -> None:
        self._taken: dict[asyncio.Future[None], frozenset[str] | None] = {}

    @property
    def one_is_of_all(self) -> bool:
        return None in self._taken.values()

    @asynccontextmanager
    async def of(self, sessions: frozenset[str] | None) -> AsyncIterator[bool]:
        """None: all sessions. True: others had their turn meanwhile."""
        before = [turn for turn, theirs in self._taken.items() if _meet(sessions, theirs)]
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._taken[mine] = sessions
        try:
            if before:
                await asyncio.wait(before)
            yield bool(before)
        finally:
            del self._taken[mine]
            mine.set_result(None)


def _meet(ours: frozenset[str] | None, theirs: frozenset[str] | None) -> bool:
    return ours is None or theirs is None or not ours.isdisjoint(theirs)


async def _compared(compare: Callable[[], Change], size: int) -> Change:
    """In a thread where it would take long. It only reads what is known, and that stays as it is meanwhile: who
    gives up waiting keeps the lock until the thread is done.
    """
    if size <= HERE_MAX:
        return compare()
    job = asyncio.ensure_future(asyncio.to_thread(compare))
    try:
        return await asyncio.shield(job)
    except asyncio.CancelledError:
        await asyncio.wait([job])
        job.result()  # a fault of the program, if anything
        raise


def _parts(change: Change) -> Iterator[Change]:
    """The change, so many calls and events at a time."""
    for first in range(0, max(len(change.calls), len(change.events)), TOLD_AT_ONCE):
        some = slice(first, first + TOLD_AT_ONCE)
        yield Change(calls=change.calls[some], events=change.events[some])


async def _whole(recording: Coroutine[Any, Any, None]) -> None:
    """Once begun, finished even when the caller is cancelled: what is on the disk must be told and known too."""
    job = asyncio.ensure_future(recording)
    try:
        await asyncio.shield(job)
    except asyncio.CancelledError:
        await asyncio.wait([job])
        with suppress(OutboxUnavailable):  # the next look compares with what is known
            job.result()
        raise
