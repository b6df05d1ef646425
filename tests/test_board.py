"""The live board: what is live now, who waits, what counts since midnight, and how readers follow."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from callcast.board import COUNTS_NOTE, LiveBoard, catch_up, keep_counts
from callcast.core.board import Summary
from callcast.core.model import (
    UNASSIGNED,
    Call,
    CallEvent,
    Change,
    Direction,
    Disposition,
    Evidence,
    Known,
    Observation,
    Provider,
    State,
    Target,
)
from callcast.core.outbox import OutboxUnavailable, Stored
from tests.clock import TurnedClock

START = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
EMPTY = Known(calls={}, looks={}, notes={})


def call(extension_id: str = "101", session_id: str = "s-1", **facts: Any) -> Call:
    usual: dict[str, Any] = {
        "source": "acme",
        "call_id": f"{extension_id}/{session_id}",
        "session_id": session_id,
        "extension_id": extension_id,
        "account_id": "1",
        "sequence": 1,
        "direction": Direction.INBOUND,
        "state": State.RINGING,
        "started_at": START,
        "provider": Provider(name="ringcentral", record_id="r-1"),
    }
    return Call(**(usual | facts))


def answered(ringing: Call, after_s: float = 4.0, **facts: Any) -> Call:
    at = ringing.started_at + timedelta(seconds=after_s)
    facts = {"state": State.CONNECTED, "answered_at": at, "answered_exact": True, **facts}
    return msgspec.structs.replace(ringing, sequence=ringing.sequence + 1, **facts)


def ended(live: Call, disposition: Disposition, after_s: float = 10.0) -> Call:
    at = live.started_at + timedelta(seconds=after_s)
    return msgspec.structs.replace(
        live, sequence=live.sequence + 1, state=State.ENDED, disposition=disposition, ended_at=at
    )


def put(board: LiveBoard, *calls: Call) -> None:
    for one in calls:
        board.apply(Change(calls=(one,)))


def summary(board: LiveBoard) -> Summary:
    (only,) = board.summaries()
    return only


@pytest.fixture
def clock() -> TurnedClock:
    return TurnedClock(START)


@pytest.fixture
def board(clock: TurnedClock) -> LiveBoard:
    return LiveBoard(clock, UTC)


def test_a_call_comes_changes_and_goes(board: LiveBoard) -> None:
    """The board holds a call in its newest state, from its first event until its end."""
    rings = call()
    put(board, rings)
    assert board.calls() == (rings,)
    put(board, answered(rings))
    assert [one.state for one in board.calls()] == [State.CONNECTED]
    put(board, ended(answered(rings), Disposition.ANSWERED))
    assert board.calls() == ()


def test_newest_first(board: LiveBoard) -> None:
    """Calls are ordered by their start, the newest first, over all sources."""
    starts = [(3, "acme"), (1, "other"), (2, "acme")]
    for minute, source in starts:
        put(board, call(session_id=f"s-{minute}", source=source, started_at=START + timedelta(minutes=minute)))
    assert [one.session_id for one in board.calls()] == ["s-3", "s-2", "s-1"]


def test_what_was_never_told_is_not_shown(board: LiveBoard) -> None:
    """A call with sequence 0 is no consumer's business, nor the board's."""
    put(board, call(sequence=0))
    assert board.calls() == ()
    assert summary(board).ringing == 0


def test_it_is_rebuilt_from_what_is_known(board: LiveBoard) -> None:
    """After a restart the board shows the known live calls and the last looks at once."""
    known = Known(
        calls={"101/s-1": call(), "102/s-2": ended(call("102", "s-2"), Disposition.MISSED)},
        looks={Target(source="acme", extension_id="101"): START},
        notes={},
    )
    board.load("acme", known)
    board.watch("acme", ["101"], 6.0)
    assert [one.call_id for one in board.calls()] == ["101/s-1"]
    assert summary(board).as_of == START
    assert summary(board).complete


def test_totals_by_state(board: LiveBoard) -> None:
    """The totals count each state, and fall back when a call ends."""
    dials = call("103", "s-3", direction=Direction.OUTBOUND, state=State.DIALING)
    put(board, call("101", "s-1"), answered(call("102", "s-2")), dials)
    now = summary(board)
    assert (now.ringing, now.connected, now.dialing) == (1, 1, 1)
    put(board, ended(dials, Disposition.CANCELLED))
    assert summary(board).dialing == 0


def test_one_caller_waits_however_many_extensions_ring(board: LiveBoard) -> None:
    """A caller who rings three extensions waits once, from the first ring, and not once anybody has answered."""
    parts = [call(f"10{n}", "s-1", started_at=START + timedelta(seconds=n)) for n in range(3)]
    put(board, *parts)
    assert (summary(board).waiting, summary(board).longest_waiting_since) == (1, START)
    put(board, answered(parts[1]))
    assert (summary(board).waiting, summary(board).longest_waiting_since) == (0, None)
    assert summary(board).ringing == 2


def test_counts_answered_and_missed(board: LiveBoard) -> None:
    """Inbound answers and misses count once each; outbound calls and other endings do not."""
    one, two, three = (call(session_id=f"s-{n}") for n in range(3))
    out = answered(call("104", "s-4", direction=Direction.OUTBOUND, state=State.DIALING))
    put(board, one, answered(one), ended(answered(one), Disposition.ANSWERED))
    put(board, two, ended(two, Disposition.MISSED), three, ended(three, Disposition.VOICEMAIL), out)
    assert (summary(board).answered_today, summary(board).missed_today) == (1, 1)


def test_a_call_only_seen_ended_counts(board: LiveBoard) -> None:
    """A call learnt from the call log counts by its disposition."""
    put(board, ended(call(session_id="a"), Disposition.ANSWERED), ended(call(session_id="b"), Disposition.MISSED))
    assert (summary(board).answered_today, summary(board).missed_today) == (1, 1)


def test_a_correction_moves_the_count(board: LiveBoard) -> None:
    """A missed call that turns out to be answered elsewhere was not missed."""
    missed = ended(call(), Disposition.MISSED)
    put(board, missed)
    put(board, ended(missed, Disposition.ANSWERED_ELSEWHERE))
    assert summary(board).missed_today == 0


def test_average_speed_of_answer_is_of_exact_answers(board: LiveBoard) -> None:
    """An answer whose time is only the look's would make the average a guess."""
    put(board, answered(call(session_id="a"), 4.0), answered(call(session_id="b"), 8.0))
    put(board, answered(call(session_id="c"), 600.0, answered_exact=False))
    assert summary(board).average_speed_of_answer_s == pytest.approx(6.0)
    assert summary(board).answered_today == 3


