"""What is no news, what a part's records say together, and what becomes of facts that come late."""

import msgspec
import pytest

from callcast.calls.events import Seen, tell
from callcast.calls.ids import event_id
from callcast.calls.lifecycle import is_old_news
from callcast.calls.model import Call, Change, Direction, Disposition, Party, Provider, Queue, Sighting
from callcast.calls.tracker import fill
from tests.unit.calls.snapshots import ACCOUNT, CALLED, CALLER, Watch, at, ended, leg, sighting, stopped

SALES = Queue(name="Sales")


def known(one: Sighting) -> Call:
    watch = Watch(ACCOUNT)
    watch.look(1, one)
    return watch.call()


@pytest.mark.parametrize(
    "one",
    [
        sighting(legs=(leg("A", 0),)),
        sighting("dialing"),
        sighting("connected", queue=SALES, legs=(leg("A", 0), leg("B", 3, accepted=True))),
        sighting("connected"),
        ended("answered", queue=SALES, legs=(leg("A", 0), leg("B", 3, accepted=True))),
        ended(),
    ],
)
def test_a_record_that_is_as_it_was_is_old_news(one: Sighting) -> None:
    """The usual case of a look is told apart before anything is built, also when less is said than before."""
    call = known(one)
    assert is_old_news(call, one, at(2))
    assert is_old_news(call, msgspec.structs.replace(one, from_party=None, to_party=None, queue=None), at(2))
    if one.ended_at is not None:
        assert is_old_news(call, msgspec.structs.replace(one, ended_at=None, disposition=None), at(2))


@pytest.mark.parametrize(
    ("one", "change"),
    [
        (sighting(), {"state": "connected"}),
        (sighting(), {"provisional": True}),
        (sighting(), {"direction": Direction.OUTBOUND}),
        (sighting(), {"started_at": at(1)}),
        (sighting(), {"provider": Provider(name="ringcentral", record_id="L1", result="Other")}),
        (sighting(), {"from_party": Party(name="B")}),
        (sighting(), {"to_party": Party(name="B")}),
        (sighting(), {"queue": SALES}),
        (sighting(), {"legs": (leg("B", 2),)}),
        (sighting("connected"), {"legs": (leg("B", 0.5, accepted=True),)}),
        (sighting("connected"), {"ended_at": at(9)}),
        (sighting("connected"), {"state": "ended"}),
        (ended(), {"state": "connected"}),
        (ended(), {"ended_at": at(9)}),
        (ended(), {"disposition": Disposition.VOICEMAIL}),
        (ended(), {"legs": (leg("B", 2, accepted=True),)}),
    ],
)
def test_whatever_differs_is_no_old_news(one: Sighting, change: dict[str, object]) -> None:
    """Any field that is read is looked at."""
    assert not is_old_news(known(one), msgspec.structs.replace(one, **change), at(2))


@pytest.mark.parametrize("remembered", [{"vanished_at": at(1)}, {"provisional_since": at(1)}])
def test_a_record_of_what_vanished_or_is_provisional_is_news(remembered: dict[str, object]) -> None:
    """It is back, or it has settled."""
    assert not is_old_news(msgspec.structs.replace(known(ended()), **remembered), ended(), at(2))


# Facts that come late


def test_the_id_of_an_update_is_made_of_its_sequence_and_of_what_changed() -> None:
    """Contract 4: a pure function of the fact; two updates to the same value are two facts."""
    watch = Watch()
    watch.look(1, sighting())
    for t, queue in ((2, SALES), (3, Queue(name="Support")), (4, SALES)):
        watch.look(t, sighting(queue=queue))
    sales = '{"queue":{"name":"Sales"}}'
    assert [event.id for event in watch.events[1::2]] == [
        event_id("400", "101/s-1", "call.updated", sequence, sales) for sequence in ("2", "4")
    ]


def test_history_is_told_nothing_of() -> None:
    """Whatever becomes different of a call that was over before anybody looked."""
    watch = Watch(fresh=True)
    watch.look(1, ended())
    rewritten = msgspec.structs.replace(watch.call(), disposition=Disposition.VOICEMAIL)
    assert tell(watch.call(), rewritten, Seen(at=at(2), after=at(1))) == (rewritten, None)


def test_the_account_that_was_first_told_stays() -> None:
    """Ids are made of it."""
    watch = Watch()
    watch.look(1, sighting(account_id=None))
    watch.look(2, sighting("connected", account_id="400"))
    watch.look(3, ended("answered", account_id="401"))
    assert [event.call.account_id for event in watch.events] == [None, "400", "400"]


def test_an_end_without_a_word_is_unknown() -> None:
    """A call that is over always has a disposition, and a rewritten record without one takes none away."""
    watch = Watch()
    silent = msgspec.structs.replace(ended(end=None), disposition=None)
    watch.look(1, silent)
    assert watch.last.call.disposition is Disposition.UNKNOWN
    assert watch.look(2, ended("busy", end=None)) == ["call.corrected"]
    assert watch.look(3, msgspec.structs.replace(silent, provider=Provider(name="ringcentral", record_id="L1"))) == []
    assert watch.look(4, msgspec.structs.replace(silent, to_party=Party(number=CALLED.number, name="B"))) == [
        "call.corrected"
    ]
    assert watch.call().disposition is Disposition.BUSY


