"""Event ids: a pure function of the fact."""

import string

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from callcast.calls.ids import event_id
from callcast.calls.model import Party
from tests.unit.calls.snapshots import Watch, at, ended, observation

parts = st.lists(st.none() | st.text(), max_size=5)


@given(parts, parts)
def test_different_facts_have_different_ids(one: list[str | None], two: list[str | None]) -> None:
    """Equal facts share an id, different ones never do, however the parts are cut."""
    assert (event_id(*one) == event_id(*two)) == (one == two)


@given(parts)
def test_an_id_is_short_plain_text(fact: list[str | None]) -> None:
    """`evt_`, then letters and digits, no dot."""
    text = event_id(*fact)
    assert text.startswith("evt_")
    assert set(text[4:]) <= set(string.ascii_lowercase + string.digits)
    assert len(text) == 30


def test_ids_do_not_depend_on_polls_or_on_this_machine() -> None:
    """Another machine that polls at other moments, from another source, gives the same ids for the same facts."""
    one, two = Watch(), Watch()
    two.index.source = "other"
    for t, seen in ((1, observation()), (5, observation("connected")), (9, ended("answered"))):
        one.poll(t, seen)
        two.poll(t + 0.7, seen)
    assert [e.id for e in one.events] == [e.id for e in two.events]
    assert len({e.id for e in one.events}) == 3
    assert one.events[0].id == event_id("400", "101/s-1", "call.ringing")


def test_ids_of_updates_and_corrections_hold_what_changed() -> None:
    """Sequence and changed values distinguish two of them."""
    ids = set()
    for number in ("+1", "+2"):
        for steps in (1, 2):
            watch = Watch()
            for step in range(steps):
                watch.poll(step, observation("connected", from_party=Party(number=f"+{step}9")))
            watch.poll(5, observation("connected", from_party=Party(number=number)))
            ids.add(watch.last.id)
    assert len(ids) == 4


def test_the_account_is_part_of_the_fact() -> None:
    """It is kept from the record that first named it; until then it is null."""
    watch = Watch()
    watch.poll(1, observation(account_id=None))
    assert watch.last.id == event_id(None, "101/s-1", "call.ringing")
    watch.poll(2, observation("connected"))
    assert watch.last.id == event_id("400", "101/s-1", "call.answered")
    watch.poll(3, ended("answered", account_id="500"))
    assert watch.last.id == event_id("400", "101/s-1", "call.ended")
    rewritten = msgspec.structs.replace(ended("answered"), ended_at=at(11))
    watch.poll(4, rewritten)
    assert watch.last.corrects == event_id("400", "101/s-1", "call.ended")