async def test_midnight_is_the_services_own() -> None:
    """Counts start anew at midnight in the configured timezone, not in UTC, and not before."""
    clock = TurnedClock(datetime(2026, 3, 2, 22, 30, tzinfo=UTC))  # 23:30 in Berlin
    board = LiveBoard(clock, ZoneInfo("Europe/Berlin"))
    put(board, answered(call(started_at=clock.now())))
    await clock.turn(29 * 60)
    assert summary(board).answered_today == 1
    await clock.turn(2 * 60)
    assert (summary(board).answered_today, summary(board).average_speed_of_answer_s) == (0, None)
    put(board, ended(answered(call(started_at=clock.now() - timedelta(hours=1))), Disposition.ANSWERED))
    assert summary(board).answered_today == 0, "yesterday's answer does not count when its call ends today"


async def test_complete_until_a_look_is_overdue(board: LiveBoard, clock: TurnedClock) -> None:
    """One target without a good look for three intervals makes the summary incomplete, and is named."""
    board.watch("acme", ["101", "102"], 20.0)
    assert not summary(board).complete
    assert summary(board).as_of is None
    for extension_id in ("101", "102"):
        board.looked(Target(source="acme", extension_id=extension_id), clock.now())
    assert summary(board).complete
    await clock.turn(50)
    board.looked(Target(source="acme", extension_id="101"), clock.now())
    await clock.turn(9)
    assert summary(board).complete
    await clock.turn(2)
    assert not summary(board).complete
    assert summary(board).overdue == ("102",)
    assert summary(board).as_of == START
    assert board.staleness_s("acme") == pytest.approx(61.0)


