"""What hints make the scheduler expect, when that is met, and how offsets and trust are learned."""

import math
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from callcast.calls.model import UNASSIGNED, CallObservation, Direction, Disposition, Provider, State, Target
from callcast.polling.hints import (
    ANSWERED,
    END_SHOWN_S,
    ENDED,
    EXPECTED_MAX,
    EXPIRES_S,
    STARTED,
    Expectations,
    MissRate,
    Offsets,
)
from callcast.ports.hints import Hint, Step
from tests.builders import NINE

TARGET = Target(source="acme", extension_id="101")
STATES = {"started": State.RINGING, "answered": State.CONNECTED, "ended": State.ENDED}


def hint(step: Step, at: float = 0.0, session: str = "s-1", party: str | None = "p-1", **facts: Any) -> Hint:
    facts = {"extension_id": "101", "via": "push"} | facts
    return Hint(target=TARGET, session_id=session, party_id=party, step=step, at=at, **facts)


def listed(
    step: Step, session: str = "s-1", record: str = "r-1", after_s: float = 0.0, extension_id: str = "101"
) -> CallObservation:
    return CallObservation(
        extension_id=extension_id,
        session_id=session,
        account_id="9",
        record_id=record,
        direction=Direction.INBOUND,
        state=STATES[step],
        disposition=Disposition.ANSWERED if step == "ended" else None,
        started_at=NINE + timedelta(seconds=after_s),
        provider=Provider(name="ringcentral", record_id=record),
    )


def expecting(step: Step, *, offset_s: float = 0.8) -> Expectations:
    expected = Expectations()
    assert expected.hinted(hint(step), offset_s, expect=True)
    return expected


def due(expected: Expectations, now: float = 0.0, *, scarce: bool = False) -> float:
    return min(party.due_at(now, scarce=scarce) for party in expected.open.values())


def test_a_hint_is_expected_until_a_poll_shows_it_or_more() -> None:
    expected = expecting("started")
    served, _ = expected.polled([], 0.8, 1.0)
    assert served == []
    served, _ = expected.polled([listed("answered")], 2.3, 2.5)
    assert [(one.level, one.hinted_at) for one in served] == [(STARTED, 0.0)]
    assert expected.open == {}


def test_what_the_list_has_shown_causes_no_poll() -> None:
    expected = Expectations()
    expected.polled([listed("answered")], 0.0, 0.2)
    assert expected.hinted(hint("started"), 0.8, expect=True) is False
    assert expected.hinted(hint("answered"), 0.8, expect=True) is False
    assert expected.hinted(hint("ended"), 0.8, expect=True) is True
    assert len(expected.open) == 1


def test_the_same_step_or_a_lower_one_of_a_party_is_nothing_new() -> None:
    """Also by the other way, which does not name the party."""
    expected = expecting("answered")
    for again in (hint("answered"), hint("started"), hint("answered", party=None, via="presence")):
        assert expected.hinted(again, 0.8, expect=True) is None
    assert len(expected.open) == 1


def test_a_queue_that_rings_the_same_agent_again_is_expected_anew() -> None:
    """The list still shows the first call of the session as ended: that is not what the second hint announces."""
    expected = Expectations()
    first = listed("ended", record="r-1")
    expected.polled([first], 0.0, 0.2)
    assert expected.hinted(hint("started", at=5, party="p-2"), 0.8, expect=True) is True
    served, _ = expected.polled([first], 5.8, 6.0)
    assert served == []
    served, steps = expected.polled([first, listed("started", record="r-2", after_s=5)], 7.3, 7.5)
    assert len(served) == 1
    assert steps == [("s-1", "101", STARTED)]


def test_an_end_of_the_first_call_is_none_of_the_second() -> None:
    """The second rings while the list still shows the first as ringing, and the next list shows only its end."""
    expected = Expectations()
    expected.polled([listed("started", record="r-1")], 0.0, 0.2)
    for step in ("started", "ended"):
        expected.hinted(hint(step, at=5), 0.8, expect=True)
    assert expected.hinted(hint("started", at=6, party="p-2"), 0.8, expect=True) is True
    served, _ = expected.polled([listed("ended", record="r-1")], 6.8, 7.0)
    assert [one.level for one in served] == [ENDED]
    assert expected.hinted(hint("answered", at=9, party="p-2"), 0.8, expect=True) is True
    served, _ = expected.polled([listed("answered", record="r-2", after_s=6)], 9.8, 10.0)
    assert [one.level for one in served] == [ANSWERED]


