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

from callcast.calls.model import (
    UNASSIGNED,
    Call,
    CallEvent,
    Change,
    Direction,
    Disposition,
    Evidence,
    Known,
    Observation,
    Party,
    Provider,
    State,
    Target,
)
from callcast.calls.summary import Counts, Summary
from callcast.live.live_calls import COUNTS_NOTE, SERVICE, LiveBoard, catch_up, keep_counts
from callcast.ports.outbox import OutboxUnavailable, Stored
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


def poll(board: LiveBoard, target: Target, at: datetime) -> None:
    """A good poll that is stored."""
    board.looked(target, at)
    board.stored(target, at)


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
    """The totals count conversations in each state, and fall back when one ends."""
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
    assert (summary(board).ringing, summary(board).connected) == (0, 1)


def test_counts_answered_and_missed(board: LiveBoard) -> None:
    """Inbound answers and misses count once each, a voicemail is a miss; outbound calls and other ends do not count."""
    one, two, three = (call(session_id=f"s-{n}") for n in range(3))
    out = answered(call("104", "s-4", direction=Direction.OUTBOUND, state=State.DIALING))
    put(board, one, answered(one), ended(answered(one), Disposition.ANSWERED))
    put(board, two, ended(two, Disposition.MISSED), three, ended(three, Disposition.VOICEMAIL), out)
    four = call(session_id="s-5")
    put(board, four, ended(four, Disposition.FAILED))
    assert (summary(board).answered_today, summary(board).missed_today) == (1, 2)


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


def test_average_speed_of_answer(board: LiveBoard) -> None:
    """From the start to the answer or the poll that showed it; a first poll of all says nothing of when it was."""
    put(board, answered(call(session_id="a"), 4.0), answered(call(session_id="b"), 8.0, answered_exact=False))
    put(board, answered(call(session_id="c", first_look=True), 600.0, answered_exact=False))
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
        poll(board, Target(source="acme", extension_id=extension_id), clock.now())
    assert summary(board).complete
    await clock.turn(50)
    poll(board, Target(source="acme", extension_id="101"), clock.now())
    await clock.turn(9)
    assert summary(board).complete
    await clock.turn(2)
    assert not summary(board).complete
    assert summary(board).overdue == ("102",)
    assert summary(board).as_of == START
    assert board.staleness_s("acme") == pytest.approx(61.0)


async def test_as_of_moves_with_what_is_stored(board: LiveBoard, clock: TurnedClock) -> None:
    """Good polls that cannot be stored are not overdue, and what is shown is not as of them."""
    board.watch("acme", ["101", "102"], 20.0)
    for extension_id in ("101", "102"):
        poll(board, Target(source="acme", extension_id=extension_id), START)
    for _ in range(4):
        await clock.turn(20)
        board.looked(Target(source="acme", extension_id="101"), clock.now())
        board.looked(Target(source="acme", extension_id="102"), clock.now())
    assert (summary(board).as_of, summary(board).complete) == (START, True)
    board.stored(Target(source="acme", extension_id="101"), clock.now())
    assert summary(board).as_of == START
    board.stored(Target(source="acme", extension_id="102"), clock.now())
    assert summary(board).as_of == clock.now()


async def test_a_source_that_is_blind_as_a_whole_names_no_extension(board: LiveBoard, clock: TurnedClock) -> None:
    """When every target is overdue it is the source, not its extensions; at least 30 s must have passed."""
    board.watch("acme", ["101", "102"], 1.0)
    for extension_id in ("101", "102"):
        poll(board, Target(source="acme", extension_id=extension_id), clock.now())
    await clock.turn(29)
    assert summary(board).complete
    await clock.turn(2)
    assert not summary(board).complete
    assert summary(board).overdue == ()


async def test_freshness_does_not_depend_on_the_platforms_clock(board: LiveBoard, clock: TurnedClock) -> None:
    """A platform clock an hour off shifts `as_of`, but makes nothing overdue."""
    board.watch("acme", None, 6.0)
    poll(board, Target(source="acme"), clock.now() - timedelta(hours=1))
    assert summary(board).complete
    assert board.staleness_s("acme") == 0.0