async def test_a_source_that_is_blind_as_a_whole_names_no_extension(board: LiveBoard, clock: TurnedClock) -> None:
    """When every target is overdue it is the source, not its extensions; at least 30 s must have passed."""
    board.watch("acme", ["101", "102"], 1.0)
    for extension_id in ("101", "102"):
        board.looked(Target(source="acme", extension_id=extension_id), clock.now())
    await clock.turn(29)
    assert summary(board).complete
    await clock.turn(2)
    assert not summary(board).complete
    assert summary(board).overdue == ()


async def test_freshness_does_not_depend_on_the_platforms_clock(board: LiveBoard, clock: TurnedClock) -> None:
    """A platform clock an hour off shifts `as_of`, but makes nothing overdue."""
    board.watch("acme", None, 6.0)
    board.looked(Target(source="acme"), clock.now() - timedelta(hours=1))
    assert summary(board).complete
    assert board.staleness_s("acme") == 0.0


async def test_the_time_is_the_platforms(board: LiveBoard, clock: TurnedClock) -> None:
    """The newest look tells it, this machine's steady clock goes on from there; before one, nobody knows."""
    board.watch("acme", ["101", "102"], 6.0)
    assert summary(board).now is None
    board.looked(Target(source="acme", extension_id="101"), START - timedelta(hours=2))
    board.looked(Target(source="acme", extension_id="102"), START - timedelta(hours=1))
    await clock.turn(5)
    assert summary(board).now == START - timedelta(hours=1) + timedelta(seconds=5)


def test_extensions_are_the_watched_and_the_seen(board: LiveBoard) -> None:
    """At account level an extension is known once it was seen; `unassigned` is none."""
    board.watch("acme", ["101"], 6.0)
    put(board, call("102", "s-2"), call(UNASSIGNED, "s-3"))
    assert board.extensions("acme") == ("101", "102")
    assert board.extensions("nobody") == ()


def test_unwatch_forgets_the_source(board: LiveBoard) -> None:
    """A source that was taken out of the configuration leaves nothing on the board."""
    board.watch("acme", ["101"], 6.0)
    put(board, call())
    board.unwatch("acme")
    assert (board.calls(), board.summaries(), board.sources()) == ((), [], ())


async def test_changed_tells_what_changed_since(board: LiveBoard) -> None:
    """A reader gets each changed call once, in its newest state, ended ones too."""
    version = board.version
    first, second = call("101", "s-1"), call("102", "s-2")
    put(board, first, second, answered(first), ended(second, Disposition.MISSED))
    turn = await board.changed(version)
    assert turn.version == board.version
    assert {one.call_id: one.state for one in turn.calls or ()} == {"101/s-1": "connected", "102/s-2": "ended"}


async def test_changed_waits(board: LiveBoard) -> None:
    """A reader that is up to date waits until something happens."""
    waiting = asyncio.create_task(board.changed(board.version))
    await asyncio.sleep(0)
    assert not waiting.done()
    put(board, call())
    turn = await waiting
    assert [one.call_id for one in turn.calls or ()] == ["101/s-1"]


async def test_a_reader_far_behind_reads_afresh(board: LiveBoard) -> None:
    """Turns are kept up to a bound; who is further behind, or from before a load, is told to read everything."""
    version = board.version
    rings = call()
    for _ in range(1024):
        put(board, rings)
    assert (await board.changed(version)).calls == (rings,)
    put(board, rings)
    assert (await board.changed(version)).calls is None
    version = board.version
    board.load("other", EMPTY)
    assert (await board.changed(version)).calls is None


async def test_large_turns_are_kept_no_longer_than_many_small_ones(board: LiveBoard) -> None:
    """The bound is on the calls too: what a busy account changes with each look must not pile up in memory."""
    for look in range(300):
        board.apply(Change(calls=tuple(call("101", f"s-{look}-{number}") for number in range(100)), events=()))
    assert sum(map(len, board._turns)) == board._calls_kept <= 2048
    assert len((await board.changed(board.version - 5)).calls or ()) == 500
    assert (await board.changed(board.version - 50)).calls is None
    board.apply(Change(calls=tuple(call("101", f"t-{number}") for number in range(3000)), events=()))
    assert (await board.changed(board.version - 1)).calls is None
    assert not board._turns