def test_a_start_after_the_end_of_an_unnamed_party_is_a_new_call() -> None:
    expected = Expectations()
    expected.hinted(hint("ended", party=None), 6.5, expect=True)
    assert expected.hinted(hint("started", at=20, party=None), 0.8, expect=True) is True
    assert expected.hinted(hint("ended", at=30, party=None), 6.5, expect=True) is True


def test_a_hint_is_checked_only_by_a_poll_that_must_show_it() -> None:
    expected = expecting("started")
    expected.polled([listed("started")], 0.8, 1.0)
    assert expected.unchecked_since == 0.0
    expected.polled([], END_SHOWN_S, END_SHOWN_S + 0.2)
    assert expected.unchecked_since == math.inf
    assert expected.unchecked_until_poll == 0.0


def test_an_end_is_also_shown_by_a_call_that_left_the_list() -> None:
    expected = Expectations()
    expected.polled([listed("answered")], 0.0, 0.2)
    expected.hinted(hint("ended", at=10), 6.5, expect=True)
    served, steps = expected.polled([], 16.5, 16.7)
    assert [one.level for one in served] == [ENDED]
    assert steps == []


def test_the_first_list_shows_what_was_before() -> None:
    """Its steps are no misses: no hint could announce them."""
    expected = Expectations()
    assert expected.polled([listed("ended")], 0.0, 0.2)[1] == []
    assert expected.polled([listed("ended"), listed("ended", "s-2", "r-2")], 8, 8.2)[1] == [
        ("s-2", "101", STARTED),
        ("s-2", "101", ANSWERED),
        ("s-2", "101", ENDED),
    ]


def test_tries_of_a_start_lie_further_and_further_apart_and_end() -> None:
    expected = expecting("started")
    waits = []
    for _ in range(3):
        at = due(expected)
        expected.polled([], at, at + 0.2)
        waits.append(due(expected) - at - 0.2)
    assert waits == pytest.approx([1.28, 2.048, float("inf")])


def test_an_end_is_polled_for_early_only_while_places_are_free() -> None:
    expected = expecting("ended", offset_s=6.5)
    assert due(expected) == 6.5
    assert due(expected, 6.5, scarce=True) == 7.0
    assert due(expected, END_SHOWN_S, scarce=True) == END_SHOWN_S
    expected.polled([], 6.5, 6.7)
    assert due(expected) == pytest.approx(6.5 * 1.35)
    expected.polled([], 8.8, 9.0)
    assert due(expected) == END_SHOWN_S
    waits = []
    for _ in range(3):
        at = due(expected)
        expected.polled([], at, at + 0.2)
        waits.append(due(expected) - at - 0.2)
    assert waits == pytest.approx([3.0, 4.5, float("inf")])


def test_an_earlier_poll_is_no_try_and_teaches_nothing() -> None:
    expected = expecting("started")
    expected.polled([], 0.5, 0.7)
    assert due(expected) == 0.8
    (served,), _ = expected.polled([listed("started")], 0.7, 0.9)
    assert served.hit is None


@pytest.mark.parametrize(("sent_at", "hit"), [(0.8, True), (1.8, True), (1.9, None)])
def test_a_first_try_in_time_is_a_hit(sent_at: float, hit: bool | None) -> None:
    expected = expecting("started")
    (served,), _ = expected.polled([listed("started")], sent_at, sent_at + 0.2)
    assert served.hit is hit


def test_a_miss_is_one_only_when_a_later_poll_shows_the_step() -> None:
    expected = expecting("started")
    expected.polled([], 0.8, 1.0)
    (served,), _ = expected.polled([listed("started")], 2.3, 2.5)
    assert served.hit is False


def test_expectations_are_bounded_in_number_and_time() -> None:
    expected = Expectations()
    for n in range(EXPECTED_MAX + 10):
        expected.hinted(hint("started", at=float(n), session=f"s-{n}"), 0.8, expect=True)
    assert len(expected.open) == EXPECTED_MAX
    assert min(party.hinted_at for party in expected.open.values()) == 10
    expected.postpone_expiry(60)
    expected.expire(EXPIRES_S + 69)
    assert len(expected.open) == EXPECTED_MAX
    expected.expire(EXPIRES_S + 70 + EXPECTED_MAX + 60)
    assert expected.open == {}