async def test_the_time_is_the_platforms(board: LiveBoard, clock: TurnedClock) -> None:
    """The newest look tells it, this machine's steady clock goes on from there; before one, nobody knows."""
    board.watch("acme", ["101", "102"], 6.0)
    assert summary(board).now is None
    poll(board, Target(source="acme", extension_id="101"), START - timedelta(hours=2))
    poll(board, Target(source="acme", extension_id="102"), START - timedelta(hours=1))
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
    poll(board, Target(source="acme"), clock.now())
    assert board.version == version + 1
    poll(board, Target(source="acme"), clock.now())
    assert board.version == version + 1


# Conversations


OUTSIDE, COLLEAGUE = Party(number="+15550100351"), Party(extension_number="109")


def counted(counts: Counts) -> tuple[int, int, int]:
    return counts.answered_today, counts.missed_today, counts.abandoned_today


def test_missed_callers_of_a_ring_all_count_once_each(board: LiveBoard) -> None:
    """Twenty callers whom three phones missed are twenty; each phone has its own twenty."""
    board.watch("acme", ["101", "102", "103"], 6.0)
    for n in range(20):
        parts = [call(f"10{phone}", f"s-{n}") for phone in (1, 2, 3)]
        words = (Disposition.MISSED, Disposition.MISSED, Disposition.FAILED)
        put(board, *parts, *(ended(one, word) for one, word in zip(parts, words, strict=True)))
    assert counted(summary(board)) == counted(board.total()) == (0, 20, 0)
    each = {one: counted(counts) for one, counts in board.extension_counts("acme").items()}
    assert each == {"101": (0, 20, 0), "102": (0, 20, 0), "103": (0, 0, 0)}


def test_a_transferred_call_counts_once(board: LiveBoard) -> None:
    """At its first answer; each extension that took it has its own."""
    first = answered(call("101"), 4.0)
    put(board, first, ended(first, Disposition.TRANSFERRED, 60.0))
    second = call("102", started_at=START + timedelta(seconds=60))
    put(board, second)
    assert (summary(board).waiting, summary(board).ringing) == (0, 1)
    put(board, answered(second, 20.0), ended(answered(second, 20.0), Disposition.ANSWERED, 90.0))
    assert counted(summary(board)) == (1, 0, 0)
    assert summary(board).average_speed_of_answer_s == pytest.approx(4.0)
    each = board.extension_counts("acme")
    assert [counted(each[one]) for one in ("101", "102")] == [(1, 0, 0), (1, 0, 0)]
    assert each["102"].average_speed_of_answer_s == pytest.approx(20.0)


def test_only_callers_from_outside_count(board: LiveBoard) -> None:
    """A colleague's call is none; a caller not known yet counts as outside until he turns out to be a colleague."""
    inside = call("101", "s-1", from_party=COLLEAGUE)
    put(board, inside)
    assert (summary(board).waiting, summary(board).ringing) == (0, 1)
    put(board, ended(inside, Disposition.MISSED))
    unknown = call("102", "s-2")
    put(board, unknown)
    assert summary(board).waiting == 1
    put(board, ended(unknown, Disposition.MISSED))
    assert counted(summary(board)) == (0, 1, 0)
    put(board, ended(call("102", "s-2", sequence=2, from_party=COLLEAGUE), Disposition.MISSED))
    assert counted(summary(board)) == counted(board.extension_counts("acme")["102"]) == (0, 0, 0)


def test_service_level(board: LiveBoard) -> None:
    """Answered in time, of all that were answered, missed, or abandoned after it; null while there is none."""
    assert board.total().service_level is None
    for n, after_s in enumerate((5.0, 20.0, 20.5)):
        put(board, answered(call(session_id=f"a-{n}"), after_s))
    put(board, ended(call(session_id="early"), Disposition.ABANDONED, 20.0))
    assert summary(board).service_level == pytest.approx(2 / 3)
    put(
        board,
        ended(call(session_id="late"), Disposition.ABANDONED, 21.0),
        ended(call(session_id="m"), Disposition.BUSY),
    )
    assert (summary(board).abandoned_today, summary(board).missed_today) == (2, 1)
    assert summary(board).service_level == pytest.approx(2 / 5)
    board.count_by(UTC, 5.0)
    assert summary(board).service_level == pytest.approx(1 / 6)
    board.count_by(UTC, 60.0)
    assert summary(board).service_level == pytest.approx(3 / 4)