async def test_recovery_is_a_turn(board: LiveBoard, clock: TurnedClock) -> None:
    """A look that ends a blind spell turns the board, so that readers see the summary heal; others do not."""
    board.watch("acme", None, 6.0)
    version = board.version
    board.looked(Target(source="acme"), clock.now())
    assert board.version == version + 1
    board.looked(Target(source="acme"), clock.now())
    assert board.version == version + 1


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["101", "102"]),
        st.sampled_from(["s-1", "s-2"]),
        st.sampled_from(["ring", "answer", "miss", "end", "dial", "vanish"]),
    ),
    max_size=40,
)


@given(STEPS)
def test_totals_are_those_of_the_calls(steps: list[tuple[str, str, str]]) -> None:
    """After any history the totals, lanes and waiting callers are what the listed calls add up to."""
    board = LiveBoard(TurnedClock(START), UTC)
    board.watch("acme", ["101", "102"], 6.0)
    for extension_id, session_id, step in steps:
        rings = call(extension_id, session_id)
        to: dict[str, Call] = {
            "ring": rings,
            "answer": answered(rings),
            "miss": ended(rings, Disposition.MISSED),
            "end": ended(answered(rings), Disposition.ANSWERED),
            "dial": msgspec.structs.replace(rings, direction=Direction.OUTBOUND, state=State.DIALING),
            "vanish": msgspec.structs.replace(rings, vanished_at=START),
        }
        put(board, to[step])
    live = board.calls()
    now = summary(board)
    talking = {one.session_id for one in live if one.state == "connected"}
    waiting = {one.session_id for one in live if one.state == "ringing"} - talking
    assert now.ringing == sum(one.state == "ringing" for one in live)
    assert now.connected == sum(one.state == "connected" for one in live)
    assert now.waiting == len(waiting)
    assert {lane: n for lane, n in board.active("acme").items() if n} == _count(live)


def _count(live: Sequence[Call]) -> dict[tuple[str, State, Direction], int]:
    lanes: dict[tuple[str, State, Direction], int] = {}
    for one in live:
        lane = (one.extension_id, one.state, one.direction)
        lanes[lane] = lanes.get(lane, 0) + 1
    return lanes


class Outbox:
    """As much of an outbox as keeps counts: events in order, and notes."""

    def __init__(self) -> None:
        self.events: list[CallEvent] = []
        self.notes: dict[str, bytes] = {}
        self.broken = False
        self.pruned = 0  # so many of the first are kept no longer

    async def last_seq(self) -> int:
        if self.broken:
            raise OutboxUnavailable("disk full")
        return len(self.events)

    async def history(self, *, after_seq: int, limit: int) -> Sequence[Stored]:
        page = list(enumerate(self.events, 1))[max(after_seq, self.pruned) :][:limit]
        return [Stored(seq=seq, recorded_at=START, event=event) for seq, event in page]

    async def note(self, source: str, name: str, value: bytes | None) -> None:
        assert (source, name) == ("acme", COUNTS_NOTE)
        self.notes[name] = value or b""

    def record(self, *calls: Call) -> None:
        seen = Observation(after=None, before=START, exact=True, evidence=Evidence.ACTIVE_CALLS, first_look=False)
        for one in calls:
            event = CallEvent(
                id=f"evt_{len(self.events)}",
                type="call.ended",
                time=START,
                call=one,
                previous_state=None,
                sequence=one.sequence,
                observation=seen,
            )
            self.events.append(event)

    def known(self) -> Known:
        return Known(calls={}, looks={}, notes=self.notes)