def test_hints_that_never_come_true_get_one_try() -> None:
    """Two expire, which is more than 30 %; after some that come true there are three again."""
    expected = Expectations()
    for n in range(2):
        expected.hinted(hint("started", session=f"s-{n}"), 0.8, expect=True)
    expected.expire(EXPIRES_S)
    assert expected.expired.too_many
    expected.hinted(hint("started", 200.0, "s-3"), 0.8, expect=True)
    expected.polled([], 200.8, 201.0)
    assert due(expected) == float("inf")
    expected.polled([listed("started", "s-3")], 210.0, 210.2)
    assert not expected.expired.too_many


def test_a_hint_of_any_party_with_a_step_as_high_says_it() -> None:
    expected = expecting("answered")
    assert expected.was_hinted("s-1", "101", STARTED)
    assert expected.was_hinted("s-1", "101", ANSWERED)
    assert not expected.was_hinted("s-1", "101", ENDED)
    assert not expected.was_hinted("s-1", "102", STARTED)
    assert not expected.was_hinted("s-2", "101", STARTED)


@pytest.mark.parametrize("lateness_s", [0.3, 0.8, 2.0, 4.0])
def test_the_offset_of_starts_settles_where_nine_of_ten_hit(lateness_s: float) -> None:
    """Whatever the list's lateness is: the step is shown evenly between half of it and one and a half."""
    offsets = Offsets()
    hits = []
    for n in range(4000):
        shown_after_s = lateness_s * (0.5 + (n * 0.618) % 1)
        hit = offsets[STARTED] >= shown_after_s
        offsets.learn(STARTED, hit=hit)
        hits.append(hit)
    assert 0.8 < sum(hits[2000:]) / 2000 < 0.95
    assert lateness_s * 0.9 < offsets[STARTED] < lateness_s * 2


def test_an_offset_that_went_up_comes_down() -> None:
    """After a bad hour: a hundred misses, then a list that is as quick as ever."""
    offsets = Offsets()
    for _ in range(100):
        offsets.learn(ANSWERED, hit=False)
    assert offsets[ANSWERED] == 10
    for _ in range(40):
        offsets.learn(ANSWERED, hit=True)
    assert offsets[ANSWERED] < 0.8


@given(st.lists(st.tuples(st.sampled_from([STARTED, ANSWERED, ENDED]), st.booleans())))
def test_offsets_stay_within_their_bounds(lessons: list[tuple[int, bool]]) -> None:
    offsets = Offsets()
    for level, hit in lessons:
        offsets.learn(level, hit=hit)
    assert 0.2 <= offsets[STARTED] <= 10
    assert 0.2 <= offsets[ANSWERED] <= 10
    assert 1.0 <= offsets[ENDED] <= END_SHOWN_S


def test_four_misses_in_a_row_are_too_many_and_hits_bring_trust_back() -> None:
    misses = MissRate(0.05, 0.15, 0.075)
    for n in range(4):
        assert not misses.too_many, n
        misses.add(True)
    assert misses.too_many
    hits = 0
    while misses.too_many:
        misses.add(False)
        hits += 1
    assert 10 < hits < 30


@pytest.mark.parametrize(("extension_id", "hinted"), [("102", False), (UNASSIGNED, True)])
def test_a_call_that_no_extension_has_yet_is_hinted_by_any_party(extension_id: str, hinted: bool) -> None:
    """A queue rings: its event names the queue, the list shows a call without an extension."""
    expected = expecting("started")
    assert expected.was_hinted("s-1", extension_id, STARTED) is hinted
    assert expected.polled([listed("started", extension_id=extension_id)], 1.0, 1.2)[0] == [], "it may show more yet"


def test_of_an_extension_that_no_list_shows_nothing_is_expected() -> None:
    """Such as a queue: each of its calls would cause polls that cannot show it. Until a list does show it."""
    expected = Expectations()

    def is_expected(session: str, at: float) -> bool:
        one = replace(hint("started", at, session, extension_id="7"), target=Target(source="acme"))
        assert expected.hinted(one, 0.8, expect=True)
        return any(party.session_id == session for party in expected.open.values())

    assert is_expected("s-1", 0)
    expected.expire(EXPIRES_S)
    assert is_expected("s-2", 200), "no poll was made"
    expected.polled([], 201, 201.2)
    expected.expire(200 + EXPIRES_S)
    assert not is_expected("s-3", 400)
    expected.polled([listed("started", "s-3", extension_id="7")], 401, 401.2)
    assert is_expected("s-4", 402)
    expected.polled([], 403, 403.2)
    expected.expire(402 + EXPIRES_S)
    assert is_expected("s-5", 600), "a list has shown the extension"
