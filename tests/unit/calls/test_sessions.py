"""Parts of a session -> one conversation."""

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callcast.calls.model import Call, Direction, Disposition, Party, Provider, State
from callcast.calls.sessions import Session, session_of

START = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
OUTSIDE = Party(number="+15550100351")
COLLEAGUE = Party(extension_number="103", extension_id="103")


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def part(extension_id: str = "101", began: float = 0, **facts: Any) -> Call:
    """An inbound part that rings; `answered` and `ended` take seconds."""
    answered, ended = facts.pop("answered", None), facts.pop("ended", None)
    disposition = Disposition(facts.pop("disposition")) if "disposition" in facts else None
    live = State.RINGING if answered is None else State.CONNECTED
    usual: dict[str, Any] = {
        "source": "acme",
        "call_id": f"{extension_id}/s-1",
        "session_id": "s-1",
        "extension_id": extension_id,
        "account_id": "1",
        "sequence": 1,
        "direction": Direction.INBOUND,
        "state": live if ended is None else State.ENDED,
        "from_party": OUTSIDE,
        "started_at": at(began),
        "answered_at": None if answered is None else at(answered),
        "answered_exact": answered is not None,
        "ended_at": None if ended is None else at(ended),
        "disposition": disposition,
        "provider": Provider(name="ringcentral", record_id="r-1"),
    }
    return Call(**(usual | facts))


def test_a_ring_all_that_is_answered() -> None:
    """One answer, no matter who else was rung; the others' ends end nothing."""
    session = session_of(
        [
            part("101", ended=6, disposition="answered_elsewhere"),
            part("102", began=1, answered=5),
            part("103", ended=6, disposition="missed"),
        ]
    )
    assert (session.state, session.disposition, session.ended_at) == (State.CONNECTED, None, None)
    assert (session.started_at, session.answered_at, session.answered_by) == (at(0), at(5), ("102",))


def test_a_transfer_is_one_conversation() -> None:
    """It began with the first part, was answered by each in turn, and ends with the last."""
    session = session_of(
        [part("102", began=60, answered=65, ended=99, disposition="answered"), part(answered=4, ended=61)]
    )
    assert [one.extension_id for one in session.parts] == ["101", "102"]
    assert (session.started_at, session.answered_at, session.ended_at) == (at(0), at(4), at(99))
    assert session.answered_by == ("101", "102")
    assert session.disposition is Disposition.ANSWERED


@pytest.mark.parametrize(
    ("words", "disposition"),
    [
        (["missed", "failed", "missed"], "missed"),
        (["failed", "voicemail", "missed"], "voicemail"),
        (["missed", "abandoned"], "abandoned"),
        (["transferred", "missed"], "missed"),
        (["unknown", "transferred"], "transferred"),
        (["missed", "answered_elsewhere"], "answered_elsewhere"),
        (["answered_elsewhere", "answered", "abandoned"], "answered"),
        (["busy", "declined"], "busy"),
    ],
)
def test_the_disposition_is_the_first_that_any_part_has(words: list[str], disposition: str) -> None:
    """In the order of what says most about the caller; who else answered is not among the parts."""
    session = session_of([part(f"10{n}", ended=9, disposition=word) for n, word in enumerate(words)])
    assert session.disposition == disposition
    assert session.complete is (disposition != "answered_elsewhere")


def test_every_disposition_has_a_rank() -> None:
    """None counts as less than unknown by oversight."""
    for word in Disposition:
        assert (
            session_of([part(ended=9, disposition="unknown"), part("102", ended=9, disposition=word)]).disposition
            == word
        )


@pytest.mark.parametrize(
    ("parts", "internal"),
    [
        ([part(from_party=OUTSIDE)], False),
        ([part(from_party=COLLEAGUE)], True),
        ([part(from_party=None)], False),
        ([part(from_party=None, ended=9), part("102", from_party=COLLEAGUE)], True),
        ([part(from_party=None), part("102", from_party=COLLEAGUE)], False),
        ([part(from_party=OUTSIDE, answered=4), part("102", began=60, from_party=COLLEAGUE)], False),
        ([part(direction=Direction.OUTBOUND, from_party=COLLEAGUE)], False),
    ],
)
def test_internal_is_what_every_known_caller_says(parts: list[Call], internal: bool) -> None:
    """A caller who is not known yet may be from outside."""
    assert session_of(parts).internal is internal


def test_between_extensions_the_callers_part_leads() -> None:
    """Both begin in the same second; it is an outbound conversation that a colleague receives."""
    session = session_of(
        [part("102", from_party=COLLEAGUE), part("103", direction=Direction.OUTBOUND, state=State.DIALING)]
    )
    assert (session.direction, session.state, session.internal) == (Direction.OUTBOUND, State.RINGING, True)


@pytest.mark.parametrize(
    ("facts", "at_", "known"),
    [
        ({"answered": 4}, at(4), True),
        ({"answered": 7, "answered_exact": False}, at(7), True),
        ({"answered": 7, "answered_exact": False, "first_poll": True}, at(7), False),
        ({"ended": 9, "disposition": "answered"}, None, False),
    ],
)
def test_when_it_was_answered(facts: dict[str, Any], at_: datetime | None, known: bool) -> None:
    """The platform's time, or that of the poll that showed it, unless that poll was the first of all."""
    session = session_of([part(**facts)])
    assert (session.answered, session.answered_at, session.answer_known) == (True, at_, known)


PARTS = st.lists(
    st.builds(
        part,
        extension_id=st.sampled_from(["101", "102", "103"]),
        began=st.integers(0, 9),
        from_party=st.sampled_from([None, OUTSIDE, COLLEAGUE]),
        disposition=st.sampled_from(Disposition),
        ended=st.integers(9, 20),
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda one: one.call_id,
)


@given(PARTS)
def test_the_order_of_the_parts_is_no_matter(parts: list[Call]) -> None:
    """Whatever is learnt first, the conversation is the same."""
    folded: list[Session] = [session_of(some) for some in itertools.permutations(parts)]
    assert all(one == folded[0] for one in folded)
