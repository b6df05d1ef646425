"""What every outbox promises. Another store joins by adding its place to `PLACES`."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import pytest
from msgspec.structs import replace

from callcast.calls.model import CallEvent, ChangeSet, Direction, Disposition, Known, PollRecord, State, Target
from callcast.outbox.sqlite.store import open_outbox
from callcast.ports.outbox import Acked, Outbox, Overdue, Pruned
from callcast.ports.sink import Delivery, Filter
from tests.builders import NINE, call, change, event, source_event
from tests.clock import TurnedClock
from tests.outbox import busy


class SinkContext(Protocol):
    """Where an outbox can be opened, closed, and opened again. Sets `clock.busy` while one is open."""

    clock: TurnedClock

    def open(self, **limits: float) -> AbstractAsyncContextManager[Outbox]: ...


class SqlitePlace:
    def __init__(self, path: Path) -> None:
        self.clock = TurnedClock()
        self._path = path / "data"

    def open(self, **limits: float) -> AbstractAsyncContextManager[Outbox]:
        chosen: dict[str, Any] = {"retention_h": 72, "outbox_max_mb": 100, "dead_letter_days": 30, **limits}
        return open_outbox(self._path, self.clock, **chosen)


PLACES = {"sqlite": SqlitePlace}


@pytest.fixture(params=PLACES)
def context(request: pytest.FixtureRequest, tmp_path: Path) -> SinkContext:
    return PLACES[request.param](tmp_path)


@pytest.fixture
async def outbox(context: SinkContext) -> AsyncIterator[Outbox]:
    async with context.open() as outbox:
        await outbox.subscribe({"crm": Filter()})
        yield outbox


def named(deliveries: Sequence[Delivery]) -> list[tuple[str, str]]:
    return [(one.event.key.split("/")[-1], one.event.type) for one in deliveries]


async def claimed(outbox: Outbox, sink: str = "crm", limit: int = 100) -> list[tuple[str, str]]:
    return named(await outbox.claim(sink, limit=limit))


async def pending(outbox: Outbox) -> dict[str, int]:
    return {one.sink: one.pending for one in (await outbox.stats()).sinks}


async def life(outbox: Outbox, name: str = "a") -> None:
    """Record a whole call: ringing, answered, ended."""
    await outbox.record("acme", None, change(event(name, "call.ringing", 1)))
    await outbox.record("acme", None, change(event(name, "call.answered", 2), event(name, "call.ended", 3)))


# What is known


async def test_known_comes_back(context: SinkContext) -> None:
    """Calls that live, the last poll of each target and the notes are there after a restart."""
    target = Target(source="acme", extension_id="101")
    account = Target(source="beta")
    async with context.open() as outbox:
        await outbox.record("acme", PollRecord(target=target, taken_at=context.clock.now()), change(event("a")))
        await outbox.record("beta", PollRecord(target=account, taken_at=context.clock.now()), change())
        await outbox.note("acme", "penalty", b"later")
        await outbox.note("acme", "gone", b"x")
        await outbox.note("acme", "gone", None)
    async with context.open() as outbox:
        await outbox.note("gamma", "penalty", b"later")
    async with context.open() as outbox:
        assert set(await outbox.sources()) == {"acme", "beta", "gamma"}
        acme, beta = await outbox.known("acme"), await outbox.known("beta")
        assert await outbox.known("unheard_of") == Known(calls={}, polls={}, notes={})
    assert acme.calls == {"101/a": call("a")}
    assert acme.polls == {target: context.clock.now()}
    assert beta.polls == {account: context.clock.now()}
    assert acme.notes == {"penalty": b"later"}


async def test_the_ended_are_recalled_by_session(outbox: Outbox) -> None:
    """Ended calls are not among the known, but the memory of their session gives them back, newest state only."""
    await life(outbox, "a")
    await outbox.record("acme", None, change(event("b")))
    assert set((await outbox.known("acme")).calls) == {"101/b"}
    assert await outbox.recall("acme", ["a", "unknown"]) == [call("a", state=State.ENDED, sequence=3)]
    assert await outbox.recall("beta", ["a"]) == []


async def test_the_latest_calls_of_all_sources(context: SinkContext, outbox: Outbox) -> None:
    """All that are open, and of the ended ones those that ended last, as many as are wanted."""
    await outbox.record("acme", None, change(event("open")))
    for name in "abc":
        await context.clock.turn(1)
        ended = call(name, state=State.ENDED, source=f"source_{name}")
        await outbox.record(ended.source, None, ChangeSet(calls=(ended,)))
    assert {one.session_id for one in await outbox.latest(2)} == {"open", "b", "c"}
    assert {one.source for one in await outbox.latest(10)} == {"acme", "source_a", "source_b", "source_c"}


async def test_what_has_not_settled_is_known(outbox: Outbox) -> None:
    """A call that reads ended but has not settled is among the known, so that the poller settles it."""
    unsettled = replace(call("a", state=State.ENDED, sequence=0), provisional_since=call().started_at)
    await outbox.record("acme", None, ChangeSet(calls=(unsettled,)))
    assert (await outbox.known("acme")).calls == {"101/a": unsettled}


async def test_history_in_order(context: SinkContext, outbox: Outbox) -> None:
    """A client that resumes a stream reads the events in the order of their recording, page by page."""
    assert await outbox.last_seq() == 0
    await life(outbox)
    first = await outbox.history(after_seq=0, limit=2)
    rest = await outbox.history(after_seq=first[-1].seq, limit=10)
    assert [one.event.type for one in [*first, *rest]] == ["call.ringing", "call.answered", "call.ended"]
    assert first[0].event == event("a", "call.ringing", 1)
    assert first[0].recorded_at == context.clock.now()
    assert await outbox.last_seq() == rest[-1].seq


# Claiming


async def test_one_per_call_oldest_first(outbox: Outbox) -> None:
    """A claim gives at most one event of each call, its oldest, and the oldest of all first."""
    for name in ("a", "b", "c"):
        await life(outbox, name)
    assert await claimed(outbox, limit=2) == [("a", "call.ringing"), ("b", "call.ringing")]
    assert await claimed(outbox) == [("c", "call.ringing")]
    assert await claimed(outbox) == []


async def test_a_sink_that_waits_gets_one_per_call_too(outbox: Outbox) -> None:
    """What is recorded while a sink has nothing else due comes as it would otherwise: in order, one of each call."""
    assert await claimed(outbox) == []
    await outbox.record(
        "acme", None, change(event("b", "call.ringing"), event("a", "call.ringing"), event("b", "call.ended", 2))
    )
    assert await claimed(outbox, limit=1) == [("b", "call.ringing")]
    assert await claimed(outbox) == [("a", "call.ringing")]
    assert await claimed(outbox) == []


async def test_settling_brings_the_next(outbox: Outbox) -> None:
    """Delivered, dead or expired: the next event of the call follows, whatever the ending was."""
    await life(outbox)
    (ringing,) = await outbox.claim("crm", limit=9)
    await outbox.expire(ringing)
    (answered,) = await outbox.claim("crm", limit=9)
    assert answered.event.type == "call.answered"
    await outbox.dead_letter(answered, reason="413", detail="too large", took_s=0.1)
    (ended,) = await outbox.claim("crm", limit=9)
    assert ended.event.type == "call.ended"
    await outbox.ack([Acked(ended, 0.1)])
    assert await claimed(outbox) == []
    (stats,) = (await outbox.stats()).sinks
    assert (stats.pending, stats.dead, stats.oldest_recorded_at) == (0, 1, None)


async def test_the_same_id_twice_is_nothing(outbox: Outbox) -> None:
    """An event that is recorded again is not pending again, neither before nor after its delivery."""
    await outbox.record("acme", None, change(event("a")))
    await outbox.record("acme", None, change(event("a"), event("b")))
    assert await pending(outbox) == {"crm": 2}
    for delivery in await outbox.claim("crm", limit=9):
        await outbox.ack([Acked(delivery, 0)])
    await outbox.record("acme", None, change(event("a")))
    assert await pending(outbox) == {"crm": 0}
    assert len(await outbox.history(after_seq=0, limit=9)) == 2


async def test_again_waits_for_its_time(context: SinkContext, outbox: Outbox) -> None:
    """An event to be tried again comes back at its time, counted, and holds up its own call only."""
    await life(outbox, "a")
    (first,) = await outbox.claim("crm", limit=9)
    at = context.clock.now() + timedelta(seconds=30)
    await outbox.retry(first, at=at, reason="timeout", detail="no answer", took_s=15)
    await outbox.record("acme", None, change(event("b")))
    assert await claimed(outbox) == [("b", "call.ringing")]
    await context.clock.turn(29.9)
    assert await claimed(outbox) == []
    await context.clock.turn(0.1)
    (second,) = await outbox.claim("crm", limit=9)
    assert (first.attempt, second.attempt, second.event) == (1, 2, first.event)
    assert second.first_tried_at == at - timedelta(seconds=30)
    assert first.first_tried_at is None


async def test_due_again_comes_before_the_younger(context: SinkContext, outbox: Outbox) -> None:
    """Among what is due the oldest event comes first, also when its time came later than the others'."""
    for name in ("a", "b"):
        await outbox.record("acme", None, change(event(name)))
    (first, _) = await outbox.claim("crm", limit=2)
    await outbox.retry(first, at=context.clock.now() + timedelta(seconds=1), reason="503", detail="", took_s=0)
    await outbox.record("acme", None, change(event("c")))
    await context.clock.turn(1)
    assert await claimed(outbox) == [("a", "call.ringing"), ("c", "call.ringing")]


