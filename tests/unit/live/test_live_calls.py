"""The live calls: what is live now, who waits, what counts since midnight, and how readers follow."""

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
    ChangeSet,
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
from callcast.live.live_calls import InMemoryLiveCalls
from callcast.live.stored_counts import COUNTS_NOTE, restore, store_counts
from callcast.observability.logs import bound
from callcast.observability.outbox_health import OutboxHealth
from callcast.ports.outbox import SERVICE, OutboxUnavailable, Stored
from tests.clock import TurnedClock

START = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
EMPTY = Known(calls={}, polls={}, notes={})


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


def put(live_calls: InMemoryLiveCalls, *calls: Call) -> None:
    for one in calls:
        live_calls.apply(ChangeSet(calls=(one,)))


def poll(live_calls: InMemoryLiveCalls, target: Target, at: datetime) -> None:
    """A good poll that is stored."""
    live_calls.polled(target, at)
    live_calls.stored(target, at)


def summary(live_calls: InMemoryLiveCalls) -> Summary:
    (only,) = live_calls.summaries()
    return only


@pytest.fixture
def clock() -> TurnedClock:
    return TurnedClock(START)


@pytest.fixture
def live_calls(clock: TurnedClock) -> InMemoryLiveCalls:
    return InMemoryLiveCalls(clock, UTC)


def test_a_call_comes_changes_and_goes(live_calls: InMemoryLiveCalls) -> None:
    """The live calls hold a call in its newest state, from its first event until its end."""
    rings = call()
    put(live_calls, rings)
    assert live_calls.calls() == (rings,)
    put(live_calls, answered(rings))
    assert [one.state for one in live_calls.calls()] == [State.CONNECTED]
    put(live_calls, ended(answered(rings), Disposition.ANSWERED))
    assert live_calls.calls() == ()


def test_newest_first(live_calls: InMemoryLiveCalls) -> None:
    """Calls are ordered by their start, the newest first, over all sources."""
    starts = [(3, "acme"), (1, "other"), (2, "acme")]
    for minute, source in starts:
        put(live_calls, call(session_id=f"s-{minute}", source=source, started_at=START + timedelta(minutes=minute)))
    assert [one.session_id for one in live_calls.calls()] == ["s-3", "s-2", "s-1"]


def test_a_call_without_an_event_is_not_shown(live_calls: InMemoryLiveCalls) -> None:
    """A call with sequence 0 is not shown to consumers, nor in the live calls."""
    put(live_calls, call(sequence=0))
    assert live_calls.calls() == ()
    assert summary(live_calls).ringing == 0


def test_it_is_rebuilt_from_what_is_known(live_calls: InMemoryLiveCalls) -> None:
    """After a restart the known live calls and the last polls are shown at once."""
    known = Known(
        calls={"101/s-1": call(), "102/s-2": ended(call("102", "s-2"), Disposition.MISSED)},
        polls={Target(source="acme", extension_id="101"): START},
        notes={},
    )
    live_calls.load("acme", known)
    live_calls.watch("acme", ["101"], 6.0)
    assert [one.call_id for one in live_calls.calls()] == ["101/s-1"]
    assert summary(live_calls).as_of == START
    assert summary(live_calls).complete


def test_totals_by_state(live_calls: InMemoryLiveCalls) -> None:
    """The totals count conversations in each state, and fall back when one ends."""
    dials = call("103", "s-3", direction=Direction.OUTBOUND, state=State.DIALING)
    put(live_calls, call("101", "s-1"), answered(call("102", "s-2")), dials)
    now = summary(live_calls)
    assert (now.ringing, now.connected, now.dialing) == (1, 1, 1)
    put(live_calls, ended(dials, Disposition.CANCELLED))
    assert summary(live_calls).dialing == 0


