"""Two credentials of one account: a call that a colleague of the other source answered was not missed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from callcast.calls.freshness import Freshness
from callcast.calls.index import CallIndex
from callcast.calls.model import CallEvent, ChangeSet, Disposition, Known, Leg, State
from callcast.calls.shared_answers import SharedAnswers
from callcast.calls.tracker import Rules
from callcast.outbox.sqlite.store import SqliteOutbox, open_outbox
from callcast.polling.backfill import Backfill
from callcast.polling.poller import Poller
from callcast.polling.recorder import ChangeRecorder
from callcast.polling.sources import share_answers
from callcast.ports.outbox import OutboxUnavailable
from tests.clock import TurnedClock
from tests.integration.polling.test_poller import Notes, observation, over
from tests.outbox import busy
from tests.remote_side import ScriptedUpstream

EXTENSIONS = {"one": "101", "two": "102"}


class Account:
    """A source per extension, on one outbox; `polling` again is a restart."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = TurnedClock()
        self.start = self.clock.now()
        self.far = {source: ScriptedUpstream(self.clock) for source in EXTENSIONS}
        self.notes = Notes()

    @asynccontextmanager
    async def polling(self) -> AsyncIterator[SqliteOutbox]:
        async with open_outbox(self.path, self.clock, retention_h=72, outbox_max_mb=64, dead_letter_days=30) as outbox:
            self.clock.busy = busy(outbox)
            answers = SharedAnswers()
            await share_answers(answers, outbox)
            pollers = [self._poller(source, outbox, await outbox.known(source), answers) for source in EXTENSIONS]
            tasks = [asyncio.create_task(poller.run()) for poller in pollers]
            await self.clock.settle()
            try:
                yield outbox
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
                self.clock.busy = lambda: False
                for task in tasks:
                    if not task.cancelled() and task.exception():
                        raise task.exception()  # type: ignore[misc]

    def _poller(self, source: str, outbox: SqliteOutbox, mine: Known, answers: SharedAnswers) -> Poller:
        recorder = ChangeRecorder(CallIndex(source, mine, answers), outbox, Rules(), self.notes)
        return Poller(
            source,
            [EXTENSIONS[source]],
            interval_s=5.0,
            upstream=self.far[source],
            recorder=recorder,
            backfill=Backfill(recorder, self.far[source], self.clock, self.notes),
            freshness=Freshness(source),
            clock=self.clock,
            telemetry=self.notes,
            acquire=lambda _: True,
        )

    def shows(self, source: str, what: str, **facts: Any) -> None:
        extension_id = EXTENSIONS[source]
        same = {"extension_id": extension_id, "record_id": f"r-{extension_id}", **facts}
        if what == "missed":
            shown = over(self.start, 5, **same)
        elif what == "talking":
            legs = (Leg(kind="PstnToSip", started_at=self.start, accepted=True),)
            shown = observation(self.start, State.CONNECTED, legs=legs, **same)
        else:
            shown = observation(self.start, **same)
        self.far[source].list_of = lambda _: [shown] if what != "nothing" else []

    def told_of(self, source: str) -> list[tuple[str, Disposition | None]]:
        return [(event.type, event.call.disposition) for event in self.events if event.source == source]

    @property
    def events(self) -> list[CallEvent]:
        return [event for event in self.notes.events if isinstance(event, CallEvent)]


@pytest.fixture
def account(tmp_path: Path) -> Account:
    return Account(tmp_path)


RINGING = ("call.ringing", None)


async def test_a_colleagues_answer_that_is_known_makes_no_miss(account: Account) -> None:
    async with account.polling():
        account.shows("one", "ringing")
        account.shows("two", "ringing")
        await account.clock.turn(10)
        account.shows("two", "talking")
        await account.clock.turn(10)
        account.shows("one", "missed")
        await account.clock.turn(10)
    assert account.told_of("one") == [RINGING, ("call.ended", "answered_elsewhere")]


@pytest.mark.parametrize("gone", [False, True])
async def test_an_answer_that_is_learnt_later_corrects_the_miss_once(account: Account, gone: bool) -> None:
    """Also when the missed call has left the list, and the memory, by then."""
    async with account.polling():
        account.shows("one", "ringing")
        account.shows("two", "ringing")
        await account.clock.turn(10)
        account.shows("one", "missed")
        await account.clock.turn(10)
        account.shows("one", "nothing" if gone else "missed")
        await account.clock.turn(10)
        account.shows("two", "talking")
        await account.clock.turn(30)
    async with account.polling():
        await account.clock.turn(30)
    assert account.told_of("one") == [RINGING, ("call.ended", "missed"), ("call.corrected", "answered_elsewhere")]
    last = [event for event in account.events if event.source == "one"][-1]
    assert last.observation.after is not None
    assert last.observation.after <= last.observation.before


async def corrected_id(account: Account, *, killed: bool) -> str:
    """The id of the correction; killed: after the answer was stored, and before the correction is."""
    account.shows("one", "missed")
    account.shows("two", "nothing")
    async with account.polling():
        await account.clock.turn(10)
    async with account.polling():
        account.shows("one", "ringing", session_id="s-2", record_id="r-1")
        await account.clock.turn(10)
        account.shows("one", "missed", session_id="s-2", record_id="r-1")
        await account.clock.turn(10)
    async with account.polling() as outbox:
        real = outbox.record
        if killed:

            async def only_two(source: str, poll: Any, change: ChangeSet, /) -> None:
                if any(call.source == "one" for call in change.calls):
                    raise OutboxUnavailable("killed here")
                await real(source, poll, change)

            outbox.record = only_two  # type: ignore[method-assign]
        account.shows("two", "talking", session_id="s-2", record_id="r-2")
        await account.clock.turn(30)
        outbox.record = real  # type: ignore[method-assign]
        if not killed:
            await account.clock.turn(10)
    if killed:
        assert account.told_of("one")[-1] == ("call.ended", "missed")
        async with account.polling():
            await account.clock.turn(10)
    assert account.told_of("one") == [RINGING, ("call.ended", "missed"), ("call.corrected", "answered_elsewhere")]
    return account.events[-1].id


async def test_killed_before_the_correction_it_comes_after_the_restart_with_the_same_id(tmp_path: Path) -> None:
    """The answer is found in what is stored."""
    calm = await corrected_id(Account(tmp_path / "calm"), killed=False)
    assert calm == await corrected_id(Account(tmp_path / "killed"), killed=True)


async def test_while_the_store_fails_a_correction_waits(account: Account) -> None:
    async with account.polling() as outbox:
        account.shows("one", "ringing")
        await account.clock.turn(10)
        account.shows("one", "missed")
        await account.clock.turn(10)
        real = outbox.record

        async def fails(source: str, poll: Any, change: ChangeSet, /) -> None:
            if any(event.type == "call.corrected" for event in change.events):
                raise OutboxUnavailable("the disk is full")
            await real(source, poll, change)

        outbox.record = fails  # type: ignore[method-assign]
        account.shows("two", "talking")
        await account.clock.turn(60)
        assert account.told_of("one")[-1] == ("call.ended", "missed")
        outbox.record = real  # type: ignore[method-assign]
        await account.clock.turn(5)
    assert account.told_of("one")[-1] == ("call.corrected", "answered_elsewhere")
