"""What is no news, what a part's records say together, and what becomes of facts that come late."""

import msgspec
import pytest

from callcast.calls.events import ObservationWindow, event_for
from callcast.calls.ids import event_id
from callcast.calls.lifecycle import is_unchanged
from callcast.calls.model import Call, CallObservation, ChangeSet, Direction, Disposition, Party, Provider, Queue
from callcast.calls.tracker import fill_gap
from tests.unit.calls.snapshots import ACCOUNT, CALLED, CALLER, Watch, at, ended, leg, observation, stopped

SALES = Queue(name="Sales")


def known(one: CallObservation) -> Call:
    watch = Watch(ACCOUNT)
    watch.poll(1, one)
    return watch.call()


@pytest.mark.parametrize(
    "one",
    [
        observation(legs=(leg("A", 0),)),
        observation("dialing"),
        observation("connected", queue=SALES, legs=(leg("A", 0), leg("B", 3, accepted=True))),
        observation("connected"),
        ended("answered", queue=SALES, legs=(leg("A", 0), leg("B", 3, accepted=True))),
        ended(),
    ],
)
def test_a_record_that_is_as_it_was_is_old_news(one: CallObservation) -> None:
    """The usual case of a poll is recognized before anything is built, also when fewer facts are shown than before."""
    call = known(one)
    assert is_unchanged(call, one, at(2))
    assert is_unchanged(call, msgspec.structs.replace(one, from_party=None, to_party=None, queue=None), at(2))
    if one.ended_at is not None:
        assert is_unchanged(call, msgspec.structs.replace(one, ended_at=None, disposition=None), at(2))


@pytest.mark.parametrize(
    ("one", "change"),
    [
        (observation(), {"state": "connected"}),
        (observation(), {"provisional": True}),
        (observation(), {"direction": Direction.OUTBOUND}),
        (observation(), {"started_at": at(1)}),
        (observation(), {"provider": Provider(name="ringcentral", record_id="L1", result="Other")}),
        (observation(), {"from_party": Party(name="B")}),
        (observation(), {"to_party": Party(name="B")}),
        (observation(), {"queue": SALES}),
        (observation(), {"legs": (leg("B", 2),)}),
        (observation("connected"), {"legs": (leg("B", 0.5, accepted=True),)}),
        (observation("connected"), {"ended_at": at(9)}),
        (observation("connected"), {"state": "ended"}),
        (ended(), {"state": "connected"}),
        (ended(), {"ended_at": at(9)}),
        (ended(), {"disposition": Disposition.VOICEMAIL}),
        (ended(), {"legs": (leg("B", 2, accepted=True),)}),
    ],
)
def test_an_observation_that_differs_is_not_unchanged(one: CallObservation, change: dict[str, object]) -> None:
    """Every field that is read is compared."""
    assert not is_unchanged(known(one), msgspec.structs.replace(one, **change), at(2))


@pytest.mark.parametrize("remembered", [{"vanished_at": at(1)}, {"provisional_since": at(1)}])
def test_a_record_of_what_vanished_or_is_provisional_is_news(remembered: dict[str, object]) -> None:
    """It is back, or it has settled."""
    assert not is_unchanged(msgspec.structs.replace(known(ended()), **remembered), ended(), at(2))


# Facts that come late


def test_the_id_of_an_update_is_made_of_its_sequence_and_of_what_changed() -> None:
    """A pure function of the fact; two updates to the same value are two facts."""
    watch = Watch()
    watch.poll(1, observation())
    for t, queue in ((2, SALES), (3, Queue(name="Support")), (4, SALES)):
        watch.poll(t, observation(queue=queue))
    sales = '{"queue":{"name":"Sales"}}'
    assert [event.id for event in watch.events[1::2]] == [
        event_id("400", "101/s-1", "call.updated", sequence, sales) for sequence in ("2", "4")
    ]


def test_a_call_that_ended_before_the_first_poll_has_no_event() -> None:
    """Whatever becomes different of a call that was over before the first poll."""
    watch = Watch(fresh=True)
    watch.poll(1, ended())
    rewritten = msgspec.structs.replace(watch.call(), disposition=Disposition.VOICEMAIL)
    assert event_for(watch.call(), rewritten, ObservationWindow(at=at(2), after=at(1))) == (rewritten, None)


def test_the_account_of_the_first_event_stays() -> None:
    """Ids are made of it."""
    watch = Watch()
    watch.poll(1, observation(account_id=None))
    watch.poll(2, observation("connected", account_id="400"))
    watch.poll(3, ended("answered", account_id="401"))
    assert [event.call.account_id for event in watch.events] == [None, "400", "400"]


def test_an_end_without_a_word_is_unknown() -> None:
    """A call that is over always has a disposition, and a rewritten record without one takes none away."""
    watch = Watch()
    silent = msgspec.structs.replace(ended(end=None), disposition=None)
    watch.poll(1, silent)
    assert watch.last.call.disposition is Disposition.UNKNOWN
    assert watch.poll(2, ended("busy", end=None)) == ["call.corrected"]
    assert watch.poll(3, msgspec.structs.replace(silent, provider=Provider(name="ringcentral", record_id="L1"))) == []
    assert watch.poll(4, msgspec.structs.replace(silent, to_party=Party(number=CALLED.number, name="B"))) == [
        "call.corrected"
    ]
    assert watch.call().disposition is Disposition.BUSY