async def test_release_counts_nothing(outbox: Outbox) -> None:
    """A delivery that is given back is claimed again as the same attempt."""
    await outbox.record("acme", None, change(event("a")))
    (first,) = await outbox.claim("crm", limit=9)
    await outbox.release(first)
    (second,) = await outbox.claim("crm", limit=9)
    assert second == first


async def test_a_restart_sends_what_was_in_flight(context: SinkContext) -> None:
    """What was claimed and not settled is pending after a restart: same id, same attempt; reasons and times stay."""
    async with context.open() as outbox:
        await outbox.subscribe({"crm": Filter()})
        await outbox.record("acme", None, change(event("a"), event("b")))
        in_flight, tried = await outbox.claim("crm", limit=9)
        at = context.clock.now() + timedelta(seconds=5)
        await outbox.retry(tried, at=at, reason="timeout", detail="", took_s=1)
    async with context.open() as outbox:
        await outbox.subscribe({"crm": Filter()})
        assert await outbox.claim("crm", limit=9) == [in_flight]
        await context.clock.turn(5)
        (again,) = await outbox.claim("crm", limit=9)
        assert (again.event.id, again.attempt) == (tried.event.id, 2)


async def test_sinks_do_not_touch_each_other(outbox: Outbox) -> None:
    """Each sink has its own pending deliveries: one that claims, waits or is done changes nothing for another."""
    await outbox.subscribe({"crm": Filter(), "lines": Filter(events=("call.ended", "source.*"))})
    await life(outbox)
    await outbox.record("acme", None, change(source_event()))
    assert await pending(outbox) == {"crm": 4, "lines": 2}
    assert await claimed(outbox) == [("a", "call.ringing"), ("acme", "source.degraded")]
    assert await claimed(outbox, "lines") == [("a", "call.ended"), ("acme", "source.degraded")]


