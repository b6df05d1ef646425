"""The commands' side of the outbox, beside a running service and without one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from msgspec import structs

from callcast.calls.model import Direction
from callcast.outbox.opening import open_admin
from callcast.outbox.sqlite.store import SqliteOutbox, open_outbox
from callcast.ports.outbox import Acked, OutboxRefused, Overdue
from callcast.ports.outbox_admin import Selection
from callcast.ports.sink import Delivery, Filter
from tests.builders import NINE, change, event, source_event
from tests.clock import TurnedClock

HOUR = timedelta(hours=1)


@asynccontextmanager
async def service(path: Path, clock: TurnedClock | None = None) -> AsyncIterator[SqliteOutbox]:
    limits = {"retention_h": 72.0, "outbox_max_mb": 100.0, "dead_letter_days": 30.0}
    async with open_outbox(path, clock or TurnedClock(), **limits) as outbox:
        await outbox.subscribe({"crm": Filter(), "lines": Filter(events=("source.*",))})
        yield outbox


async def bury(outbox: SqliteOutbox, *names: str) -> None:
    """Make each of these calls' ends a dead letter."""
    await outbox.record("acme", None, change(*(event(name, "call.ended", 1) for name in names)))
    for delivery in await outbox.claim("crm", limit=len(names)):
        await outbox.dead_letter(delivery, reason="413", detail="too large", took_s=0.25)


async def settle_all(outbox: SqliteOutbox) -> list[Delivery]:
    settled = []
    while deliveries := await outbox.claim("crm", limit=500):
        settled += deliveries
        await asyncio.gather(*(outbox.ack([Acked(one, 0.125)]) for one in deliveries))
    return settled


async def test_dead_letters(tmp_path: Path) -> None:
    """The dead letters of a stopped service: sink, event, reason, attempts and time, by sink or by event."""
    async with service(tmp_path) as outbox:
        await bury(outbox, "a", "b")
    with open_admin(tmp_path) as admin:
        dead_letters = list(admin.dead_letters())
        assert [(one.sink, one.event.key, one.reason, one.attempts, one.dead_at) for one in dead_letters] == [
            ("crm", "101/a", "413", 1, NINE),
            ("crm", "101/b", "413", 1, NINE),
        ]
        assert list(admin.dead_letters(Selection(sink="lines"))) == []
        assert list(admin.dead_letters(Selection(event_ids=frozenset({dead_letters[1].event.id})))) == [dead_letters[1]]
        assert [one.sink for one in admin.sinks()] == ["crm", "lines"]


async def test_retry_beside_the_service(tmp_path: Path) -> None:
    """A retried dead letter is pending again and wakes a waiting service: same id, next attempt, new time to live."""
    clock = TurnedClock()
    async with service(tmp_path, clock) as outbox:
        await bury(outbox, "a", "b")
        waiting = asyncio.ensure_future(outbox.wait("crm", timeout_s=3600))
        with open_admin(tmp_path) as admin:
            (first, second) = admin.dead_letters()
            assert admin.retry(NINE + HOUR, Selection(event_ids=frozenset({first.event.id}))) == 1
            assert list(admin.dead_letters()) == [second]
        await asyncio.wait_for(waiting, 30)
        (again,) = await outbox.claim("crm", limit=9)
        assert (again.event, again.attempt, again.replayed) == (first.event, 2, True)
        assert (again.recorded_at, again.pending_since) == (NINE, NINE + HOUR)
        await outbox.ack([Acked(again, 0)])
        assert await outbox.claim("crm", limit=9) == []


async def test_ten_thousand_dead_letters_do_not_block_the_service(tmp_path: Path) -> None:
    """Ten thousand retried dead letters wait behind every new event, and hold up none of their own calls."""
    async with service(tmp_path) as outbox:
        names = [f"c{n}" for n in range(10_000)]
        await outbox.record("acme", None, change(*(event(name, "call.ended", 1) for name in names)))
        deliveries = await outbox.claim("crm", limit=10_000)
        await asyncio.gather(*(outbox.dead_letter(one, reason="413", detail="", took_s=0) for one in deliveries))
        with open_admin(tmp_path) as admin:
            assert admin.retry(NINE) == 10_000
        await outbox.record("acme", None, change(event("c0", "call.corrected", 2), event("new")))
        claimed = await outbox.claim("crm", limit=4)
        assert [(one.event.key, one.event.type) for one in claimed] == [
            ("101/c0", "call.corrected"),
            ("101/new", "call.ringing"),
            ("101/c0", "call.ended"),
            ("101/c1", "call.ended"),
        ]


async def test_drop(tmp_path: Path) -> None:
    """Dead letters can be dropped by sink, by event, or all at once; they do not become pending."""
    async with service(tmp_path) as outbox:
        await bury(outbox, "a", "b", "c")
        with open_admin(tmp_path) as admin:
            (first, *_) = admin.dead_letters()
            assert admin.drop(Selection(sink="lines")) == 0
            assert admin.drop(Selection(event_ids=frozenset({first.event.id}))) == 1
            assert admin.drop() == 2
        (crm, _) = (await outbox.stats()).sinks
        assert (crm.pending, crm.dead) == (0, 0)