def test_one_caller_waits_however_many_extensions_ring(live_calls: InMemoryLiveCalls) -> None:
    """A caller who rings three extensions waits once, from the first ring, and not after an answer."""
    parts = [call(f"10{n}", "s-1", started_at=START + timedelta(seconds=n)) for n in range(3)]
    put(live_calls, *parts)
    assert (summary(live_calls).waiting, summary(live_calls).longest_waiting_since) == (1, START)
    put(live_calls, answered(parts[1]))
    assert (summary(live_calls).waiting, summary(live_calls).longest_waiting_since) == (0, None)
    assert (summary(live_calls).ringing, summary(live_calls).connected) == (0, 1)


def test_counts_answered_and_missed(live_calls: InMemoryLiveCalls) -> None:
    """Inbound answers and misses count once each, a voicemail is a miss; outbound calls and other ends do not count."""
    one, two, three = (call(session_id=f"s-{n}") for n in range(3))
    out = answered(call("104", "s-4", direction=Direction.OUTBOUND, state=State.DIALING))
    put(live_calls, one, answered(one), ended(answered(one), Disposition.ANSWERED))
    put(live_calls, two, ended(two, Disposition.MISSED), three, ended(three, Disposition.VOICEMAIL), out)
    four = call(session_id="s-5")
    put(live_calls, four, ended(four, Disposition.FAILED))
    assert (summary(live_calls).answered_today, summary(live_calls).missed_today) == (1, 2)


def test_a_call_only_seen_ended_counts(live_calls: InMemoryLiveCalls) -> None:
    """A call learnt from the call log counts by its disposition."""
    put(live_calls, ended(call(session_id="a"), Disposition.ANSWERED), ended(call(session_id="b"), Disposition.MISSED))
    assert (summary(live_calls).answered_today, summary(live_calls).missed_today) == (1, 1)


def test_a_correction_moves_the_count(live_calls: InMemoryLiveCalls) -> None:
    """A missed call that turns out to be answered elsewhere was not missed."""
    missed = ended(call(), Disposition.MISSED)
    put(live_calls, missed)
    put(live_calls, ended(missed, Disposition.ANSWERED_ELSEWHERE))
    assert summary(live_calls).missed_today == 0


def test_average_speed_of_answer(live_calls: InMemoryLiveCalls) -> None:
    """From the start to the answer or the poll that showed it; a first poll of all does not show when it was."""
    put(live_calls, answered(call(session_id="a"), 4.0), answered(call(session_id="b"), 8.0, answered_exact=False))
    put(live_calls, answered(call(session_id="c", first_poll=True), 600.0, answered_exact=False))
    assert summary(live_calls).average_speed_of_answer_s == pytest.approx(6.0)
    assert summary(live_calls).answered_today == 3


async def test_midnight_is_the_services_own() -> None:
    """Counts start anew at midnight in the configured timezone, not in UTC, and not before."""
    clock = TurnedClock(datetime(2026, 3, 2, 22, 30, tzinfo=UTC))  # 23:30 in Berlin
    live_calls = InMemoryLiveCalls(clock, ZoneInfo("Europe/Berlin"))
    put(live_calls, answered(call(started_at=clock.now())))
    await clock.turn(29 * 60)
    assert summary(live_calls).answered_today == 1
    await clock.turn(2 * 60)
    assert (summary(live_calls).answered_today, summary(live_calls).average_speed_of_answer_s) == (0, None)
    put(live_calls, ended(answered(call(started_at=clock.now() - timedelta(hours=1))), Disposition.ANSWERED))
    assert summary(live_calls).answered_today == 0, "yesterday's answer does not count when its call ends today"


