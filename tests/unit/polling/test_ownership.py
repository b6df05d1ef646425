"""Two sources that watch one extension: one of them records its calls, the other leaves them out and reports it."""

from typing import Any

from callcast.calls.index import CallIndex
from callcast.calls.model import UNASSIGNED, Snapshot, State, Target
from callcast.calls.tracker import Rules
from callcast.polling.backfill import Backfill
from callcast.polling.ownership import ExtensionOwnership
from callcast.polling.recorder import ChangeRecorder
from callcast.ports.telemetry import Telemetry
from tests.clock import TurnedClock
from tests.integration.polling.test_poller import observation, over
from tests.remote_side import ScriptedUpstream
from tests.system.simulated_days.sources import Unwritten


class AccountSource:
    """A source that watches an account, beside others."""

    def __init__(self, name: str = "whole", ownership: ExtensionOwnership | None = None) -> None:
        self.clock = TurnedClock()
        self.ownership = ownership or ExtensionOwnership()
        self.conflicts: list[str] = []
        self.target = Target(source=name)
        outbox: Any = Unwritten()
        self.events = outbox.events
        self.recorder = ChangeRecorder(CallIndex(name), outbox, Rules(), Telemetry())
        self.recorder.is_own = lambda seen: self.ownership.acquire_part(name, seen, self.conflicts.append)

    async def poll(self, *extensions: str, account_id: str = "1") -> list[str]:
        """Record a poll that shows a new call of each extension. Returns those whose call was recorded."""
        before = len(self.events)
        self.clock._passed_s += 1
        facts = {"account_id": account_id}
        shown = [
            observation(self.clock.now(), State.RINGING, extension_id=one, session_id=f"{one}-{before}", **facts)
            for one in extensions
        ]
        taken_at = self.clock.now()
        await self.recorder.record_poll(Snapshot(target=self.target, taken_at=taken_at, observations=tuple(shown)))
        return [event.call.extension_id for event in self.events[before:] if event.type == "call.ringing"]


async def test_the_account_leaves_out_what_another_source_watches() -> None:
    """Reported once per extension, and shown as long as it is so."""
    account = AccountSource()
    assert account.ownership.acquire("one", "101")
    for _ in range(3):
        assert await account.poll("101", "102") == ["102"]
    assert account.conflicts == ["101"]
    conflicts = ["source whole is switched off for 1 extension that source one watches"]
    assert account.ownership.conflicts() == conflicts


async def test_what_the_account_has_reported_no_other_source_may() -> None:
    """A source that lists the extension and starts later does not get it."""
    account = AccountSource()
    assert await account.poll("101") == ["101"]
    assert not account.ownership.acquire("one", "101")
    assert account.ownership.denied() == {"one"}


async def test_a_source_that_goes_leaves_its_extensions_to_the_others() -> None:
    """From the next poll on the account's source records them."""
    account = AccountSource()
    account.ownership.acquire("one", "101")
    assert await account.poll("101") == []
    account.ownership.retain({"whole": None, "one": {"102"}})
    assert await account.poll("101") == ["101"]
    assert account.ownership.conflicts() == []


async def test_a_gap_is_filled_without_the_extensions_of_another_source() -> None:
    account = AccountSource()
    account.ownership.acquire("one", "101")
    upstream = ScriptedUpstream(account.clock)
    backfill = Backfill(account.recorder, upstream, account.clock, Telemetry())
    start = account.clock.now()
    upstream.log = [over(start), over(start, extension_id="102", record_id="r-2")]
    await backfill.add_gap(account.target, start, start)
    account.clock._passed_s += 3600
    await backfill.fill_gaps()
    assert [event.call.extension_id for event in account.events] == ["102"]


async def test_a_call_that_another_source_owns_by_now_still_gets_its_end() -> None:
    account = AccountSource()
    start = account.clock.now()
    (extension,) = await account.poll("101")
    await account.poll()
    account.ownership.retain({})
    account.ownership.acquire("one", extension)
    upstream = ScriptedUpstream(account.clock)
    upstream.log = [over(start, extension_id=extension, session_id="101-0")]
    account.clock._passed_s += 60
    await Backfill(account.recorder, upstream, account.clock, Telemetry()).resolve_pending()
    assert [event.type for event in account.events] == ["call.ringing", "call.ended"]


async def test_calls_without_an_extension_belong_to_their_account() -> None:
    """Two sources of one account do not both record them; those of two accounts each record their own."""
    first = AccountSource("first")
    second = AccountSource("second", first.ownership)
    assert [await one.poll(UNASSIGNED, account_id="9") for one in (first, second)] == [[UNASSIGNED], []]
    assert await second.poll(UNASSIGNED, account_id="8") == [UNASSIGNED]
