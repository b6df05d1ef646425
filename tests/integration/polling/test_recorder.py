"""A large change is compared in a thread and published in parts, and is still one transaction."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Collection
from pathlib import Path

import pytest
from msgspec.structs import replace

from callcast.calls.model import CallEvent, CallObservation, ChangeSet, PollHint, PollRecord, Snapshot, Target
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
async def history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[EventHistory]:
    async with open_outbox(tmp_path, TurnedClock(), retention_h=72, outbox_max_mb=64, dead_letter_days=30) as outbox:
        history = EventHistory(outbox)
        monkeypatch.setattr(recorder, "compare", history.compare)
        yield history


def calls(count: int, state: str = "ringing") -> list[CallObservation]:
    return [observation(state, extension_id=f"{n}", session_id=f"s-{n}", record_id=f"L{n}") for n in range(count)]


async def test_a_large_poll_is_compared_in_a_thread(history: EventHistory) -> None:
    """A first poll of a thousand calls, and one from which as many are gone; a small one is not worth a thread."""
    await history.poll(0, *calls(COMPARED_ON_LOOP_MAX))
    await history.poll(1, *calls(COMPARED_ON_LOOP_MAX + 1))
    await history.poll(2)
    assert history.threads == [True, False, False]


async def test_a_large_change_is_published_in_parts_and_recorded_as_one(history: EventHistory) -> None:
    """Every call and every event once, in order, and no part larger than the limit."""
    count = 2 * PUBLISHED_AT_ONCE + 1
    await history.poll(0)
    await history.poll(1, *calls(count))
    assert [len(part.calls) for part in history.parts] == [PUBLISHED_AT_ONCE, PUBLISHED_AT_ONCE, 1]
    ids = [event.id for part in history.parts for event in part.events]
    assert [stored.event.id for stored in await history.outbox.history(after_seq=0, limit=1000)] == ids
    shown = [event.call.call_id for part in history.parts for event in part.events if isinstance(event, CallEvent)]
    assert shown == [call.call_id for part in history.parts for call in part.calls]
    assert len(set(ids)) == count


async def test_other_tasks_run_between_the_parts(history: EventHistory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the web server nor a sink waits until all parts are published."""
    runs: list[int] = []
    monkeypatch.setattr(history, "change_recorded", lambda _: runs.append(0))

    async def another() -> None:
        while True:
            await asyncio.sleep(0)
            if runs:
                runs[-1] += 1

    running = asyncio.create_task(another())
    await history.poll(0, *calls(3 * PUBLISHED_AT_ONCE))
    running.cancel()
    assert len(runs) == 3
    assert all(runs[:-1])


async def test_a_change_of_all_calls_is_compared_in_a_thread(history: EventHistory) -> None:
    """A source whose calls are no longer watched: nothing is observed, and everything changes."""
    await history.poll(0, *calls(COMPARED_ON_LOOP_MAX + 1))
    there: list[bool] = []

    def gone(index: CallIndex, extension_ids: Collection[str]) -> ChangeSet:
        there.append(threading.current_thread() is threading.main_thread())
        return unwatch(index, extension_ids, at(5))

    await history.recorder.record_change(gone, {f"{n}" for n in range(COMPARED_ON_LOOP_MAX + 1)})
    assert there == [False]
    assert not history.index.live_calls()


async def test_a_cancelled_comparison_leaves_nothing_half_done(history: EventHistory) -> None:
    """The thread reads the index: until it has ended no other task changes the index, and its result is dropped."""
    begun, may_end = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        may_end.wait(30)

    history.before_comparing = wait
    leaving = asyncio.create_task(history.poll(0, *calls(COMPARED_ON_LOOP_MAX + 1)))
    await asyncio.to_thread(begun.wait, 30)
    leaving.cancel()
    following = asyncio.create_task(history.poll(1, *calls(1)))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not leaving.done()
    assert history.threads == [], "the next comparison waits"
    may_end.set()
    await following
    assert leaving.cancelled()
    assert history.threads == [False, True]
    assert [call.call_id for call in history.index.live_calls()] == ["0/s-0"]
    assert len(await history.outbox.history(after_seq=0, limit=1000)) == 1


class Slow(EventHistory):
    """Its outbox records a poll of extension 1 only after `may_record` is set."""

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

    def published(self) -> list[str]:
        return [call.call_id for part in self.parts for call in part.calls]


def ringing(extension_id: str, session_id: str) -> CallObservation:
    return observation("ringing", extension_id=extension_id, session_id=session_id, record_id=f"L{extension_id}")


@pytest.fixture
async def slow(history: EventHistory, monkeypatch: pytest.MonkeyPatch) -> Slow:
    return Slow(history.outbox, monkeypatch)


async def test_another_session_does_not_wait_for_the_disk(slow: Slow) -> None:
    """While one poll's change is on its way to the disk, a poll of another extension is recorded and published."""
    first = slow.polls("1", ringing("1", "s-1"))
    await slow.polls("2", ringing("2", "s-2"))
    assert slow.published() == ["2/s-2"]
    slow.may_record.set()
    await first
    assert slow.published() == ["2/s-2", "1/s-1"]