async def test_a_cancelled_claim_takes_nothing(outbox: Outbox) -> None:
    """A claim whose caller is cancelled leaves nothing in flight."""
    await outbox.record("acme", None, change(event("a")))
    claim = asyncio.ensure_future(outbox.claim("crm", limit=9))
    await asyncio.sleep(0)
    claim.cancel()
    await asyncio.gather(claim, return_exceptions=True)
    assert await claimed(outbox) == [("a", "call.ringing")]


async def test_a_cancelled_settlement_settles(outbox: Outbox) -> None:
    """A settlement whose caller is cancelled still happens, so that a delivered event is not sent again."""
    await life(outbox)
    (first,) = await outbox.claim("crm", limit=9)
    settling = asyncio.ensure_future(outbox.ack([Acked(first, 0)]))
    await asyncio.sleep(0)
    settling.cancel()
    await asyncio.gather(settling, return_exceptions=True)
    await outbox.check()  # whatever was begun before it is on the disk as well
    assert await claimed(outbox) == [("a", "call.answered")]


# Probing, recovering, lapsing


async def test_probes_go_round(context: SinkContext, outbox: Outbox) -> None:
    """Each probe is the oldest event of the next call, due or not, but not one whose call is in flight."""
    for name in ("a", "b", "c"):
        await life(outbox, name)
    later = context.clock.now() + timedelta(hours=1)
    for one in await outbox.claim("crm", limit=2):
        await outbox.retry(one, at=later, reason="503", detail="", took_s=0)
    first = await outbox.claim_probe("crm", after_seq=0)
    assert first is not None
    assert named([first]) == [("a", "call.ringing")]
    second = await outbox.claim_probe("crm", after_seq=0)
    assert second is not None
    assert named([second]) == [("b", "call.ringing")]
    third = await outbox.claim_probe("crm", after_seq=second.seq)
    assert third is not None
    assert named([third]) == [("c", "call.ringing")]
    assert await outbox.claim_probe("crm", after_seq=0) is None


async def test_no_probe_of_what_the_remote_side_holds(context: SinkContext, outbox: Outbox) -> None:
    """An event that the remote side postponed is not a probe before its time."""
    await outbox.record("acme", None, change(event("a")))
    (one,) = await outbox.claim("crm", limit=1)
    at = context.clock.now() + timedelta(seconds=60)
    await outbox.retry(one, at=at, reason="408", detail="", took_s=0, held=True)
    assert await outbox.claim_probe("crm", after_seq=0) is None
    await context.clock.turn(60)
    assert await claimed(outbox) == [("a", "call.ringing")]


async def test_fresh_is_the_first_of_a_new_call(context: SinkContext, outbox: Outbox) -> None:
    """Only the first event of a call that the sink has no event of, and that was never tried, is fresh."""
    await life(outbox, "old")
    (one,) = await outbox.claim("crm", limit=1)
    await outbox.retry(one, at=context.clock.now(), reason="503", detail="", took_s=0)
    mark = await outbox.last_seq()
    await outbox.record("acme", None, change(event("old", "call.corrected", 4), source_event()))
    assert await outbox.claim_probe("crm", after_seq=0, fresh=True) is None
    await outbox.record("acme", None, change(event("new"), event("new", "call.answered", 2)))
    fresh = await outbox.claim_probe("crm", after_seq=mark, fresh=True)
    assert fresh is not None
    assert named([fresh]) == [("new", "call.ringing")]
    assert await outbox.claim_probe("crm", after_seq=mark, fresh=True) is None
    await outbox.retry(fresh, at=context.clock.now(), reason="503", detail="", took_s=0)
    await outbox.make_due("crm")
    assert await outbox.claim_probe("crm", after_seq=mark, fresh=True) is None


async def test_fresh_depends_on_the_filter(outbox: Outbox) -> None:
    """For a sink that selects only ends, a call's end is its first event; for one that had its ringing, it is not."""
    await outbox.subscribe({"crm": Filter(), "ends": Filter(events=("call.ended",))})
    await outbox.record("acme", None, change(event("a")))
    (ringing,) = await outbox.claim("crm", limit=1)
    await outbox.ack([Acked(ringing, 0)])
    await outbox.record("acme", None, change(event("a", "call.ended", 2)))
    assert await outbox.claim_probe("crm", after_seq=0, fresh=True) is None
    assert await outbox.claim_probe("ends", after_seq=0, fresh=True) is not None


async def test_make_due(context: SinkContext, outbox: Outbox) -> None:
    """After a recovery everything that waits is due at once, however much it is."""
    await outbox.record("acme", None, change(*(event(f"c{n}") for n in range(700))))
    later = context.clock.now() + timedelta(hours=5)
    deliveries = await outbox.claim("crm", limit=700)
    await asyncio.gather(*(outbox.retry(one, at=later, reason="503", detail="", took_s=0) for one in deliveries))
    assert await claimed(outbox) == []
    await outbox.make_due("crm")
    again = await outbox.claim("crm", limit=1000)
    assert [one.seq for one in again] == [one.seq for one in deliveries]
    assert {one.attempt for one in again} == {2}