async def test_complete_until_a_poll_is_overdue(live_calls: InMemoryLiveCalls, clock: TurnedClock) -> None:
    """One target without a successful poll for three intervals makes the summary incomplete, and is named."""
    live_calls.watch("acme", ["101", "102"], 20.0)
    assert not summary(live_calls).complete
    assert summary(live_calls).as_of is None
    for extension_id in ("101", "102"):
        poll(live_calls, Target(source="acme", extension_id=extension_id), clock.now())
    assert summary(live_calls).complete
    await clock.turn(50)
    poll(live_calls, Target(source="acme", extension_id="101"), clock.now())
    await clock.turn(9)
    assert summary(live_calls).complete
    await clock.turn(2)
    assert not summary(live_calls).complete
    assert summary(live_calls).overdue == ("102",)
    assert summary(live_calls).as_of == START
    assert live_calls.staleness_s("acme") == pytest.approx(61.0)


async def test_a_target_that_is_quiet_by_plan_is_not_overdue(live_calls: InMemoryLiveCalls, clock: TurnedClock) -> None:
    """With hints the time counts from when a poll was due that did not succeed."""
    live_calls.watch("acme", ["101", "102"], 20.0)
    for extension_id in ("101", "102"):
        poll(live_calls, Target(source="acme", extension_id=extension_id), clock.now())
    live_calls.waiting("acme", {})
    await clock.turn(290)
    assert summary(live_calls).complete
    live_calls.waiting("acme", {"101": clock.monotonic()})
    await clock.turn(59)
    assert summary(live_calls).complete
    await clock.turn(2)
    assert summary(live_calls).overdue == ("101",)
    live_calls.waiting("acme", None)
    assert summary(live_calls).overdue == ()
    assert not summary(live_calls).complete


async def test_as_of_moves_with_what_is_stored(live_calls: InMemoryLiveCalls, clock: TurnedClock) -> None:
    """Good polls that cannot be stored are not overdue, and what is shown is not as of them."""
    live_calls.watch("acme", ["101", "102"], 20.0)
    for extension_id in ("101", "102"):
        poll(live_calls, Target(source="acme", extension_id=extension_id), START)
    for _ in range(4):
        await clock.turn(20)
        live_calls.polled(Target(source="acme", extension_id="101"), clock.now())
        live_calls.polled(Target(source="acme", extension_id="102"), clock.now())
    assert (summary(live_calls).as_of, summary(live_calls).complete) == (START, True)
    live_calls.stored(Target(source="acme", extension_id="101"), clock.now())
    assert summary(live_calls).as_of == START
    live_calls.stored(Target(source="acme", extension_id="102"), clock.now())
    assert summary(live_calls).as_of == clock.now()


async def test_a_source_that_is_blind_as_a_whole_names_no_extension(
    live_calls: InMemoryLiveCalls, clock: TurnedClock
) -> None:
    """When every target is overdue it is the source, not its extensions; at least 30 s must have passed."""
    live_calls.watch("acme", ["101", "102"], 1.0)
    for extension_id in ("101", "102"):
        poll(live_calls, Target(source="acme", extension_id=extension_id), clock.now())
    await clock.turn(29)
    assert summary(live_calls).complete
    await clock.turn(2)
    assert not summary(live_calls).complete
    assert summary(live_calls).overdue == ()


async def test_freshness_does_not_depend_on_the_platforms_clock(
    live_calls: InMemoryLiveCalls, clock: TurnedClock
) -> None:
    """A platform clock an hour off shifts `as_of`, but makes nothing overdue."""
    live_calls.watch("acme", None, 6.0)
    poll(live_calls, Target(source="acme"), clock.now() - timedelta(hours=1))
    assert summary(live_calls).complete
    assert live_calls.staleness_s("acme") == 0.0


async def test_the_time_is_the_platforms(live_calls: InMemoryLiveCalls, clock: TurnedClock) -> None:
    """The newest poll gives it, and this machine's steady clock goes on from there; before one it is not known."""
    live_calls.watch("acme", ["101", "102"], 6.0)
    assert summary(live_calls).now is None
    poll(live_calls, Target(source="acme", extension_id="101"), START - timedelta(hours=2))
    poll(live_calls, Target(source="acme", extension_id="102"), START - timedelta(hours=1))
    await clock.turn(5)
    assert summary(live_calls).now == START - timedelta(hours=1) + timedelta(seconds=5)