async def test_changes_of_one_session_are_made_one_at_a_time(slow: Slow) -> None:
    """A poll that shows the same session is compared with the result of the earlier one, once that is on the disk."""
    first = slow.polls("1", ringing("1", "s"))
    second = slow.polls("2", ringing("2", "s"))
    for _ in range(20):
        await asyncio.sleep(0.01)
    assert slow.published() == []
    assert len(slow.threads) == 1, "the second is not compared yet"
    slow.may_record.set()
    await asyncio.gather(first, second)
    assert slow.published() == ["1/s", "2/s"]


async def test_a_change_that_may_concern_all_calls_waits_for_all(slow: Slow) -> None:
    """A change that names no observations begins when nothing is under way, and what comes later waits for it."""
    first = slow.polls("1", ringing("1", "s-1"))
    await asyncio.sleep(0)
    everything = asyncio.create_task(slow.recorder.record_change(unwatch, {"1"}, at(2)))
    later = slow.polls("2", ringing("2", "s-2"))
    for _ in range(20):
        await asyncio.sleep(0.01)
    assert slow.published() == []
    slow.may_record.set()
    await asyncio.gather(first, everything, later)
    assert slow.published() == ["1/s-1", "1/s-1", "2/s-2"]


async def test_a_cancelled_poll_delays_no_other(slow: Slow) -> None:
    """A poll that is cancelled while it waits for its session leaves the session to the next."""
    first = slow.polls("1", ringing("1", "s"))
    second, third = slow.polls("2", ringing("2", "s")), slow.polls("3", ringing("3", "s"))
    await asyncio.sleep(0.01)
    second.cancel()
    slow.may_record.set()
    await asyncio.gather(first, third)
    assert second.cancelled()
    assert slow.published() == ["1/s", "3/s"]


async def test_a_poll_that_shows_nothing_where_nothing_is_known_is_not_compared(history: EventHistory) -> None:
    """Its time is remembered, never goes back, and is stored once a minute."""
    for t in (0, 10, 5):
        await history.poll(t)
    assert history.threads == [True]  # the very first poll is stored, and so it is compared
    assert history.index.polls[ACCOUNT] == at(10)
    await history.poll(60)
    assert (await history.outbox.known("acme")).polls[ACCOUNT] == at(60)
    await history.poll(61, *calls(1))
    await history.poll(62)  # which misses a known call
    await history.poll(63)
    assert len(history.threads) == 5
    (missed,) = history.index.pending()
    assert missed.vanished_at == at(62)


async def test_a_poll_that_shows_nothing_waits_for_the_lock(history: EventHistory) -> None:
    """Another task may be about to record a call that this poll does not show."""
    await history.poll(0)
    async with history.recorder._locks.of(None):
        poll = asyncio.create_task(history.poll(1))
        await asyncio.sleep(0)
        assert history.index.polls[ACCOUNT] == at(0)
    await poll
    assert history.index.polls[ACCOUNT] == at(1)


async def test_a_poll_is_stored_with_its_commit(history: EventHistory) -> None:
    """Reported once it is on the disk; a poll without changes is stored at the latest 20 s after the last."""
    for t in (0, 10, 19, 21, 30):
        await history.poll(t)
    await history.poll(31, *calls(1))
    assert [poll.taken_at for poll in history.stored] == [at(0), at(21), at(31)]


async def test_the_hint_that_caused_a_poll_is_stored_with_its_events(tmp_path: Path) -> None:
    """Also after a restart; the ids do not depend on it. What a poll shows that no hint caused has none."""
    limits = {"retention_h": 72, "outbox_max_mb": 64, "dead_letter_days": 30}
    hint = PollHint(via="push", seconds_before=0.8)
    shown = Snapshot(target=ACCOUNT, taken_at=at(1), observations=tuple(calls(1)))
    ids = set()
    for name, cause in (("without", None), ("with", hint)):
        async with open_outbox(tmp_path / name, TurnedClock(), **limits) as outbox:
            recording = EventHistory(outbox).recorder
            await recording.record_poll(shown, cause)
            await recording.record_poll(replace(shown, taken_at=at(2), observations=tuple(calls(1, "connected"))))
        async with open_outbox(tmp_path / name, TurnedClock(), **limits) as outbox:
            events = [one.event for one in await outbox.history(after_seq=0, limit=9)]
        assert [event.hint for event in events if isinstance(event, CallEvent)] == [cause, None]
        ids.add(tuple(event.id for event in events))
    assert len(ids) == 1


async def test_a_poll_that_cannot_be_stored_is_not_stored(
    history: EventHistory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor are its calls known; the next poll that can be stored records both."""

    async def full(*_: object) -> None:
        raise OutboxUnavailable("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(history.outbox, "record", full)
        with pytest.raises(OutboxUnavailable):
            await history.poll(0, *calls(1))
    assert (history.stored, history.parts) == ([], [])
    await history.poll(5, *calls(1))
    assert [poll.taken_at for poll in history.stored] == [at(5)]