async def test_replay(tmp_path: Path) -> None:
    """Recorded events of a period and type become pending again in order, with their ids; live ones do not expire."""
    clock = TurnedClock()
    async with service(tmp_path, clock) as outbox:
        await outbox.record("acme", None, change(event("before")))
        await clock.turn(3600)
        await outbox.record("acme", None, change(event("a"), event("a", "call.ended", 2), source_event()))
        await outbox.record("acme", None, change(event("b")))
        await clock.turn(3600)
        await outbox.record("acme", None, change(event("after")))
        await settle_all(outbox)
        with open_admin(tmp_path) as admin:
            since, until = NINE + HOUR / 2, NINE + 1.5 * HOUR
            assert admin.replay(clock.now(), sink="crm", since=since, until=until, type_="call.*") == 3
            assert admin.replay(clock.now(), sink="crm", since=since, until=until, type_="call.*") == 0
            with pytest.raises(KeyError):
                admin.replay(clock.now(), sink="unknown", since=since, until=until)
        await clock.turn(120)
        minute_ago, long_ago = clock.now() - HOUR / 60, clock.now() - 75 * HOUR
        assert await outbox.expire_overdue("crm", live_before=minute_ago, final_before=long_ago) == Overdue()
        await asyncio.wait_for(outbox.wait("crm", timeout_s=3600), 30)
        first = await outbox.claim("crm", limit=9)
        assert [one.event.id for one in first] == [event("a").id, event("b").id]
        assert [(one.live, one.attempt, one.replayed) for one in first] == [(False, 2, True)] * 2
        for one in first:
            await outbox.ack([Acked(one, 0)])
        (last,) = await outbox.claim("crm", limit=9)
        assert last.event.id == event("a", "call.ended", 2).id


async def test_replay_goes_by_what_the_sink_got(tmp_path: Path) -> None:
    """A call that turned inbound is replayed to the sink that follows it, from the event on that it got first."""
    wish = Filter(directions=("inbound",))
    dialing = event("a", "call.dialing", 1)
    outbound = structs.replace(dialing, call=structs.replace(dialing.call, direction=Direction.OUTBOUND))
    async with service(tmp_path) as outbox:
        await outbox.subscribe({"in": wish, "out": Filter(directions=("outbound",))})
        await outbox.record("acme", None, change(outbound))
        await outbox.record("acme", None, change(event("a", "call.ended", 2)))
        for sink in ("in", "out", "out"):
            await outbox.ack([Acked(one, 0) for one in await outbox.claim(sink, limit=9)])
        with open_admin(tmp_path) as admin:
            since, until = NINE - HOUR, NINE + HOUR
            assert admin.replay(NINE, sink="in", since=since, until=until, only=wish) == 1
            wish = Filter(directions=("outbound",))
            assert admin.replay(NINE, sink="out", since=since, until=until, only=wish) == 2


async def test_history(tmp_path: Path) -> None:
    """A call is found by its id, session, event id or last digits; its history shows what became of each event."""
    async with service(tmp_path) as outbox:
        await outbox.record("acme", None, change(event("a")))
        (ringing,) = await outbox.claim("crm", limit=1)
        await outbox.retry(ringing, at=NINE, reason="503", detail="unavailable", took_s=0.5)
        (ringing,) = await outbox.claim("crm", limit=1)
        await outbox.ack([Acked(ringing, 0.25, "answered 204")])
        await bury(outbox, "a")
        await outbox.record("acme", None, change(event("a", "call.corrected", 3)))
    with open_admin(tmp_path) as admin:
        for what in ("101/a", "a", "0100"):
            (call,) = admin.find(what)
            assert call.call_id == "101/a"
        assert admin.find("0199") == []
        assert admin.find("nothing") == []
        history = admin.history_of(call)
        assert admin.history_around(event("a").id) == history
        assert admin.history_around("evt_nothing") is None
    shown = [(one.stored.event.type, one.pending, one.dead) for one in history.events]
    assert shown == [("call.ringing", (), ()), ("call.ended", (), ("crm",)), ("call.corrected", ("crm",), ())]
    attempts = [(one.number, one.outcome, one.detail, one.took_s) for one in history.events[0].attempts]
    assert attempts == [(1, "503", "unavailable", 0.5), (2, "delivered", "answered 204", 0.25)]


async def test_no_outbox(tmp_path: Path) -> None:
    """Where there is no outbox the message says where it was looked for, and none is made."""
    with pytest.raises(OutboxRefused, match="data_dir"), open_admin(tmp_path):
        pass
    assert list(tmp_path.glob("*")) == []  # noqa: ASYNC240