def test_extensions_are_the_watched_and_the_seen(live_calls: InMemoryLiveCalls) -> None:
    """At account level an extension is known once it was seen; `unassigned` is none."""
    live_calls.watch("acme", ["101"], 6.0)
    put(live_calls, call("102", "s-2"), call(UNASSIGNED, "s-3"))
    assert live_calls.extensions("acme") == ("101", "102")
    assert live_calls.extensions("unknown") == ()


def test_unwatch_forgets_the_source(live_calls: InMemoryLiveCalls) -> None:
    """A source that was taken out of the configuration leaves no live calls."""
    live_calls.watch("acme", ["101"], 6.0)
    put(live_calls, call())
    live_calls.unwatch("acme")
    assert (live_calls.calls(), live_calls.summaries(), live_calls.sources()) == ((), [], ())


async def test_changed_returns_what_changed_since(live_calls: InMemoryLiveCalls) -> None:
    """A reader gets each changed call once, in its newest state, ended ones too."""
    version = live_calls.version
    first, second = call("101", "s-1"), call("102", "s-2")
    put(live_calls, first, second, answered(first), ended(second, Disposition.MISSED))
    change = await live_calls.changed(version)
    assert change.version == live_calls.version
    assert {one.call_id: one.state for one in change.calls or ()} == {"101/s-1": "connected", "102/s-2": "ended"}


async def test_changed_waits(live_calls: InMemoryLiveCalls) -> None:
    """A reader that is up to date waits until something happens."""
    waiting = asyncio.create_task(live_calls.changed(live_calls.version))
    await asyncio.sleep(0)
    assert not waiting.done()
    put(live_calls, call())
    change = await waiting
    assert [one.call_id for one in change.calls or ()] == ["101/s-1"]


async def test_a_reader_far_behind_reads_afresh(live_calls: InMemoryLiveCalls) -> None:
    """Changes are kept up to a limit; a reader that is further behind, or from before a load, reads everything."""
    version = live_calls.version
    rings = call()
    for _ in range(1024):
        put(live_calls, rings)
    assert (await live_calls.changed(version)).calls == (rings,)
    put(live_calls, rings)
    assert (await live_calls.changed(version)).calls is None
    version = live_calls.version
    live_calls.load("other", EMPTY)
    assert (await live_calls.changed(version)).calls is None


async def test_large_turns_are_kept_no_longer_than_many_small_ones(live_calls: InMemoryLiveCalls) -> None:
    """The bound is on the calls too: what a busy account changes with each poll must not pile up in memory."""
    for poll in range(30):
        live_calls.apply(ChangeSet(calls=tuple(call("101", f"s-{poll}-{number}") for number in range(100)), events=()))
    assert sum(map(len, live_calls._changes)) == live_calls._changed_calls <= 2048
    assert len((await live_calls.changed(live_calls.version - 5)).calls or ()) == 500
    assert (await live_calls.changed(live_calls.version - 25)).calls is None
    live_calls.apply(ChangeSet(calls=tuple(call("101", f"t-{number}") for number in range(3000)), events=()))
    assert (await live_calls.changed(live_calls.version - 1)).calls is None
    assert not live_calls._changes


async def test_recovery_is_a_change(live_calls: InMemoryLiveCalls, clock: TurnedClock) -> None:
    """A poll that ends an outage changes the live calls, so that readers see the summary heal; others do not."""
    live_calls.watch("acme", None, 6.0)
    version = live_calls.version
    poll(live_calls, Target(source="acme"), clock.now())
    assert live_calls.version == version + 1
    poll(live_calls, Target(source="acme"), clock.now())
    assert live_calls.version == version + 1


# Conversations


OUTSIDE, COLLEAGUE = Party(number="+15550100351"), Party(extension_number="109")