async def test_make_due_leaves_what_is_held(context: SinkContext, outbox: Outbox) -> None:
    """What the remote side postponed waits on where that is chosen."""
    later = context.clock.now() + timedelta(hours=1)
    await outbox.record("acme", None, change(event("ours"), event("theirs")))
    for one in await outbox.claim("crm", limit=2):
        held = one.event.key == "101/theirs"
        await outbox.retry(one, at=later, reason="408", detail="", took_s=0, held=held)
    await outbox.make_due("crm", held=False)
    assert await claimed(outbox) == [("ours", "call.ringing")]
    await outbox.make_due("crm")
    assert await claimed(outbox) == [("theirs", "call.ringing")]


async def test_lapse(context: SinkContext, outbox: Outbox) -> None:
    """What outlived its time goes at once: live events expire, others die; a call in flight is left alone."""
    await life(outbox, "flying")
    (flying,) = await outbox.claim("crm", limit=1)
    await life(outbox, "a")
    await context.clock.turn(61)
    await outbox.record("acme", None, change(event("young")))
    minute_ago = context.clock.now() - timedelta(seconds=60)
    long_ago = context.clock.now() - timedelta(hours=75)
    assert await outbox.expire_overdue("crm", live_before=minute_ago, final_before=long_ago) == Overdue(expired=2)
    (ended, young) = await outbox.claim("crm", limit=9)
    assert named([ended, young]) == [("a", "call.ended"), ("young", "call.ringing")]
    await outbox.retry(ended, at=context.clock.now(), reason="503", detail="", took_s=0)
    await outbox.ack([Acked(flying, 0)])
    assert await outbox.expire_overdue("crm", live_before=minute_ago, final_before=minute_ago) == Overdue(
        expired=1, dead=1
    )
    (stats,) = (await outbox.stats()).sinks
    assert (stats.pending, stats.dead) == (2, 1)


async def test_nothing_final_lapses_untried(context: SinkContext, outbox: Outbox) -> None:
    """However old: a sink that was never tried with it cannot have refused it. Others behind it lapse all the same."""
    for name in ("untried", "tried"):
        await outbox.record("acme", None, change(event(name, "call.ended", 1)))
    (untried, tried) = await outbox.claim("crm", limit=9)
    await outbox.retry(tried, at=context.clock.now(), reason="503", detail="", took_s=0)
    await outbox.release(untried)
    await context.clock.turn(1)
    now = context.clock.now()
    assert await outbox.expire_overdue("crm", live_before=now, final_before=now) == Overdue(dead=1)
    assert await claimed(outbox) == [("untried", "call.ended")]


async def test_giving_up_keeps_the_reason(outbox: Outbox) -> None:
    """A final event whose time to live is over becomes a dead letter."""
    await outbox.record("acme", None, change(event("a", "call.ended", 1)))
    (ended,) = await outbox.claim("crm", limit=1)
    await outbox.expire(ended)
    (stats,) = (await outbox.stats()).sinks
    assert (stats.pending, stats.dead) == (0, 1)


# A wall clock that was wrong


class Hours:
    """What the wall clock says at each start."""

    def __init__(self, context: SinkContext) -> None:
        self._context = context

    def use_timezone(self, hours: float) -> datetime:
        self._context.clock = TurnedClock(NINE + timedelta(hours=hours))
        return self._context.clock.now()


async def test_nothing_is_due_hours_after_a_clock_that_was_ahead(context: SinkContext) -> None:
    """Recorded or tried while the clock was two hours ahead: due within the delay that follows such an attempt."""
    clock = Hours(context)
    async with context.open() as outbox:
        await outbox.subscribe({"crm": Filter()})
        await outbox.record("acme", None, change(event("old", "call.ended", 1)))
    now = clock.use_timezone(2)
    async with context.open() as outbox:
        await outbox.subscribe({"crm": Filter()})
        await outbox.record(
            "acme", None, change(event("live"), event("final", "call.ended", 1), event("held", "call.ended", 1))
        )
        for delivery in await outbox.claim("crm", limit=9):
            held = delivery.event.key == "101/held"
            at = now + timedelta(seconds=3600 if held else 1)
            await outbox.retry(delivery, at=at, reason="503", detail="", took_s=0, held=held)
    now = clock.use_timezone(0.1)
    async with context.open() as outbox:
        assert await claimed(outbox) == []
        await context.clock.turn(1.2)
        found = await outbox.claim("crm", limit=9)
        assert named(found) == [("old", "call.ended"), ("live", "call.ringing"), ("final", "call.ended")]
        assert [one.pending_since <= now for one in found] == [True] * 3
        assert found[1].recorded_at == found[1].pending_since == now, "the age starts at zero"
        await context.clock.turn(3600)
        assert await claimed(outbox) == [("held", "call.ended")]


async def test_a_live_event_waits_no_longer_than_it_lives(context: SinkContext) -> None:
    """It was recorded by a clock two hours ahead, and its sink requested a pause until its time would be over."""
    clock = Hours(context)
    now = clock.use_timezone(2)
    async with context.open() as outbox:
        await outbox.subscribe({"crm": Filter()})
        await outbox.record("acme", None, change(event("live")))
        (live,) = await outbox.claim("crm", limit=9)
        at = now + timedelta(seconds=60)
        await outbox.retry(live, at=at, reason="408", detail="", took_s=0, held=True)
    clock.use_timezone(0)
    async with context.open() as outbox:
        await context.clock.turn(59)
        assert await claimed(outbox) == []
        await context.clock.turn(1)
        assert await claimed(outbox) == [("live", "call.ringing")]


