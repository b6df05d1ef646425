"""Two sources over one extension: one of them tells of its calls, whole; the other leaves them out and says so."""

from callcast.calls.model import UNASSIGNED, CallObservation, State, Target
from callcast.polling.ownership import ExtensionOwnership, OwnedUpstream
from tests.clock import TurnedClock
from tests.integration.polling.test_poller import observation, over
from tests.remote_side import ScriptedUpstream

ACCOUNT = Target(source="whole")


class Watchers:
    """An account's watcher named `whole`, beside others."""

    def __init__(self, source: str = "whole", claims: ExtensionOwnership | None = None) -> None:
        self.clock = TurnedClock()
        self.far = ScriptedUpstream(self.clock)
        self.claims = claims or ExtensionOwnership()
        self.told: list[str] = []
        self.share = OwnedUpstream(source, self.far, self.claims, self.told.append)

    def sees(self, *extensions: str) -> None:
        seen = [observation(self.clock.now(), extension_id=one, session_id=f"s-{one}") for one in extensions]
        self.far.list_of = lambda _: seen

    async def shown(self) -> list[str]:
        return [one.extension_id for one in (await self.share.poll(ACCOUNT)).observations]


async def test_the_account_leaves_out_what_another_source_watches() -> None:
    """Said once per extension, and shown as long as it is so."""
    both = Watchers()
    assert both.claims.acquire("one", "101")
    both.sees("101", "102")
    for _ in range(3):
        assert await both.shown() == ["102"]
    assert both.told == ["101"]
    assert both.claims.conflicts() == ["source whole is switched off for 1 extension that source one watches"]


async def test_what_the_account_tells_of_already_no_other_source_may() -> None:
    """An extension's watcher that comes later is the later one."""
    both = Watchers()
    both.sees("101")
    assert await both.shown() == ["101"]
    assert not both.claims.acquire("one", "101")
    assert both.claims.denied() == {"one"}


async def test_a_source_that_goes_leaves_its_extensions_to_the_others() -> None:
    """From the next poll on the account's watcher tells of them."""
    both = Watchers()
    both.claims.acquire("one", "101")
    both.sees("101")
    assert await both.shown() == []
    both.claims.retain({"whole": None, "one": {"102"}})
    assert await both.shown() == ["101"]
    assert both.claims.conflicts() == []


async def test_the_call_log_is_shared_alike_but_a_told_call_is_settled() -> None:
    """Missed calls of another's extension are left out; a call that was told before still gets its end."""
    both = Watchers()
    both.claims.acquire("one", "101")
    start = both.clock.now()
    both.far.log = [over(start), over(start, extension_id="102", record_id="r-2")]
    since = await both.share.ended_since(ACCOUNT, after=start)
    assert [one.extension_id for one in since] == ["102"]
    told = type("EventHistory", (), {"session_id": "s-1", "extension_id": "101", "call_id": "101/s-1"})()
    assert [one.extension_id for one in await both.share.find(told)] == ["101", "102"]


async def test_calls_without_an_extension_belong_to_their_account() -> None:
    """Two watchers of one account do not both tell of them; those of two accounts each tell of their own."""
    first = Watchers("first")
    second = Watchers("second", first.claims)

    def unassigned(account: str) -> list[CallObservation]:
        return [observation(first.clock.now(), State.RINGING, extension_id=UNASSIGNED, account_id=account)]

    first.far.list_of = second.far.list_of = lambda _: unassigned("9")
    assert [await first.shown(), await second.shown()] == [[UNASSIGNED], []]
    second.far.list_of = lambda _: unassigned("8")
    assert await second.shown() == [UNASSIGNED]