def counted(counts: Counts) -> tuple[int, int, int]:
    return counts.answered_today, counts.missed_today, counts.abandoned_today


def test_missed_callers_of_a_ring_all_count_once_each(live_calls: InMemoryLiveCalls) -> None:
    """Twenty callers whom three phones missed are twenty; each phone has its own twenty."""
    live_calls.watch("acme", ["101", "102", "103"], 6.0)
    for n in range(20):
        parts = [call(f"10{phone}", f"s-{n}") for phone in (1, 2, 3)]
        words = (Disposition.MISSED, Disposition.MISSED, Disposition.FAILED)
        put(live_calls, *parts, *(ended(one, word) for one, word in zip(parts, words, strict=True)))
    assert counted(summary(live_calls)) == counted(live_calls.total()) == (0, 20, 0)
    each = {one: counted(counts) for one, counts in live_calls.extension_counts("acme").items()}
    assert each == {"101": (0, 20, 0), "102": (0, 20, 0), "103": (0, 0, 0)}


def test_a_transferred_call_counts_once(live_calls: InMemoryLiveCalls) -> None:
    """At its first answer; each extension that took it has its own."""
    first = answered(call("101"), 4.0)
    put(live_calls, first, ended(first, Disposition.TRANSFERRED, 60.0))
    second = call("102", started_at=START + timedelta(seconds=60))
    put(live_calls, second)
    assert (summary(live_calls).waiting, summary(live_calls).ringing) == (0, 1)
    put(live_calls, answered(second, 20.0), ended(answered(second, 20.0), Disposition.ANSWERED, 90.0))
    assert counted(summary(live_calls)) == (1, 0, 0)
    assert summary(live_calls).average_speed_of_answer_s == pytest.approx(4.0)
    each = live_calls.extension_counts("acme")
    assert [counted(each[one]) for one in ("101", "102")] == [(1, 0, 0), (1, 0, 0)]
    assert each["102"].average_speed_of_answer_s == pytest.approx(20.0)


def test_only_callers_from_outside_count(live_calls: InMemoryLiveCalls) -> None:
    """A colleague's call is none; a caller not known yet counts as outside until he turns out to be a colleague."""
    inside = call("101", "s-1", from_party=COLLEAGUE)
    put(live_calls, inside)
    assert (summary(live_calls).waiting, summary(live_calls).ringing) == (0, 1)
    put(live_calls, ended(inside, Disposition.MISSED))
    unknown = call("102", "s-2")
    put(live_calls, unknown)
    assert summary(live_calls).waiting == 1
    put(live_calls, ended(unknown, Disposition.MISSED))
    assert counted(summary(live_calls)) == (0, 1, 0)
    put(live_calls, ended(call("102", "s-2", sequence=2, from_party=COLLEAGUE), Disposition.MISSED))
    assert counted(summary(live_calls)) == counted(live_calls.extension_counts("acme")["102"]) == (0, 0, 0)


def test_service_level(live_calls: InMemoryLiveCalls) -> None:
    """Answered in time, of all that were answered, missed, or abandoned after it; null while there is none."""
    assert live_calls.total().service_level is None
    for n, after_s in enumerate((5.0, 20.0, 20.5)):
        put(live_calls, answered(call(session_id=f"a-{n}"), after_s))
    put(live_calls, ended(call(session_id="early"), Disposition.ABANDONED, 20.0))
    assert summary(live_calls).service_level == pytest.approx(2 / 3)
    put(
        live_calls,
        ended(call(session_id="late"), Disposition.ABANDONED, 21.0),
        ended(call(session_id="m"), Disposition.BUSY),
    )
    assert (summary(live_calls).abandoned_today, summary(live_calls).missed_today) == (2, 1)
    assert summary(live_calls).service_level == pytest.approx(2 / 5)
    live_calls.statistics.configure(UTC, 5.0)
    assert summary(live_calls).service_level == pytest.approx(1 / 6)
    live_calls.statistics.configure(UTC, 60.0)
    assert summary(live_calls).service_level == pytest.approx(3 / 4)