async def test_due_times_survive_a_restart(context: SinkContext) -> None:
    """Where the clock was right nothing is due earlier than it was."""
    clock = Hours(context)
    async with context.open() as outbox:
        await outbox.subscribe({"crm": Filter()})
        await outbox.record("acme", None, change(event("a", "call.ended", 1)))
        for wait_s in (1, 5, 30):
            (one,) = await outbox.claim("crm", limit=9)
            at = context.clock.now() + timedelta(seconds=wait_s)
            await outbox.retry(one, at=at, reason="503", detail="", took_s=0)
            await context.clock.turn(wait_s - 10 if wait_s == 30 else wait_s)
        at_s = context.clock.monotonic()
    clock.use_timezone(at_s / 3600)
    async with context.open() as outbox:
        await context.clock.turn(9.9)
        assert await claimed(outbox) == []
        await context.clock.turn(0.1)
        assert await claimed(outbox) == [("a", "call.ended")]


async def test_what_an_earlier_run_tried_is_tried_once_more(context: SinkContext) -> None:
    """The clock was days behind: what seems old is not a dead letter before an attempt since the start."""
    clock = Hours(context)
    async with context.open() as outbox:
        await outbox.subscribe({"crm": Filter()})
        await outbox.record("acme", None, change(event("a"), event("b", "call.ended", 1)))
        for one in await outbox.claim("crm", limit=9):
            await outbox.retry(one, at=context.clock.now(), reason="503", detail="", took_s=0)
    now = clock.use_timezone(24 * 10)
    async with context.open() as outbox:
        old = {"live_before": now - timedelta(seconds=60), "final_before": now - timedelta(hours=75)}
        assert await outbox.expire_overdue("crm", **old) == Overdue(expired=1)
        (one,) = await outbox.claim("crm", limit=9)
        assert (one.first_tried_at, one.attempt) == (None, 2)
        await outbox.retry(one, at=now, reason="503", detail="", took_s=0)
        assert await outbox.expire_overdue("crm", **old) == Overdue(dead=1)


# Waiting


async def waiting(context: SinkContext, outbox: Outbox, **how: Any) -> "asyncio.Task[None]":
    context.clock.busy = busy(outbox)
    task = asyncio.ensure_future(outbox.wait("crm", **{"timeout_s": 3600, **how}))
    await context.clock.settle()
    return task


async def test_wait_ends_when_something_is_recorded(context: SinkContext, outbox: Outbox) -> None:
    """A waiting task is woken by a new event without any time passing."""
    task = await waiting(context, outbox)
    assert not task.done()
    await outbox.record("acme", None, change(event("a")))
    await context.clock.settle()
    assert task.done()


async def test_wait_ends_at_once_when_something_is_due(context: SinkContext, outbox: Outbox) -> None:
    """A wait for what is there already is none, also when it was brought in just now."""
    await outbox.record("acme", None, change(event("a")))
    assert (await waiting(context, outbox)).done()


async def test_wait_ends_when_a_pause_is_over(context: SinkContext, outbox: Outbox) -> None:
    """A wait lasts until the next event's time has come, not longer, and not shorter."""
    await outbox.record("acme", None, change(event("a")))
    (one,) = await outbox.claim("crm", limit=1)
    task = await waiting(context, outbox)
    at = context.clock.now() + timedelta(seconds=30)
    await outbox.retry(one, at=at, reason="503", detail="", took_s=0)
    await context.clock.settle()
    assert task.done(), "a settlement may bring something due, or another time"
    task = await waiting(context, outbox)
    await context.clock.turn(29)
    assert not task.done()
    await context.clock.turn(1)
    assert task.done()


async def test_wait_ends_with_its_timeout(context: SinkContext, outbox: Outbox) -> None:
    """A wait for nothing ends after its time."""
    task = await waiting(context, outbox, timeout_s=10)
    await context.clock.turn(9)
    assert not task.done()
    await context.clock.turn(1)
    assert task.done()


async def test_wait_passes_over_what_is_in_flight(context: SinkContext, outbox: Outbox) -> None:
    """An event in flight, and those behind it, are nothing to wait for; giving it back is."""
    await life(outbox)
    (one,) = await outbox.claim("crm", limit=1)
    task = await waiting(context, outbox)
    assert not task.done()
    await outbox.release(one)
    await context.clock.settle()
    assert task.done()


async def test_wait_for_new_calls_only(context: SinkContext, outbox: Outbox) -> None:
    """Who waits for a new call is not woken by another event of an old one."""
    await life(outbox, "old")
    task = await waiting(context, outbox, fresh_after=await outbox.last_seq())
    await outbox.record("acme", None, change(source_event()))
    await context.clock.settle()
    assert not task.done()
    await outbox.record("acme", None, change(event("new")))
    await context.clock.settle()
    assert task.done()


# Sinks that come and go


async def test_a_new_sink_starts_now(outbox: Outbox) -> None:
    """A sink that is added gets what is recorded from then on, nothing of before."""
    await life(outbox, "before")
    await outbox.subscribe({"crm": Filter(), "late": Filter()})
    await outbox.record("acme", None, change(event("after")))
    assert await claimed(outbox, "late") == [("after", "call.ringing")]