@pytest.mark.parametrize("applied", [0, 1, 2, 3])
async def test_counts_survive_a_kill_at_any_moment(clock: TurnedClock, applied: int) -> None:
    """Kept counts and replayed events give the same totals, whether or not the board had turned when they were kept."""
    outbox: Any = Outbox()
    board = LiveBoard(clock, UTC)
    board.watch("acme", ["101"], 6.0)
    keeping = asyncio.create_task(keep_counts(board, outbox, clock))
    calls = [answered(call(session_id=f"s-{n}"), after_s=3.0) for n in range(3)]
    await clock.turn(1)
    outbox.record(*calls)
    put(board, *calls[:applied])
    await clock.turn(11)
    put(board, *calls[applied:])
    await clock.turn(10)
    keeping.cancel()
    reborn = LiveBoard(clock, UTC)
    reborn.load("acme", outbox.known())
    await catch_up(reborn, outbox)
    assert summary(reborn).answered_today == 3
    assert summary(reborn).average_speed_of_answer_s == pytest.approx(3.0)


async def test_counts_survive_their_events(clock: TurnedClock) -> None:
    """What counted this morning counts after a restart too when `retention_h` has taken its events."""
    outbox: Any = Outbox()
    board = LiveBoard(clock, UTC)
    board.watch("acme", ["101"], 6.0)
    keeping = asyncio.create_task(keep_counts(board, outbox, clock))
    await clock.turn(1)
    calls = [ended(call(session_id=f"s-{n}"), Disposition.MISSED) for n in range(3)]
    outbox.record(*calls)
    put(board, *calls)
    await clock.turn(21)
    keeping.cancel()
    outbox.pruned = len(calls)
    reborn = LiveBoard(clock, UTC)
    reborn.load("acme", outbox.known())
    await catch_up(reborn, outbox)
    assert summary(reborn).missed_today == 3


async def test_a_note_claims_only_what_is_surely_in_it(clock: TurnedClock) -> None:
    """Killed right after a note that was taken between recording an event and turning the board: it still counts."""
    outbox: Any = Outbox()
    board = LiveBoard(clock, UTC)
    board.watch("acme", ["101"], 6.0)
    keeping = asyncio.create_task(keep_counts(board, outbox, clock))
    await clock.turn(1)
    outbox.record(answered(call()))
    await clock.turn(10)
    keeping.cancel()
    assert outbox.notes
    reborn = LiveBoard(clock, UTC)
    reborn.load("acme", outbox.known())
    await catch_up(reborn, outbox)
    assert summary(reborn).answered_today == 1


async def test_counts_without_a_note_come_from_history(clock: TurnedClock) -> None:
    """A first start of a version that counts, or an unreadable note, counts what was recorded today."""
    for notes in ({}, {COUNTS_NOTE: b"\xff\x00"}):
        outbox: Any = Outbox()
        outbox.notes = notes
        outbox.record(ended(call(), Disposition.MISSED))
        board = LiveBoard(clock, UTC)
        board.load("acme", outbox.known())
        await catch_up(board, outbox)
        assert summary(board).missed_today == 1


async def test_a_correction_after_the_restart_still_moves_the_count(clock: TurnedClock) -> None:
    """What a call counted as is kept with the counts, so a late correction does not count it twice."""
    outbox: Any = Outbox()
    board = LiveBoard(clock, UTC)
    missed = ended(call(), Disposition.MISSED)
    put(board, missed)
    outbox.notes[COUNTS_NOTE] = board.counts("acme", seq=0)
    reborn = LiveBoard(clock, UTC)
    reborn.load("acme", outbox.known())
    put(reborn, ended(missed, Disposition.ANSWERED_ELSEWHERE))
    assert summary(reborn).missed_today == 0


async def test_keeping_counts_outlives_a_full_disk(clock: TurnedClock) -> None:
    """An outbox that cannot be used for a while costs no count and ends nothing."""
    outbox: Any = Outbox()
    board = LiveBoard(clock, UTC)
    put(board, answered(call()))
    outbox.record(answered(call()))
    outbox.broken = True
    keeping = asyncio.create_task(keep_counts(board, outbox, clock))
    await clock.turn(25)
    assert not keeping.done()
    outbox.broken = False
    await clock.turn(20)
    keeping.cancel()
    assert COUNTS_NOTE in outbox.notes


def test_kept_counts_stay_small(clock: TurnedClock) -> None:
    """A busy day's note is bounded: it is written every few seconds."""
    board = LiveBoard(clock, UTC)
    for n in range(5000):
        put(board, ended(call(session_id=f"s-{n}"), Disposition.MISSED))
    assert len(board.counts("acme", seq=1)) < 32_000