def test_a_session_that_two_sources_see_is_one_conversation(board: LiveBoard) -> None:
    """Of one account: once in the total, once in each source. Of two accounts they are two."""
    put(board, call("101"), call("102", source="other"))
    assert [one.waiting for one in (*board.summaries(), board.total())] == [1, 1, 1]
    put(board, answered(call("102", source="other")), ended(call("101"), Disposition.ANSWERED_ELSEWHERE))
    assert [counted(one) for one in (*board.summaries(), board.total())] == [(0, 0, 0), (1, 0, 0), (1, 0, 0)]
    put(board, call("201", source="third", account_id="2"))
    assert (board.total().waiting, board.total().connected) == (1, 1)
    board.unwatch("other")
    assert counted(board.total()) == (0, 0, 0)


async def test_the_longest_wait_is_by_the_platforms_clock(board: LiveBoard, clock: TurnedClock) -> None:
    """As long as the caller's phone says, whatever this machine's clock reads."""
    board.watch("acme", ["101"], 6.0)
    poll(board, Target(source="acme", extension_id="101"), START + timedelta(hours=1))
    put(board, call(started_at=START + timedelta(hours=1)))
    await clock.turn(12)
    assert summary(board).longest_wait_s == board.total().longest_wait_s == pytest.approx(12)
    assert board.extension_counts("acme")["101"].longest_wait_s == pytest.approx(12)


async def test_a_call_that_the_platform_puts_into_tomorrow_counts_tomorrow() -> None:
    """Its clock is ahead: missed two seconds after its midnight, one second before ours."""
    clock = TurnedClock(datetime(2026, 3, 2, 23, 59, 58, tzinfo=UTC))
    board = LiveBoard(clock, UTC)
    put(board, ended(call(started_at=clock.now()), Disposition.MISSED, 4.0))
    assert counted(summary(board)) == (0, 0, 0)
    await clock.turn(3)
    assert counted(summary(board)) == counted(board.extension_counts("acme")["101"]) == (0, 1, 0)


async def test_a_conversation_over_midnight(clock: TurnedClock) -> None:
    """It counts on the day of its answer, also where another part ends, or takes over, on the next."""
    clock = TurnedClock(datetime(2026, 3, 2, 23, 59, tzinfo=UTC))
    board = LiveBoard(clock, UTC)
    first = answered(call("101", started_at=clock.now()))
    put(board, first, call("102", "s-2", started_at=clock.now()))
    assert counted(board.total()) == (1, 0, 0)
    await clock.turn(120)
    assert (counted(board.total()), board.total().connected, board.total().waiting) == ((0, 0, 0), 1, 1)
    put(board, ended(first, Disposition.TRANSFERRED, 130.0), answered(call("103", started_at=clock.now())))
    put(board, answered(call("102", "s-2", started_at=START + timedelta(hours=14, minutes=59)), 130.0))
    assert counted(board.total()) == (1, 0, 0)


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
    for number, (extension_id, session_id, step) in enumerate(steps, 1):
        rings = call(extension_id, session_id)
        to: dict[str, Call] = {
            "ring": rings,
            "answer": answered(rings),
            "miss": ended(rings, Disposition.MISSED),
            "end": ended(answered(rings), Disposition.ANSWERED),
            "dial": msgspec.structs.replace(rings, direction=Direction.OUTBOUND, state=State.DIALING),
            "vanish": msgspec.structs.replace(rings, vanished_at=START),
        }
        put(board, msgspec.structs.replace(to[step], sequence=number))
    live = board.calls()
    now = summary(board)
    connected = {one.session_id for one in live if one.state == "connected"}
    ringing = {one.session_id for one in live if one.state == "ringing"} - connected
    assert (now.ringing, now.connected) == (len(ringing), len(connected))
    assert now.waiting <= now.ringing
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
        assert (source, name) == (SERVICE, COUNTS_NOTE)
        self.notes[name] = value or b""

    async def recall(self, source: str, session_ids: Sequence[str]) -> Sequence[Call]:
        kept = {one.call.call_id: one.call for one in self.events[self.pruned :] if one.call.source == source}
        return [call for call in kept.values() if call.session_id in session_ids]

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

    async def reborn(self, clock: TurnedClock, *sources: str) -> LiveBoard:
        """The board of the next run."""
        board = LiveBoard(clock, UTC)
        board.restore(self.notes)
        for source in sources or ("acme",):
            live = {one.call.call_id: one.call for one in self.events if one.call.source == source}
            board.load(source, Known(calls={k: v for k, v in live.items() if v.live}, looks={}, notes={}))
        await catch_up(board, self)  # type: ignore[arg-type]
        return board


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
    reborn = await outbox.reborn(clock)
    assert summary(reborn).answered_today == 3
    assert summary(reborn).average_speed_of_answer_s == pytest.approx(3.0)