async def test_a_removed_sink_keeps_its_deliveries(context: SinkContext) -> None:
    """The backlog of a removed sink stays and shows; when the name comes back, also after a restart, it resumes."""
    async with context.open() as outbox:
        await outbox.subscribe({"crm": Filter()})
        await outbox.record("acme", None, change(event("a")))
        await outbox.subscribe({})
        await outbox.record("acme", None, change(event("b")))
        assert await pending(outbox) == {"crm": 1}
    async with context.open() as outbox:
        await outbox.subscribe({"crm": Filter()})
        assert await claimed(outbox) == [("a", "call.ringing")]


async def test_a_removed_sink_loses_its_deliveries_in_the_end(context: SinkContext, outbox: Outbox) -> None:
    """After the retention a removed sink's pending deliveries and dead letters go, and are counted; then it shows no
    more.
    """
    await life(outbox)
    (one,) = await outbox.claim("crm", limit=1)
    await outbox.dead_letter(one, reason="413", detail="", took_s=0)
    await outbox.subscribe({"lines": Filter()})
    await context.clock.turn(3600 * 71)
    assert (await outbox.prune(context.clock.now())).orphaned == {}
    await context.clock.turn(3600 * 2)
    pruned = await outbox.prune(context.clock.now())
    assert (pruned.dropped, pruned.orphaned) == ({}, {"crm": 3})
    assert await pending(outbox) == {"lines": 0}


async def test_what_a_removed_sink_lost_does_not_come_back(context: SinkContext, outbox: Outbox) -> None:
    """A name that is used again after the retention starts with nothing, although its queue was in memory."""
    await outbox.record("acme", None, change(event("a"), event("b")))
    (one,) = await outbox.claim("crm", limit=1)
    await outbox.ack([Acked(one, 0.0)])
    await outbox.subscribe({})
    await context.clock.turn(3600 * 73)
    assert (await outbox.prune(context.clock.now())).orphaned == {"crm": 1}
    await outbox.subscribe({"crm": Filter()})
    assert await claimed(outbox) == []


async def test_an_unknown_sink_is_pending_nothing(outbox: Outbox) -> None:
    """A name that never was a sink has nothing to claim."""
    await life(outbox)
    assert await claimed(outbox, "unknown") == []
    assert await outbox.claim_probe("unknown", after_seq=0) is None


# Forgetting


async def settle_all(outbox: Outbox) -> None:
    while deliveries := await outbox.claim("crm", limit=500):
        await asyncio.gather(*(outbox.ack([Acked(one, 0)]) for one in deliveries))


async def test_the_settled_go_after_the_retention(context: SinkContext, outbox: Outbox) -> None:
    """Settled events and the memory of their calls are kept for the retention; what is pending, dead or live stays."""
    await life(outbox, "settled")
    await settle_all(outbox)
    await life(outbox, "pending")
    (one,) = await outbox.claim("crm", limit=1)
    await outbox.dead_letter(one, reason="413", detail="", took_s=0)
    await outbox.record("acme", None, change(event("live")))
    await context.clock.turn(3600 * 71)
    assert (await outbox.prune(context.clock.now())).events == 0
    assert len(await outbox.recall("acme", ["settled"])) == 1
    await context.clock.turn(3600 * 2)
    pruned = await outbox.prune(context.clock.now())
    assert (pruned.events, pruned.calls, pruned.dropped) == (3, 1, {})
    assert await outbox.recall("acme", ["settled"]) == []
    assert len(await outbox.recall("acme", ["pending"])) == 1
    assert set((await outbox.known("acme")).calls) == {"101/live"}
    assert len(await outbox.history(after_seq=0, limit=9)) == 4


async def test_a_clock_that_is_weeks_ahead_deletes_nothing_early(context: SinkContext) -> None:
    """The time of the last poll is the platform's: nothing is older than a day after it."""
    poll = PollRecord(target=Target(source="acme"), taken_at=context.clock.now())
    async with context.open() as outbox:
        await outbox.subscribe({"crm": Filter()})
        await outbox.record("acme", poll, change(event("a", "call.ended", 1), event("b", "call.ended", 1)))
        dead, settled = await outbox.claim("crm", limit=9)
        await outbox.dead_letter(dead, reason="413", detail="", took_s=0)
        await outbox.ack([Acked(settled, 0)])
        await context.clock.turn(40 * 86400)
        assert await outbox.prune(context.clock.now()) == Pruned()
        assert (await outbox.stats()).sinks[0].dead == 1
        await outbox.record("acme", replace(poll, taken_at=context.clock.now()), change())
        assert (await outbox.prune(context.clock.now())).events == 2
        assert (await outbox.stats()).sinks[0].dead == 0


async def test_a_call_is_remembered_for_an_hour_whatever_the_retention(context: SinkContext) -> None:
    """Its record lingers upstream, and may come back: its events may go before, the memory of its end may not."""
    async with context.open(retention_h=0.1) as outbox:
        await outbox.record("acme", None, change(event("a", "call.ended", 1)))
        await context.clock.turn(3500)
        pruned = await outbox.prune(context.clock.now())
        assert (pruned.events, pruned.calls) == (1, 0)
        assert len(await outbox.recall("acme", ["a"])) == 1
        await context.clock.turn(3700)
        assert (await outbox.prune(context.clock.now())).calls == 1


async def test_what_settles_late_goes_too(context: SinkContext, outbox: Outbox) -> None:
    """An event that was pending when its time came goes within the hour after it has been settled."""
    await life(outbox)
    await context.clock.turn(3600 * 73)
    assert (await outbox.prune(context.clock.now())).events == 0
    await settle_all(outbox)
    await context.clock.turn(3600)
    pruned = await outbox.prune(context.clock.now())
    assert (pruned.events, pruned.calls) == (3, 1)


