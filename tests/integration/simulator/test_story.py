"""A story is a function of time: what it shows depends on the clock, and on nothing else."""

import hashlib
import json
import random
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callcast.calls.model import State, Target
from callcast.simulator.answers import json_answer
from callcast.simulator.calls import Truth
from callcast.simulator.scenarios import NAMES, busy, crowd, load, office
from callcast.simulator.script import Call, ScenarioError, read
from callcast.simulator.story import Listing, Story
from tests.integration.simulator.conftest import START
from tests.integration.simulator.plots import calls, moments, story_of
from tests.unit.ringcentral.decoded import decode_page, observations_of

DESK = "400200001"
ANSWERED = Call(kind="inbound", extension="1001", number="+15550101234", rings_s=4, talks_s=30)


def after(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def results(story: Story, *seconds: float) -> list[str | None]:
    """The result of the phone's one record at these times; None where the list is empty."""
    shown = [story.active(DESK, after(at_s)) for at_s in seconds]
    return [records[0]["result"] if records else None for records in shown]


@given(plot=st.lists(calls(), max_size=4), order=st.randoms())
def test_the_order_of_asking_changes_nothing(plot: list[Call], order: random.Random) -> None:
    """Lists requested at any moments in any order are those of a scenario that is requested in order."""
    times = [after(number * 7) for number in range(20)]
    story = story_of(START, *plot)
    expected = {moment: [story.active(one, moment) for one in (DESK, None)] for moment in times}
    order.shuffle(times)
    other = story_of(START, *plot)
    assert {moment: [other.active(one, moment) for one in (DESK, None)] for moment in times} == expected


def test_the_same_seed_gives_the_same_day() -> None:
    """Two offices with one seed show the same, ids included; another seed shows something else."""
    one, same, other = (office(START, seed=seed).active(None, after(600)) for seed in (7, 7, 8))
    assert one == same != other


def test_a_seed_gives_the_same_calls_in_each_version() -> None:
    """Reports name a seed: what it plays is part of the interface. If this fails by intention, say so to users."""
    history = []
    for story in (office(START, seed=7), busy(START, 20, 60, seed=7)):
        for at_s in range(0, 600, 11):
            history += [story.active(story.extension_ids()[0], after(at_s)), story.active(None, after(at_s))]
        history.append(story.log(None, after(600)))
    digest = hashlib.sha256(json.dumps(history).encode()).hexdigest()
    assert digest == "2f5b7ec35c80f58cd53d047f019fa69f22684ca9db80d7c58981c70a81f3a412"


def test_speed_shortens_the_calls_and_leaves_the_clock() -> None:
    """At twice the speed a call that rings 4 s and talks 30 s has ended after 17 s."""
    story = office(START, speed=2)
    assert story.truth(after(60))[0].ended_at == after(9.1)


def test_an_ended_record_lingers() -> None:
    """120 s after the end it is gone; with the option after 302 s."""
    assert results(story_of(START, ANSWERED), 3.9, 33.9, 34, 153.9, 154) == [
        "In Progress",
        "In Progress",
        "Accepted",
        "Accepted",
        None,
    ]
    story = story_of(START, ANSWERED, listing=Listing(linger_s=302))
    assert results(story, 335.9, 336) == ["Accepted", None]


def test_lists_are_late() -> None:
    """Starts and answers show 0.5 to 1 s after they happened, ends 3 to 10 s, by a delay that is the call's own."""
    listing = Listing(start_lateness_s=(0.5, 1), end_lateness_s=(3, 10))
    story = story_of(START, ANSWERED, listing=listing)
    tenths = [at_s / 10 for at_s in range(600)]
    shown = [story.active(DESK, after(at_s)) for at_s in tenths]
    appears, answered, ends = (
        next(at_s for at_s, records in zip(tenths, shown, strict=True) if records and reached(records[0]))
        for reached in (bool, lambda record: len(record["legs"]) == 2, lambda record: record["result"] == "Accepted")
    )
    assert 0.5 <= appears <= 1.1
    assert answered == pytest.approx(4 + appears, abs=0.11)
    assert 37 <= ends <= 44.1


def test_the_call_log_is_later_still() -> None:
    """A call is not in the log when it ends, nor 14 s later; after 30 s it is."""
    story = story_of(START, ANSWERED)
    assert story.log(DESK, after(34 + 14.9)) == []
    assert [record["duration"] for record in story.log(DESK, after(34 + 30.1))] == [34]


def test_a_record_may_be_missing_for_a_while() -> None:
    """In the hidden times the list lacks the call, at both levels; it comes back as it would have been."""
    call = Call(kind="inbound", extension="1001", rings_s=4, talks_s=30, hidden_s=((6, 9), (40, 60)))
    story = story_of(START, call)
    assert results(story, 5, 6, 8.9, 9, 39, 41, 61) == [
        "In Progress",
        None,
        None,
        "In Progress",
        "Accepted",
        None,
        "Accepted",
    ]
    assert [bool(story.active(None, after(at_s))) for at_s in (5, 7, 9)] == [True, False, True]


def test_the_platform_may_think_again() -> None:
    """A rewritten record reads as another ending some time after its end."""
    call = Call(kind="inbound", extension="1001", rings_s=4, rewritten=(40, "voicemail"))
    assert results(story_of(START, call), 43, 44) == ["Missed", "Voicemail"]


@pytest.mark.parametrize(
    ("talks_s", "word", "disposition"), [(None, "No Answer", "missed"), (20, "Accepted", "answered")]
)
def test_a_call_in_a_browser_ends_as_if_it_were_placed(talks_s: float | None, word: str, disposition: str) -> None:
    """The one record at the end reads Outbound towards the caller; in truth it was inbound."""
    call = Call(kind="inbound", extension="1001", number="+15550101234", rings_s=4, talks_s=talks_s, in_browser=True)
    story = story_of(START, call)
    (live,) = story.active(DESK, after(3))
    (ended,) = story.active(DESK, after(30))
    assert (live["direction"], ended["direction"], ended["result"]) == ("Inbound", "Outbound", word)
    assert (live["from"]["phoneNumber"], ended["to"]["phoneNumber"]) == ("+15550101234",) * 2
    (truth,) = story.truth(after(60))
    assert (truth.direction, truth.disposition) == ("inbound", disposition)


def test_ring_all_with_one_answering() -> None:
    """The phone that answers is accepted, the others read missed, and the truth says where it was answered."""
    offers = (("1001", "1002", "1003"),)
    story = story_of(START, Call(kind="queue", extension="1002", offers=offers, talks_s=20))
    assert {truth.extension_id: truth.disposition for truth in story.truth(after(60))} == {
        "400200001": "answered_elsewhere",
        "400200002": "answered",
        "400200003": "answered_elsewhere",
    }
    assert results(story, 60) == ["Missed"]


def test_a_second_offer_is_another_record() -> None:
    """A phone that is offered the call again has two records of one session, the later one newer."""
    offers = (("1001",), ("1002",), ("1001",))
    story = story_of(START, Call(kind="queue", extension="1001", offers=offers, rings_s=5, talks_s=20))
    second, first = story.active(DESK, after(20))
    assert first["id"] != second["id"]
    assert first["telephonySessionId"] == second["telephonySessionId"]
    assert (first["result"], second["reason"]) == ("Missed", "Accepted")
    dispositions = [truth.disposition for truth in story.truth(after(20))]
    assert dispositions == ["answered_elsewhere", "answered_elsewhere", "answered"]


def test_a_provisional_end_lasts_as_long_as_the_session() -> None:
    """A phone that no longer rings reads Stopped and Outbound while another one talks, and missed after that."""
    offers = (("1001",), ("1002",))
    call = Call(kind="queue", extension="1002", offers=offers, rings_s=5, talks_s=20, provisional=True)
    story = story_of(START, call)
    shown = [story.active(DESK, after(at_s))[0] for at_s in (8, 40)]
    assert [(one["direction"], one["result"]) for one in shown] == [("Outbound", "Stopped"), ("Inbound", "Missed")]


def test_the_companys_list_has_a_waiting_caller_without_an_extension() -> None:
    """Before any phone rings, the record of a queue call names no extension, not in its legs either."""
    story = story_of(START, Call(kind="queue", extension="1001", waits_s=5, talks_s=20))
    (record,) = story.active(None, after(3))
    assert "extension" not in record
    assert ["extension" in leg for leg in record["legs"]] == [False]
    assert results(story, 3, 6) == [None, "In Progress"]


def test_a_call_can_be_placed_at_any_time() -> None:
    """An unplanned call begins now, and shows in its place among the others."""
    story = story_of(START, Call(kind="inbound", extension="1001", at_s=50))
    story.place(Call(kind="outbound", extension="1001", number="+15550101234"), after(10))
    (later,) = story.place(Call(kind="inbound", extension="1002", at_s=30), after(10))
    found = [story.session(str(later.telephony_session_id), after(at_s)) for at_s in (39, 41)]
    assert [one is not None for one in found] == [False, True]
    assert [record["direction"] for record in story.active(DESK, after(52))] == ["Inbound", "Outbound"]


def state_of(truth: Truth, moment: datetime) -> State:
    if moment >= truth.ended_at:
        return State.ENDED
    if truth.answered_at is not None and moment >= truth.answered_at:
        return State.CONNECTED
    return State.RINGING if truth.direction == "inbound" else State.DIALING


@given(call=calls())
def test_a_reader_finds_the_truth(call: Call) -> None:
    """callcast's own decoder reads from each extension's list just the state that is true, in the true direction.

    Left out is what the platform itself hides: an outbound answer without a mark, a provisional end, and the direction
    of a call that was taken in a browser.
    """
    story = story_of(START, call, listing=Listing(linger_s=3600))
    for moment in moments(story, START):
        for extension_id in story.extension_ids():
            records = story.active(extension_id, moment)
            page = decode_page(json_answer({"records": records, "navigation": {}, "paging": {}}).body)
            assert page.bad == ()
            shown = observations_of(page, Target(source="s", extension_id=extension_id))
            true = [
                truth
                for truth in story.truth(moment)
                if truth.extension_id == extension_id and truth.started_at <= moment
            ]
            assert len(shown) == len(true)
            if call.marks_answer and not call.provisional and not call.in_browser:
                seen = sorted((one.session_id, one.direction, one.state) for one in shown)
                assert seen == sorted((one.session_id, one.direction, state_of(one, moment)) for one in true)


def test_a_busy_house_stays_busy_and_small() -> None:
    """Over half an hour of load every phone gets calls, about as many as configured, and the past is dropped."""
    story = busy(START, 40, 120, talks_s=10)
    begun = set()
    for minute in range(30):
        begun |= {(one.session_id, one.extension_id) for one in story.truth(after(minute * 60))}
    assert len({extension for _, extension in begun}) == 40
    assert 2_500 < len({session for session, _ in begun}) < 5_000
    assert len(story._begun) < 120 * 90
    assert len(story._recent) < 120 * 20
    assert sum(map(len, story._recent_of.values())) < 2 * 120 * 20


@pytest.mark.parametrize("name", NAMES)
def test_every_scenario_loads(name: str) -> None:
    """Each named scenario plays its first minutes at both levels."""
    scenario = load(name, START)
    for minute in range(3):
        for extension_id in (scenario.extension_ids()[0], None):
            scenario.poll(extension_id)
            scenario.active(extension_id, after(minute * 60))
    assert scenario.extension_ids()


def test_an_office_begins_at_once_and_shows_every_kind() -> None:
    """A call rings within half a second; within two minutes there were all endings that the demo promises."""
    story = office(START)
    assert story.active(None, after(0.5))
    seen = {(truth.direction, truth.disposition) for truth in story.truth(after(120))}
    assert {("inbound", word) for word in ("answered", "missed", "voicemail", "answered_elsewhere")} < seen
    assert {("outbound", "no_answer"), ("outbound", "answered")} < seen


def test_all_numbers_of_the_scenarios_are_fictional() -> None:
    """No number in a scenario is in use: all begin with +1555010 or +1555011, kept free for fiction."""
    for story in (office(START), busy(START, 20, 300)):
        text = str([story.active(None, after(minute * 60)) for minute in range(20)])
        assert "phoneNumber" in text
        numbers = {part.split("'")[0] for part in text.split("'phoneNumber': '")[1:]} - {"conference"}
        assert all(number.startswith(("+1555010", "+1555011")) for number in numbers)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"nonsense", "Expected"),
        (b'[account]\nid = "1"\nextensions = []\ncolour = 1', "colour"),
        (b'[account]\nid = "1"\nextensions = []\n[[calls]]\nkind = "fax"', "fax"),
    ],
)
def test_a_wrong_scenario_file_says_what_is_wrong(text: bytes, message: str) -> None:
    """A file that is no TOML, has an unknown key or an unknown word is refused with that in the message."""
    with pytest.raises(ScenarioError, match=message):
        read(text)


@pytest.mark.parametrize(
    "call",
    [
        Call(kind="inbound", extension="9"),
        Call(kind="inbound", extension="1001", ends="eaten"),
        Call(kind="queue", extension="1001", queue="No one"),
        Call(kind="queue", extension="1001", offers=(("1002",),), talks_s=5),
    ],
)
def test_a_call_that_cannot_be_played_is_refused_at_once(call: Call) -> None:
    """An unknown phone, ending or queue, and an answer from a phone that does not ring, are faults of the file."""
    with pytest.raises(ScenarioError):
        story_of(START, call)


def test_a_crowd_has_as_many_phones_as_asked_for() -> None:
    """Ids and numbers of 2,000 phones are all different."""
    phones = crowd(2000).extensions
    assert len({phone.id for phone in phones}) == len({phone.number for phone in phones}) == 2000
