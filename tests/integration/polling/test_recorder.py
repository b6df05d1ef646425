"""The one door to the outbox: what is large is compared beside the loop and told in parts, and is still one change."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Collection
from pathlib import Path

import pytest

from callcast.calls.model import CallEvent, CallObservation, ChangeSet, PollRecord, Snapshot, Target
from callcast.calls.tracker import CallIndex, Rules, compare, unwatch
from callcast.outbox.sqlite.store import SqliteOutbox, open_outbox
from callcast.polling import recorder
from callcast.polling.recorder import COMPARED_ON_LOOP_MAX, PUBLISHED_AT_ONCE, ChangeRecorder
from callcast.ports.outbox import OutboxUnavailable
from callcast.ports.telemetry import Telemetry
from tests.clock import TurnedClock
from tests.unit.calls.snapshots import ACCOUNT, at, observation


class EventHistory(Telemetry):
    """A recorder on a real outbox, and what it published, part by part."""

    def __init__(self, outbox: SqliteOutbox) -> None:
        self.outbox = outbox
        self.index = CallIndex("acme")
        self.parts: list[ChangeSet] = []
        self.threads: list[bool] = []  # of each comparison: whether it ran in the loop's thread
        self.before_comparing: Callable[[], object] = lambda: None
        self.stored: list[PollRecord] = []
        self.recorder = ChangeRecorder(self.index, outbox, Rules(), self)

    def change_recorded(self, change: ChangeSet) -> None:
        self.parts.append(change)

    def poll_stored(self, poll: PollRecord) -> None:
        self.stored.append(poll)

    async def poll(self, t: float, *seen: CallObservation) -> None:
        await self.recorder.record_poll(Snapshot(target=ACCOUNT, taken_at=at(t), observations=seen))

    def compare(self, index: CallIndex, snapshot: Snapshot, rules: Rules) -> ChangeSet:
        self.before_comparing()
        self.threads.append(threading.current_thread() is threading.main_thread())
        return compare(index, snapshot, rules)


@pytest.fixture
async def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[EventHistory]:
    async with open_outbox(tmp_path, TurnedClock(), retention_h=72, outbox_max_mb=64, dead_letter_days=30) as outbox:
        history = EventHistory(outbox)
        monkeypatch.setattr(recorder, "compare", history.compare)
        yield history


def calls(count: int, state: str = "ringing") -> list[CallObservation]:
    return [observation(state, extension_id=f"{n}", session_id=f"s-{n}", record_id=f"L{n}") for n in range(count)]


async def test_a_large_poll_is_compared_beside_the_loop(told: EventHistory) -> None:
    """A first poll of a thousand calls, and one from which as many are gone; a small one is not worth a thread."""
    await told.poll(0, *calls(COMPARED_ON_LOOP_MAX))
    await told.poll(1, *calls(COMPARED_ON_LOOP_MAX + 1))
    await told.poll(2)
    assert told.threads == [True, False, False]


async def test_a_large_change_is_told_in_parts_and_recorded_as_one(told: EventHistory) -> None:
    """Every call and every event once, in order, and no part larger than is told at once."""
    count = 2 * PUBLISHED_AT_ONCE + 1
    await told.poll(0)
    await told.poll(1, *calls(count))
    assert [len(part.calls) for part in told.parts] == [PUBLISHED_AT_ONCE, PUBLISHED_AT_ONCE, 1]
    ids = [event.id for part in told.parts for event in part.events]
    assert [stored.event.id for stored in await told.outbox.history(after_seq=0, limit=1000)] == ids
    shown = [event.call.call_id for part in told.parts for event in part.events if isinstance(event, CallEvent)]
    assert shown == [call.call_id for part in told.parts for call in part.calls]
    assert len(set(ids)) == count


async def test_others_have_their_turn_between_the_parts(told: EventHistory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that is served, a sink that answers: no one of them waits until all of it is published."""
    turns: list[int] = []
    monkeypatch.setattr(told, "change_recorded", lambda _: turns.append(0))

    async def another() -> None:
        while True:
            await asyncio.sleep(0)
            if turns:
                turns[-1] += 1

    running = asyncio.create_task(another())
    await told.poll(0, *calls(3 * PUBLISHED_AT_ONCE))
    running.cancel()
    assert len(turns) == 3
    assert all(turns[:-1])


async def test_what_concerns_all_calls_is_compared_beside_the_loop_too(told: EventHistory) -> None:
    """A source whose calls are watched no longer: nothing is sighted, and everything changes."""
    await told.poll(0, *calls(COMPARED_ON_LOOP_MAX + 1))
    there: list[bool] = []

    def gone(index: CallIndex, extension_ids: Collection[str]) -> ChangeSet:
        there.append(threading.current_thread() is threading.main_thread())
        return unwatch(index, extension_ids, at(5))

    await told.recorder.record_change(gone, {f"{n}" for n in range(COMPARED_ON_LOOP_MAX + 1)})
    assert there == [False]
    assert not told.index.live_calls()


async def test_who_gives_up_waiting_for_a_comparison_leaves_nothing_half_done(told: EventHistory) -> None:
    """The thread reads what is known: until it is done no other task changes that, and its result is dropped."""
    begun, may_end = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        may_end.wait(30)

    told.before_comparing = wait
    leaving = asyncio.create_task(told.poll(0, *calls(COMPARED_ON_LOOP_MAX + 1)))
    await asyncio.to_thread(begun.wait, 30)
    leaving.cancel()
    following = asyncio.create_task(told.poll(1, *calls(1)))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not leaving.done()
    assert told.threads == [], "the next comparison waits"
    may_end.set()
    await following
    assert leaving.cancelled()
    assert told.threads == [False, True]
    assert [call.call_id for call in told.index.live_calls()] == ["0/s-0"]
    assert len(await told.outbox.history(after_seq=0, limit=1000)) == 1