async def test_dead_letters_go_after_their_days(context: SinkContext, outbox: Outbox) -> None:
    """A dead letter is kept for its days, and then goes with its event."""
    await outbox.record("acme", None, change(event("a", "call.ended", 1)))
    (one,) = await outbox.claim("crm", limit=1)
    await outbox.dead_letter(one, reason="413", detail="", took_s=0)
    await context.clock.turn(3600 * 24 * 29)
    await outbox.prune(context.clock.now())
    assert [one.dead for one in (await outbox.stats()).sinks] == [1]
    await context.clock.turn(3600 * 24 * 1.1)
    pruned = await outbox.prune(context.clock.now())
    assert [one.dead for one in (await outbox.stats()).sinks] == [0]
    assert (pruned.events, pruned.dropped) == (1, {})


async def test_many_are_pruned_in_one_go(context: SinkContext, outbox: Outbox) -> None:
    """One call of prune deletes all that is old, in as many slices as needed."""
    await outbox.record("acme", None, change(*(event(f"c{n}", "call.ended", 1) for n in range(1000))))
    await settle_all(outbox)
    await context.clock.turn(3600 * 73)
    pruned = await outbox.prune(context.clock.now())
    assert (pruned.events, pruned.calls) == (1000, 1000)


async def test_the_cap_takes_the_settled_first(context: SinkContext) -> None:
    """At the cap settled events go before their retention is over, oldest first, and nothing that is pending."""
    async with context.open(outbox_max_mb=5) as outbox:
        await outbox.subscribe({"crm": Filter()})
        await outbox.record("acme", None, change(*(event(f"s{n}", "call.ended", 1) for n in range(2000))))
        await settle_all(outbox)
        await context.clock.turn(3601)
        await outbox.record("acme", None, change(*(event(f"b{n}", "call.ended", 1) for n in range(1000))))
        pruned = await outbox.prune(context.clock.now())
        assert (0 < pruned.events < 2000, pruned.dropped) == (True, {})
        oldest_left = (await outbox.history(after_seq=0, limit=1))[0]
        assert oldest_left.event.key == f"101/s{pruned.events}"
        assert await pending(outbox) == {"crm": 1000}


async def test_the_cap_drops_of_the_sink_furthest_behind(context: SinkContext) -> None:
    """When nothing settled is left, the oldest of the sink furthest behind are dropped, counted, and no more."""
    async with context.open(outbox_max_mb=3) as outbox:
        await outbox.subscribe({"crm": Filter(), "slow": Filter()})
        await outbox.record("acme", None, change(*(event(f"s{n}", "call.ended", 1) for n in range(2500))))
        await settle_all(outbox)
        await context.clock.turn(3601)
        await outbox.record("acme", None, change(event("new", "call.ended", 1)))
        pruned = await outbox.prune(context.clock.now())
        after = await pending(outbox)
        assert pruned.dropped == {"slow": 2501 - after["slow"]}
        assert (after["crm"], 0 < after["slow"] < 2501) == (1, True)
        left = [one.event.key for one in await outbox.claim("slow", limit=10000)]
        assert left == [f"101/s{n}" for n in range(2501 - len(left), 2500)] + ["101/new"]
        assert (await outbox.prune(context.clock.now())).dropped == {}


async def test_what_is_claimed_meanwhile_is_not_dropped(context: SinkContext) -> None:
    """While the cap drops deliveries, none of them is sent, and none that is being sent is dropped."""
    async with context.open(outbox_max_mb=2) as outbox:
        await outbox.subscribe({"slow": Filter()})
        await outbox.record("acme", None, change(*(event(f"s{n}", "call.ended", 1) for n in range(2500))))
        taken = [*await outbox.claim("slow", limit=1)]
        pruning = asyncio.create_task(outbox.prune(context.clock.now()))
        while not pruning.done():
            await asyncio.sleep(0)
            taken += await outbox.claim("slow", limit=1)
        dropped = (await pruning).dropped["slow"]
        await outbox.ack([Acked(one, 0.0) for one in taken])
        assert await pending(outbox) == {"slow": 2500 - dropped - len(taken)}


async def test_numbers_are_never_used_again(context: SinkContext) -> None:
    """The number of a forgotten event is never given to another, also after a restart."""
    async with context.open() as outbox:
        await outbox.record("acme", None, change(event("a", "call.ended", 1)))
        last = await outbox.last_seq()
        await context.clock.turn(3600 * 73)
        assert (await outbox.prune(context.clock.now())).events == 1
    async with context.open() as outbox:
        await outbox.record("acme", None, change(event("b")))
        assert await outbox.last_seq() > last


# All together


async def test_a_failing_operation_fails_alone(outbox: Outbox) -> None:
    """Of operations that share a commit, one that cannot be done takes no other with it."""
    good = [outbox.record("acme", None, change(event(f"c{n}"))) for n in range(5)]
    bad = outbox.note("acme", "name", object())  # type: ignore[arg-type]
    results = await asyncio.gather(*good[:3], bad, *good[3:], return_exceptions=True)
    assert [type(one).__name__ for one in results if one is not None] == ["ProgrammingError"]
    assert await pending(outbox) == {"crm": 5}