def test_a_session_that_two_sources_see_is_one_conversation(live_calls: InMemoryLiveCalls) -> None:
    """Of one account: once in the total, once in each source. Of two accounts they are two."""
    put(live_calls, call("101"), call("102", source="other"))
    assert [one.waiting for one in (*live_calls.summaries(), live_calls.total())] == [1, 1, 1]
    put(live_calls, answered(call("102", source="other")), ended(call("101"), Disposition.ANSWERED_ELSEWHERE))
    assert [counted(one) for one in (*live_calls.summaries(), live_calls.total())] == [(0, 0, 0), (1, 0, 0), (1, 0, 0)]
    put(live_calls, call("201", source="third", account_id="2"))
    assert (live_calls.total().waiting, live_calls.total().connected) == (1, 1)
    live_calls.unwatch("other")
    assert counted(live_calls.total()) == (0, 0, 0)


async def test_the_longest_wait_is_by_the_platforms_clock(live_calls: InMemoryLiveCalls, clock: TurnedClock) -> None:
    """As long as the caller's phone says, whatever this machine's clock reads."""
    live_calls.watch("acme", ["101"], 6.0)
    poll(live_calls, Target(source="acme", extension_id="101"), START + timedelta(hours=1))
    put(live_calls, call(started_at=START + timedelta(hours=1)))
    await clock.turn(12)
    assert summary(live_calls).longest_wait_s == live_calls.total().longest_wait_s == pytest.approx(12)
    assert live_calls.extension_counts("acme")["101"].longest_wait_s == pytest.approx(12)


async def test_a_call_that_the_platform_puts_into_tomorrow_counts_tomorrow() -> None:
    """Its clock is ahead: missed two seconds after its midnight, one second before ours."""
    clock = TurnedClock(datetime(2026, 3, 2, 23, 59, 58, tzinfo=UTC))
    live_calls = InMemoryLiveCalls(clock, UTC)
    put(live_calls, ended(call(started_at=clock.now()), Disposition.MISSED, 4.0))
    assert counted(summary(live_calls)) == (0, 0, 0)
    await clock.turn(3)
    assert counted(summary(live_calls)) == counted(live_calls.extension_counts("acme")["101"]) == (0, 1, 0)


async def test_a_conversation_over_midnight(clock: TurnedClock) -> None:
    """It counts on the day of its answer, also where another part ends, or takes over, on the next."""
    clock = TurnedClock(datetime(2026, 3, 2, 23, 59, tzinfo=UTC))
    live_calls = InMemoryLiveCalls(clock, UTC)
    first = answered(call("101", started_at=clock.now()))
    put(live_calls, first, call("102", "s-2", started_at=clock.now()))
    assert counted(live_calls.total()) == (1, 0, 0)
    await clock.turn(120)
    assert (counted(live_calls.total()), live_calls.total().connected, live_calls.total().waiting) == ((0, 0, 0), 1, 1)
    put(live_calls, ended(first, Disposition.TRANSFERRED, 130.0), answered(call("103", started_at=clock.now())))
    put(live_calls, answered(call("102", "s-2", started_at=START + timedelta(hours=14, minutes=59)), 130.0))
    assert counted(live_calls.total()) == (1, 0, 0)


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
    """After any history the totals, groups and waiting callers are what the listed calls add up to."""
    live_calls = InMemoryLiveCalls(TurnedClock(START), UTC)
    live_calls.watch("acme", ["101", "102"], 6.0)
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
        put(live_calls, msgspec.structs.replace(to[step], sequence=number))
    live = live_calls.calls()
    now = summary(live_calls)
    connected = {one.session_id for one in live if one.state == "connected"}
    ringing = {one.session_id for one in live if one.state == "ringing"} - connected
    assert (now.ringing, now.connected) == (len(ringing), len(connected))
    assert now.waiting <= now.ringing
    assert {ordering_key: n for ordering_key, n in live_calls.active("acme").items() if n} == _count(live)