def test_a_queue_that_is_not_said_again_stays_when_other_words_change() -> None:
    """A new result does not take back what is known."""
    watch = Watch()
    watch.poll(1, observation("connected", queue=SALES))
    assert watch.poll(2, observation("connected", result="Other")) == []
    assert watch.call().queue == SALES


def test_the_provisional_end_of_a_call_that_went_on_is_forgotten() -> None:
    """Given up, it ended when it vanished."""
    watch = Watch()
    watch.poll(1, stopped(end=2))
    watch.poll(3, observation("connected"))
    assert (watch.call().provisional_disposition, watch.call().provisional_ended_at) == (None, None)


def test_answered_elsewhere_stays_when_the_other_record_turns_round() -> None:
    """The platform goes on calling it missed; that takes nothing back."""
    watch = Watch(ACCOUNT)
    other = observation("connected", extension_id="102", record_id="L2")
    watch.poll(1, ended(), other)
    watch.poll(2, ended(end=11), msgspec.structs.replace(other, direction=Direction.OUTBOUND))
    assert watch.call().ended_at == at(11)
    assert watch.call().disposition is Disposition.ANSWERED_ELSEWHERE


def test_the_call_log_of_a_time_before_any_poll_ends_nothing_that_lives() -> None:
    """There is no gap to ask about, and the list shows the call."""
    watch = Watch()
    watch.poll(1, observation("connected"))
    assert fill_gap(watch.index, watch.target, [ended("answered")], at(60), watch.rules) == ChangeSet()


# What a part's records say together


def test_an_answer_is_found_in_the_legs_of_whichever_record_talks() -> None:
    """The leading record still rings; a second one of the part gives the time when it was answered."""
    watch = Watch()
    rings = observation(legs=(leg("A", 0),))
    watch.poll(1, rings)
    assert watch.poll(8, rings, observation("connected", record_id="L2", legs=(leg("B", 3, accepted=True),))) == [
        "call.answered"
    ]
    assert (watch.last.time, watch.last.observation.exact) == (at(3), True)


def test_of_two_connected_records_the_leading_one_gives_the_answer() -> None:
    """The other one's legs are not its."""
    watch = Watch()
    watch.poll(
        8, observation("connected"), observation("connected", record_id="L2", legs=(leg("B", 3, accepted=True),))
    )
    assert (watch.last.time, watch.last.observation.exact) == (at(8), False)


def test_a_later_record_beside_a_live_one_is_no_next_part() -> None:
    """The part is not over."""
    watch = Watch()
    watch.poll(1, observation())
    assert watch.poll(3, observation(), observation(record_id="L2", started=2)) == []
    assert watch.call().record_ids == ("L1", "L2")


@pytest.mark.parametrize(
    ("second", "emitted"),
    [
        (observation(record_id="L2", started=12), "call.ringing"),
        (ended("answered", record_id="L2", started=12, end=15), "call.ended"),
    ],
)
def test_a_next_part_beside_a_record_that_claims_to_live_again(second: CallObservation, emitted: str) -> None:
    """An ended part stays ended with the end that it had, so what starts after it is the next."""
    watch = Watch()
    watch.poll(1, ended())
    assert watch.poll(20, observation(), second) == [emitted]
    assert watch.last.call.call_id == "101/s-1~2"


def test_a_part_that_became_known_late_is_not_the_last() -> None:
    """Numbers give the order in which parts became known; a record with a new id belongs to the last part in time."""
    watch = Watch()
    watch.poll(60, observation("connected", started=50))
    earlier = ended(record_id="L2", started=10, end=30)
    assert watch.apply(None, fill_gap(watch.index, watch.target, [earlier], at(70), watch.rules)) == ["call.ended"]
    assert watch.poll(80, ended("answered", record_id="L3", started=51, end=79)) == ["call.ended"]
    assert [event.call.call_id for event in watch.events[1:]] == ["101/s-1~2", "101/s-1"]


def test_a_provisional_record_of_an_earlier_time_is_not_remembered() -> None:
    """It may still be rewritten, and then it is seen as what it was."""
    watch = Watch()
    watch.poll(60, observation("connected", started=50))
    watch.poll(61, observation("connected", started=50), stopped(record_id="L2", started=10, end=30))
    assert [call.call_id for call in watch.index.session("s-1")] == ["101/s-1"]


def test_a_live_record_after_an_unknown_end_is_the_next_part() -> None:
    """That it lives now, and started later, is enough; of a final one the end would have to be known."""
    watch = Watch()
    watch.poll(12, ended(end=None))
    assert watch.poll(30, ended("answered", record_id="L2", started=20, end=25)) == ["call.corrected"]
    watch = Watch()
    watch.poll(12, ended(end=None))
    assert watch.poll(20, ended(end=None), observation(record_id="L2", started=9)) == ["call.ringing"]
    assert watch.last.call.call_id == "101/s-1~2"


def test_parts_are_numbered_by_their_start_also_when_all_are_first_seen_at_once() -> None:
    """Whatever order the platform lists them in."""
    watch = Watch()
    parts = {n: ended(record_id=f"L{n}", started=20 * n, end=20 * n + 9) for n in (1, 2, 3)}
    watch.poll(90, parts[2], parts[3], parts[1])
    assert [(event.call.call_id, event.call.record_ids) for event in watch.events] == [
        ("101/s-1", ("L1",)),
        ("101/s-1~2", ("L2",)),
        ("101/s-1~3", ("L3",)),
    ]
    assert watch.last.call.from_party == CALLER