def test_a_queue_that_is_not_said_again_stays_when_other_words_change() -> None:
    """A new result does not take back what is known."""
    watch = Watch()
    watch.look(1, sighting("connected", queue=SALES))
    assert watch.look(2, sighting("connected", result="Other")) == []
    assert watch.call().queue == SALES


def test_the_provisional_end_of_a_call_that_went_on_is_forgotten() -> None:
    """Given up, it ended when it vanished."""
    watch = Watch()
    watch.look(1, stopped(end=2))
    watch.look(3, sighting("connected"))
    assert (watch.call().provisional_disposition, watch.call().provisional_ended_at) == (None, None)


def test_answered_elsewhere_stays_when_the_other_record_turns_round() -> None:
    """The platform goes on calling it missed; that takes nothing back."""
    watch = Watch(ACCOUNT)
    other = sighting("connected", extension_id="102", record_id="L2")
    watch.look(1, ended(), other)
    watch.look(2, ended(end=11), msgspec.structs.replace(other, direction=Direction.OUTBOUND))
    assert watch.call().ended_at == at(11)
    assert watch.call().disposition is Disposition.ANSWERED_ELSEWHERE


def test_the_call_log_of_a_time_before_any_look_ends_nothing_that_lives() -> None:
    """There is no gap to ask about, and the list shows the call."""
    watch = Watch()
    watch.look(1, sighting("connected"))
    assert fill(watch.picture, watch.target, [ended("answered")], at(60), watch.rules) == Change()


# What a part's records say together


def test_an_answer_is_found_in_the_legs_of_whichever_record_talks() -> None:
    """The leading record still rings; a second one of the part tells when it was answered."""
    watch = Watch()
    rings = sighting(legs=(leg("A", 0),))
    watch.look(1, rings)
    assert watch.look(8, rings, sighting("connected", record_id="L2", legs=(leg("B", 3, accepted=True),))) == [
        "call.answered"
    ]
    assert (watch.last.time, watch.last.observation.exact) == (at(3), True)


def test_of_two_records_that_talk_the_leading_one_tells_the_answer() -> None:
    """The other one's legs are not its."""
    watch = Watch()
    watch.look(8, sighting("connected"), sighting("connected", record_id="L2", legs=(leg("B", 3, accepted=True),)))
    assert (watch.last.time, watch.last.observation.exact) == (at(8), False)


def test_a_later_record_beside_a_live_one_is_no_next_part() -> None:
    """The part is not over."""
    watch = Watch()
    watch.look(1, sighting())
    assert watch.look(3, sighting(), sighting(record_id="L2", started=2)) == []
    assert watch.call().record_ids == ("L1", "L2")


@pytest.mark.parametrize(
    ("second", "told"),
    [
        (sighting(record_id="L2", started=12), "call.ringing"),
        (ended("answered", record_id="L2", started=12, end=15), "call.ended"),
    ],
)
def test_a_next_part_beside_a_record_that_claims_to_live_again(second: Sighting, told: str) -> None:
    """An ended part stays ended with the end that it had, so what starts after it is the next."""
    watch = Watch()
    watch.look(1, ended())
    assert watch.look(20, sighting(), second) == [told]
    assert watch.last.call.call_id == "101/s-1~2"


def test_a_part_that_became_known_late_is_not_the_last() -> None:
    """Numbers tell the order of knowing; a record with a new id belongs to the last part in time."""
    watch = Watch()
    watch.look(60, sighting("connected", started=50))
    earlier = ended(record_id="L2", started=10, end=30)
    assert watch.apply(None, fill(watch.picture, watch.target, [earlier], at(70), watch.rules)) == ["call.ended"]
    assert watch.look(80, ended("answered", record_id="L3", started=51, end=79)) == ["call.ended"]
    assert [event.call.call_id for event in watch.events[1:]] == ["101/s-1~2", "101/s-1"]


def test_a_provisional_record_of_an_earlier_time_is_not_remembered() -> None:
    """It may still be rewritten, and then it is seen as what it was."""
    watch = Watch()
    watch.look(60, sighting("connected", started=50))
    watch.look(61, sighting("connected", started=50), stopped(record_id="L2", started=10, end=30))
    assert [call.call_id for call in watch.picture.session("s-1")] == ["101/s-1"]


def test_a_live_record_after_an_end_that_nobody_knows_is_the_next_part() -> None:
    """That it lives now, and started later, is enough; of a final one the end would have to be known."""
    watch = Watch()
    watch.look(12, ended(end=None))
    assert watch.look(30, ended("answered", record_id="L2", started=20, end=25)) == ["call.corrected"]
    watch = Watch()
    watch.look(12, ended(end=None))
    assert watch.look(20, ended(end=None), sighting(record_id="L2", started=9)) == ["call.ringing"]
    assert watch.last.call.call_id == "101/s-1~2"


def test_parts_are_numbered_by_their_start_also_when_all_are_first_seen_at_once() -> None:
    """Whatever order the platform lists them in."""
    watch = Watch()
    parts = {n: ended(record_id=f"L{n}", started=20 * n, end=20 * n + 9) for n in (1, 2, 3)}
    watch.look(90, parts[2], parts[3], parts[1])
    assert [(event.call.call_id, event.call.record_ids) for event in watch.events] == [
        ("101/s-1", ("L1",)),
        ("101/s-1~2", ("L2",)),
        ("101/s-1~3", ("L3",)),
    ]
    assert watch.last.call.from_party == CALLER