class Slow(EventHistory):
    """Its outbox records a poll of extension 1 only when it is told to."""

    def __init__(self, outbox: SqliteOutbox, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(outbox)
        monkeypatch.setattr(recorder, "compare", self.compare)
        self.may_record = asyncio.Event()
        record = outbox.record

        async def slowly(source: str, poll: PollRecord | None, change: ChangeSet, /) -> None:
            if poll is not None and poll.target.extension_id == "1":
                await self.may_record.wait()
            await record(source, poll, change)

        monkeypatch.setattr(outbox, "record", slowly)

    def polls(self, extension_id: str, *seen: CallObservation) -> asyncio.Task[None]:
        target = Target(source="acme", extension_id=extension_id)
        snapshot = Snapshot(target=target, taken_at=at(1), observations=seen)
        return asyncio.create_task(self.recorder.record_poll(snapshot))

    def told_of(self) -> list[str]:
        return [call.call_id for part in self.parts for call in part.calls]


def ringing(extension_id: str, session_id: str) -> CallObservation:
    return observation("ringing", extension_id=extension_id, session_id=session_id, record_id=f"L{extension_id}")


@pytest.fixture
async def slow(told: EventHistory, monkeypatch: pytest.MonkeyPatch) -> Slow:
    return Slow(told.outbox, monkeypatch)


async def test_another_session_does_not_wait_for_the_disk(slow: Slow) -> None:
    """While one poll's change is on its way to the disk, a poll of another extension is recorded and told."""
    first = slow.polls("1", ringing("1", "s-1"))
    await slow.polls("2", ringing("2", "s-2"))
    assert slow.told_of() == ["2/s-2"]
    slow.may_record.set()
    await first
    assert slow.told_of() == ["2/s-2", "1/s-1"]


async def test_changes_of_one_session_are_made_one_at_a_time(slow: Slow) -> None:
    """A look that shows the same session is compared with what the earlier one left, once that is on the disk."""
    first = slow.polls("1", ringing("1", "s"))
    second = slow.polls("2", ringing("2", "s"))
    for _ in range(20):
        await asyncio.sleep(0.01)
    assert slow.told_of() == []
    assert len(slow.threads) == 1, "the second is not compared yet"
    slow.may_record.set()
    await asyncio.gather(first, second)
    assert slow.told_of() == ["1/s", "2/s"]


async def test_what_may_concern_all_calls_waits_for_all(slow: Slow) -> None:
    """A change that names no observations begins when nothing is under way, and what comes later waits for it."""
    first = slow.polls("1", ringing("1", "s-1"))
    await asyncio.sleep(0)
    everything = asyncio.create_task(slow.recorder.record_change(unwatch, {"1"}, at(2)))
    later = slow.polls("2", ringing("2", "s-2"))
    for _ in range(20):
        await asyncio.sleep(0.01)
    assert slow.told_of() == []
    slow.may_record.set()
    await asyncio.gather(first, everything, later)
    assert slow.told_of() == ["1/s-1", "1/s-1", "2/s-2"]


async def test_who_gives_up_its_turn_delays_no_other(slow: Slow) -> None:
    """A look that is cancelled while it waits for its session leaves the session to the next."""
    first = slow.polls("1", ringing("1", "s"))
    second, third = slow.polls("2", ringing("2", "s")), slow.polls("3", ringing("3", "s"))
    await asyncio.sleep(0.01)
    second.cancel()
    slow.may_record.set()
    await asyncio.gather(first, third)
    assert second.cancelled()
    assert slow.told_of() == ["1/s", "3/s"]


async def test_a_poll_that_shows_nothing_where_nothing_is_known_is_not_compared(told: EventHistory) -> None:
    """It is remembered all the same, time never runs backwards, and once a minute it is kept."""
    for t in (0, 10, 5):
        await told.poll(t)
    assert told.threads == [True]  # the very first poll is kept, and so goes the long way
    assert told.index.polls[ACCOUNT] == at(10)
    await told.poll(60)
    assert (await told.outbox.known("acme")).polls[ACCOUNT] == at(60)
    await told.poll(61, *calls(1))
    await told.poll(62)  # which misses a known call
    await told.poll(63)
    assert len(told.threads) == 5
    (missed,) = told.index.pending()
    assert missed.vanished_at == at(62)


async def test_a_poll_that_shows_nothing_waits_for_who_is_at_work(told: EventHistory) -> None:
    """Somebody may be about to learn of a call that this poll misses."""
    await told.poll(0)
    async with told.recorder._locks.of(None):
        poll = asyncio.create_task(told.poll(1))
        await asyncio.sleep(0)
        assert told.index.polls[ACCOUNT] == at(0)
    await poll
    assert told.index.polls[ACCOUNT] == at(1)


async def test_a_poll_is_stored_with_its_commit(told: EventHistory) -> None:
    """Said when it is on the disk and not before; an unchanged one at the latest 20 s after the last."""
    for t in (0, 10, 19, 21, 30):
        await told.poll(t)
    await told.poll(31, *calls(1))
    assert [poll.taken_at for poll in told.stored] == [at(0), at(21), at(31)]


async def test_a_poll_that_cannot_be_stored_is_not_stored(told: EventHistory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is what it shows known; the next one that can be stored brings both."""

    async def full(*_: object) -> None:
        raise OutboxUnavailable("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(told.outbox, "record", full)
        with pytest.raises(OutboxUnavailable):
            await told.poll(0, *calls(1))
    assert (told.stored, told.parts) == ([], [])
    await told.poll(5, *calls(1))
    assert [poll.taken_at for poll in told.stored] == [at(5)]