def _count(live: Sequence[Call]) -> dict[tuple[str, State, Direction], int]:
    ordering_keys: dict[tuple[str, State, Direction], int] = {}
    for one in live:
        ordering_key = (one.extension_id, one.state, one.direction)
        ordering_keys[ordering_key] = ordering_keys.get(ordering_key, 0) + 1
    return ordering_keys


class Outbox:
    """As much of an outbox as keeps counts: events in order, and notes."""

    def __init__(self) -> None:
        self.events: list[CallEvent] = []
        self.notes: dict[str, bytes] = {}
        self.broken = False
        self.pruned = 0  # so many of the first are kept no longer

    async def known(self, source: str) -> Known:
        newest = {one.call.call_id: one.call for one in self.events if one.call.source == source}
        return Known(calls={key: call for key, call in newest.items() if call.live}, polls={}, notes={})

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
        seen = Observation(after=None, before=START, exact=True, evidence=Evidence.ACTIVE_CALLS, first_poll=False)
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

    async def reborn(self, clock: TurnedClock, *sources: str) -> InMemoryLiveCalls:
        """The live calls of the next run."""
        live_calls = InMemoryLiveCalls(clock, UTC)
        await restore(live_calls, self, self.notes, sources or ("acme",))  # type: ignore[arg-type]
        return live_calls


@pytest.mark.parametrize("applied", [0, 1, 2, 3])
async def test_counts_survive_a_kill_at_any_moment(clock: TurnedClock, applied: int) -> None:
    """Stored counts and replayed events give the same totals, no matter when the live calls were updated."""
    outbox: Any = Outbox()
    live_calls = InMemoryLiveCalls(clock, UTC)
    live_calls.watch("acme", ["101"], 6.0)
    keeping = asyncio.create_task(store_counts(live_calls, outbox, OutboxHealth(clock, bound()).service, clock))
    calls = [answered(call(session_id=f"s-{n}"), after_s=3.0) for n in range(3)]
    await clock.turn(1)
    outbox.record(*calls)
    put(live_calls, *calls[:applied])
    await clock.turn(11)
    put(live_calls, *calls[applied:])
    await clock.turn(10)
    keeping.cancel()
    reborn = await outbox.reborn(clock)
    assert summary(reborn).answered_today == 3
    assert summary(reborn).average_speed_of_answer_s == pytest.approx(3.0)


async def test_counts_survive_their_events(clock: TurnedClock) -> None:
    """What counted this morning counts after a restart too when its events and calls are kept no longer."""
    outbox: Any = Outbox()
    live_calls = InMemoryLiveCalls(clock, UTC)
    live_calls.watch("acme", ["101"], 6.0)
    keeping = asyncio.create_task(store_counts(live_calls, outbox, OutboxHealth(clock, bound()).service, clock))
    await clock.turn(1)
    calls = [ended(call(session_id=f"s-{n}"), Disposition.MISSED) for n in range(3)]
    outbox.record(*calls)
    put(live_calls, *calls)
    await clock.turn(3600)
    keeping.cancel()
    outbox.pruned = len(calls)
    reborn = await outbox.reborn(clock)
    assert summary(reborn).missed_today == 3


