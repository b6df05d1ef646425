"""Counting piece by piece gives what folding every conversation at once gives."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from callcast.calls.model import Call, Direction, Disposition, Party, Provider, State
from callcast.calls.sessions import session_of
from callcast.live import daily_statistics as today
from callcast.live.daily_statistics import DailyStatistics
from tests.clock import TurnedClock

START = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
EXTENSIONS = {"101": "acme", "102": "acme", "103": "other"}
CALLERS = (None, Party(number="+15550100351"), Party(extension_number="101"))

STEPS = st.lists(
    st.tuples(
        st.sampled_from(sorted(EXTENSIONS)),
        st.sampled_from(["s-1", "s-2"]),
        st.sampled_from(["ring", "dial", "answer", "end", "kill"]),
        st.sampled_from(CALLERS),
        st.sampled_from([Disposition.MISSED, Disposition.ABANDONED, Disposition.ANSWERED, Disposition.FAILED]),
    ),
    max_size=25,
)


def step(call: Call, what: str, caller: Party | None, disposition: Disposition) -> Call:
    call = replace(call, sequence=call.sequence + 1, from_party=caller)
    if what == "answer":
        return replace(call, state=State.CONNECTED, answered_at=START + timedelta(seconds=7), answered_exact=True)
    if what == "end":
        return replace(call, state=State.ENDED, disposition=disposition, ended_at=START + timedelta(seconds=30))
    outbound = what == "dial"
    return replace(
        call,
        state=State.DIALING if outbound else State.RINGING,
        direction=Direction.OUTBOUND if outbound else Direction.INBOUND,
    )


def fresh(extension_id: str, session_id: str) -> Call:
    return Call(
        source=EXTENSIONS[extension_id],
        call_id=f"{extension_id}/{session_id}",
        session_id=session_id,
        extension_id=extension_id,
        account_id="1",
        direction=Direction.INBOUND,
        state=State.RINGING,
        started_at=START,
        provider=Provider(name="ringcentral", record_id="r"),
    )


def expected(calls: list[Call]) -> tuple[int, int, int, int]:
    """Answered, missed, abandoned, waiting of these calls, conversation by conversation."""
    sessions = [session_of([c for c in calls if c.session_id == name]) for name in {c.session_id for c in calls}]
    counted = [one for one in sessions if one.direction is Direction.INBOUND and not one.internal]
    ended = [one for one in counted if one.state is State.ENDED and not one.answered]
    return (
        sum(one.answered for one in counted),
        sum(one.disposition in today.MISSED for one in ended),
        sum(one.disposition is Disposition.ABANDONED for one in ended),
        sum(one.state is State.RINGING and not one.answered for one in counted),
    )


def found(statistics: DailyStatistics, source: str = "", extension_id: str = "") -> tuple[int, int, int, int]:
    counts = statistics.counts(START, source, extension_id)
    return counts.answered_today, counts.missed_today, counts.abandoned_today, counts.waiting


@given(STEPS)
def test_any_history_counts_as_its_conversations(steps: list[tuple[str, str, str, Party | None, Disposition]]) -> None:
    """In all, by source and by extension, with restarts between."""
    clock = TurnedClock(START)
    statistics = DailyStatistics(clock, UTC, 20.0)
    calls: dict[str, Call] = {}
    for extension_id, session_id, what, caller, disposition in steps:
        if what == "kill":
            kept = statistics.dump(1)
            statistics = DailyStatistics(clock, UTC, 20.0)
            _, recent = statistics.restore(kept)
            again = {(call.source, call.session_id) for call in calls.values() if call.live} | {*map(tuple, recent)}
            statistics.count(call for call in calls.values() if (call.source, call.session_id) in again)
            continue
        call = calls.get(f"{extension_id}/{session_id}") or fresh(extension_id, session_id)
        calls[call.call_id] = step(call, what, caller, disposition)
        statistics.count([calls[call.call_id]])
    every = list(calls.values())
    assert found(statistics) == expected(every)
    for source in ("acme", "other"):
        assert found(statistics, source) == expected([call for call in every if call.source == source])
    for extension_id, source in EXTENSIONS.items():
        own = [call for call in every if call.extension_id == extension_id]
        assert found(statistics, source, extension_id) == expected(own)


def test_memory_is_bounded_and_what_was_counted_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy day's older conversations are forgotten, the live ones never."""
    monkeypatch.setattr(today, "CONVERSATIONS_MAX", 500)
    statistics = DailyStatistics(TurnedClock(START), UTC, 20.0)
    statistics.count([replace(fresh("101", "live"), sequence=1)])
    for n in range(today.CONVERSATIONS_MAX + 100):
        statistics.count([step(fresh("101", f"s-{n}"), "end", None, Disposition.MISSED)])
    assert len(statistics._conversations) <= today.CONVERSATIONS_MAX + 1
    assert found(statistics) == found(statistics, "acme", "101") == (0, today.CONVERSATIONS_MAX + 100, 0, 1)