async def test_a_failed_recording_leaves_nothing(outbox: Outbox) -> None:
    """A change that cannot be kept whole is not kept at all, and what comes next is not taken for it."""
    half = ChangeSet(calls=(), events=(event("a"), object()))  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        await outbox.record("acme", None, half)
    assert await pending(outbox) == {"crm": 0}
    await outbox.record("acme", None, change(event("b")))
    assert await claimed(outbox) == [("b", "call.ringing")]


async def test_check_and_warnings(outbox: Outbox) -> None:
    """A sound store takes a write, and has nothing to warn of."""
    await outbox.check()
    assert outbox.warnings() == ()


# Directions that change


def outbound(name: str, type_: str, sequence: int) -> CallEvent:
    one = event(name, type_, sequence)
    return replace(one, call=replace(one.call, direction=Direction.OUTBOUND))


ONE_WAY = {"in": Filter(directions=("inbound",)), "out": Filter(directions=("outbound",))}


async def test_a_sink_gets_all_of_a_call_once_it_got_some(outbox: Outbox) -> None:
    """A call that turns inbound: who got its first event gets its end, who did not gets what is inbound."""
    await outbox.subscribe(ONE_WAY)
    await outbox.record("acme", None, change(outbound("a", "call.dialing", 1)))
    await outbox.record("acme", None, change(event("a", "call.ended", 2)))
    assert await pending(outbox) == {"in": 1, "out": 2}


async def test_a_direction_that_changes_within_one_change(outbox: Outbox) -> None:
    """The same where both events are recorded together."""
    await outbox.subscribe(ONE_WAY)
    await outbox.record(
        "acme", None, change(event("a"), outbound("a", "call.ended", 2), outbound("b", "call.ended", 1))
    )
    assert await pending(outbox) == {"in": 2, "out": 2}


async def test_the_globs_and_extensions_of_a_filter_hold_all_along(outbox: Outbox) -> None:
    """Only the direction decides once: of the later events the sink gets those that the rest of its filter admits."""
    ends = Filter(events=("call.ended",), directions=("outbound",))
    await outbox.subscribe({"ends": ends, "other": Filter(directions=("outbound",), extensions=("102",))})
    await outbox.record("acme", None, change(outbound("a", "call.dialing", 1)))
    await outbox.record("acme", None, change(event("a", "call.ended", 2)))
    assert await pending(outbox) == {"ends": 0, "other": 0}
    await outbox.record("acme", None, change(outbound("b", "call.ended", 1)))
    await outbox.record("acme", None, change(event("b", "call.corrected", 2)))
    assert await pending(outbox) == {"ends": 1, "other": 0}


async def test_a_sink_gets_the_events_of_its_sources_only(outbox: Outbox) -> None:
    """Events of calls and of the source's health, from the first event of a call on."""
    await outbox.subscribe({"all": Filter(), "acme": Filter(sources=("acme",)), "none": Filter(sources=("globex",))})
    await outbox.record("acme", None, change(event("a"), source_event()))
    await outbox.record("initech", None, change(event("b", source="initech"), source_event(2, source="initech")))
    await outbox.record("acme", None, change(event("a", "call.ended", 2)))
    await outbox.record("initech", None, change(event("b", "call.ended", 2, source="initech")))
    assert await pending(outbox) == {"all": 6, "acme": 3, "none": 0}


async def test_dispositions_filter_the_end_of_a_call_and_its_corrections(outbox: Outbox) -> None:
    """A live event has no disposition, and a source event never; a call that is followed is filtered too."""

    def ended(name: str, type_: str, disposition: Disposition) -> CallEvent:
        one = event(name, type_, 2 if type_ == "call.ended" else 3)
        return replace(one, call=replace(one.call, disposition=disposition))

    await outbox.subscribe({"all": Filter(), "missed": Filter(dispositions=("missed", "voicemail"))})
    await outbox.record("acme", None, change(event("a"), event("b"), source_event()))
    await outbox.record("acme", None, change(ended("a", "call.ended", Disposition.ANSWERED)))
    await outbox.record("acme", None, change(ended("b", "call.ended", Disposition.MISSED)))
    assert await pending(outbox) == {"all": 5, "missed": 4}
    await outbox.record("acme", None, change(ended("a", "call.corrected", Disposition.VOICEMAIL)))
    await outbox.record("acme", None, change(ended("b", "call.corrected", Disposition.ANSWERED_ELSEWHERE)))
    assert await pending(outbox) == {"all": 7, "missed": 5}


async def test_what_a_sink_follows_survives(context: SinkContext) -> None:
    """A delivery, a restart, a pruning and another filter by a reload change nothing for a call that goes on."""
    async with context.open() as outbox:
        await outbox.subscribe({"wall": Filter(directions=("outbound",))})
        await outbox.record("acme", None, change(outbound("a", "call.dialing", 1)))
        await outbox.ack([Acked(one, 0) for one in await outbox.claim("wall", limit=9)])
    await context.clock.turn(3600 * 100)
    async with context.open() as outbox:
        await outbox.subscribe({})
        await outbox.subscribe({"wall": Filter(directions=("outbound",))})
        assert (await outbox.prune(context.clock.now())).events == 1
        await outbox.record("acme", None, change(event("a", "call.answered", 2)))
        await outbox.subscribe({"wall": Filter(events=("call.ended",), directions=("outbound",))})
        await outbox.record("acme", None, change(event("a", "call.ended", 3)))
        assert await claimed(outbox, "wall") == [("a", "call.answered")]
        assert await pending(outbox) == {"wall": 2}
        await outbox.record("acme", None, change(event("b", "call.ended", 1)))
        assert await pending(outbox) == {"wall": 2}