async def test_a_note_claims_only_what_is_surely_in_it(clock: TurnedClock) -> None:
    """Killed after a note made between recording an event and updating the live calls: it still counts."""
    outbox: Any = Outbox()
    live_calls = InMemoryLiveCalls(clock, UTC)
    live_calls.watch("acme", ["101"], 6.0)
    keeping = asyncio.create_task(store_counts(live_calls, outbox, OutboxHealth(clock, bound()).service, clock))
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
    live_calls = InMemoryLiveCalls(clock, UTC)
    missed = ended(call(), Disposition.MISSED)
    put(live_calls, missed)
    outbox.record(missed)
    outbox.notes[COUNTS_NOTE] = live_calls.statistics.dump(1)
    reborn = await outbox.reborn(clock)
    assert summary(reborn).missed_today == 1
    put(reborn, ended(missed, Disposition.ANSWERED_ELSEWHERE))
    assert summary(reborn).missed_today == 0


@pytest.mark.parametrize("noted", [1, 2, 3, 4, 5, 6])
async def test_a_conversation_is_the_same_after_a_restart_at_any_step(clock: TurnedClock, noted: int) -> None:
    """Two extensions, in two sources, and a transfer: what was live before the note, or only in the outbox."""
    outbox: Any = Outbox()
    live_calls = InMemoryLiveCalls(clock, UTC)
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
    put(live_calls, *steps[:noted])
    outbox.notes[COUNTS_NOTE] = live_calls.statistics.dump(noted)
    outbox.record(*steps[noted:])
    put(live_calls, *steps[noted:])
    reborn = await outbox.reborn(clock, "acme", "other")
    for source in ("acme", "other"):
        of_before = live_calls.extension_counts(source)
        assert reborn.extension_counts(source) == {one: c for one, c in of_before.items() if any(counted(c))}
    assert [msgspec.structs.astuple(s)[:9] for s in reborn.summaries()] == [
        msgspec.structs.astuple(s)[:9] for s in live_calls.summaries()
    ]
    assert counted(reborn.total()) == counted(live_calls.total()) == (1, 0, 0)


async def test_yesterdays_counts_are_not_todays(clock: TurnedClock) -> None:
    """A note of another day gives no counts, but its calls are known."""
    outbox: Any = Outbox()
    live_calls = InMemoryLiveCalls(clock, UTC)
    rings, missed = call(), ended(call("102", "s-2"), Disposition.MISSED)
    outbox.record(rings, missed)
    put(live_calls, rings, missed)
    outbox.notes[COUNTS_NOTE] = live_calls.statistics.dump(2)
    await clock.turn(24 * 3600)
    reborn = await outbox.reborn(clock)
    assert (counted(reborn.total()), reborn.total().waiting) == ((0, 0, 0), 1)


async def test_keeping_counts_outlives_a_full_disk(clock: TurnedClock) -> None:
    """An outbox that cannot be used for a while costs no count and ends nothing."""
    outbox: Any = Outbox()
    live_calls = InMemoryLiveCalls(clock, UTC)
    put(live_calls, answered(call()))
    outbox.record(answered(call()))
    outbox.broken = True
    keeping = asyncio.create_task(store_counts(live_calls, outbox, OutboxHealth(clock, bound()).service, clock))
    await clock.turn(25)
    assert not keeping.done()
    outbox.broken = False
    await clock.turn(20)
    keeping.cancel()
    assert COUNTS_NOTE in outbox.notes


def test_kept_counts_stay_small(clock: TurnedClock) -> None:
    """A busy day's note is bounded: it is written every few seconds."""
    live_calls = InMemoryLiveCalls(clock, UTC)
    for n in range(5000):
        put(live_calls, ended(call(session_id=f"s-{n}"), Disposition.MISSED))
    assert len(live_calls.statistics.dump(1)) < 32_000


def test_loading_again_counts_nothing_twice(clock: TurnedClock) -> None:
    """The service starts anew from what the outbox holds if the outbox fails while it is read."""
    live_calls, known = InMemoryLiveCalls(clock, UTC), Known(calls={"101/s-1": call()}, polls={}, notes={})
    for _ in range(2):
        live_calls.load("acme", known)
    assert dict(live_calls.active("acme")) == {("101", State.RINGING, Direction.INBOUND): 1}
    assert live_calls.total().ringing == 1