async def test_counts_survive_their_events(clock: TurnedClock) -> None:
    """What counted this morning counts after a restart too when its events and calls are kept no longer."""
    outbox: Any = Outbox()
    board = LiveBoard(clock, UTC)
    board.watch("acme", ["101"], 6.0)
    keeping = asyncio.create_task(keep_counts(board, outbox, clock))
    await clock.turn(1)
    calls = [ended(call(session_id=f"s-{n}"), Disposition.MISSED) for n in range(3)]
    outbox.record(*calls)
    put(board, *calls)
    await clock.turn(3600)
    keeping.cancel()
    outbox.pruned = len(calls)
    reborn = await outbox.reborn(clock)
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
    reborn = await outbox.reborn(clock)
    assert summary(reborn).answered_today == 1


async def test_counts_without_a_note_come_from_history(clock: TurnedClock) -> None:
    """A first start of a version that counts, or an unreadable note, counts what was recorded today."""
    for notes in ({}, {COUNTS_NOTE: b"\xff\x00"}):
        outbox: Any = Outbox()
        outbox.notes = notes
        outbox.record(ended(call(), Disposition.MISSED))
        assert summary(await outbox.reborn(clock)).missed_today == 1


async def test_a_correction_after_the_restart_still_moves_the_count(clock: TurnedClock) -> None:
    """What a call counted as is kept with the counts, so a late correction does not count it twice."""
    outbox: Any = Outbox()
    board = LiveBoard(clock, UTC)
    missed = ended(call(), Disposition.MISSED)
    put(board, missed)
    outbox.record(missed)
    outbox.notes[COUNTS_NOTE] = board.kept_counts(seq=1)
    reborn = await outbox.reborn(clock)
    assert summary(reborn).missed_today == 1
    put(reborn, ended(missed, Disposition.ANSWERED_ELSEWHERE))
    assert summary(reborn).missed_today == 0


@pytest.mark.parametrize("noted", [1, 2, 3, 4, 5, 6])
async def test_a_conversation_is_the_same_after_a_restart_at_any_step(clock: TurnedClock, noted: int) -> None:
    """Two extensions, in two sources, and a transfer: what the board knew before the note or only the outbox has."""
    outbox: Any = Outbox()
    board = LiveBoard(clock, UTC)
    one = call("101")
    two = call("102", source="other")
    three = call("103", started_at=START + timedelta(seconds=60))
    steps = [
        one,
        two,
        answered(one),
        ended(two, Disposition.ANSWERED_ELSEWHERE),
        ended(answered(one), Disposition.TRANSFERRED, 60.0),
        three,
        ended(three, Disposition.MISSED, 80.0),
    ]
    outbox.record(*steps[:noted])
    put(board, *steps[:noted])
    outbox.notes[COUNTS_NOTE] = board.kept_counts(seq=noted)
    outbox.record(*steps[noted:])
    put(board, *steps[noted:])
    reborn = await outbox.reborn(clock, "acme", "other")
    for source in ("acme", "other"):
        of_before = board.extension_counts(source)
        assert reborn.extension_counts(source) == {one: c for one, c in of_before.items() if any(counted(c))}
    assert [msgspec.structs.astuple(s)[:9] for s in reborn.summaries()] == [
        msgspec.structs.astuple(s)[:9] for s in board.summaries()
    ]
    assert counted(reborn.total()) == counted(board.total()) == (1, 0, 0)


async def test_yesterdays_counts_are_not_todays(clock: TurnedClock) -> None:
    """A note of another day gives no counts, but its calls are known."""
    outbox: Any = Outbox()
    board = LiveBoard(clock, UTC)
    rings, missed = call(), ended(call("102", "s-2"), Disposition.MISSED)
    outbox.record(rings, missed)
    put(board, rings, missed)
    outbox.notes[COUNTS_NOTE] = board.kept_counts(seq=2)
    await clock.turn(24 * 3600)
    reborn = await outbox.reborn(clock)
    assert (counted(reborn.total()), reborn.total().waiting) == ((0, 0, 0), 1)


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
    assert len(board.kept_counts(seq=1)) < 32_000
