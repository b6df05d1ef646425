"""What is rendered has the recorded shapes, and the API's schema."""

import json
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given

from callcast.simulator.calls import CallQueue, Extension, Record
from callcast.simulator.scenarios import played
from callcast.simulator.script import Account, Call, Script
from tests import TESTS
from tests.integration.simulator.conftest import START
from tests.integration.simulator.openapi import faults
from tests.integration.simulator.plots import calls, moments, story_of

SAMPLES = TESTS / "samples"
# The recording's own people, so that the same two calls can be played.
DESK = Extension(id="62264425016", number="11115", name="Tyler Liu", direct="+16502886382", location="San Mateo, CA")
ACCOUNT = Account(
    id="809646016",
    extensions=(DESK,),
    queues=(CallQueue(name="Tyler's call queue", number="+12092271475", location="Stockton, CA"),),
)
CALLER = {"number": "+16504306662", "name": "WIRELESS CALLER", "location": "San Mateo, CA"}
DIRECT = Call(kind="inbound", extension="11115", rings_s=4, talks_s=6, **CALLER)
QUEUE = Call(kind="queue", extension="11115", waits_s=0, answers_after_s=5, talks_s=13, **CALLER)
# What differs between the recording and any other call: ids, addresses, and the number of the phone's phone.
OWN_FACTS = {"uri", "id", "sessionId", "telephonySessionId"}


def sample(name: str) -> Record:
    record: Record = json.loads((SAMPLES / "active-calls" / f"{name}.json").read_text())["records"][0]
    return record


def compared(value: Any, key: str = "") -> Any:
    """The value without what must differ; keys stay in their order."""
    if isinstance(value, dict):
        return [(name, compared(inner, name)) for name, inner in value.items()]
    if isinstance(value, list):
        return [compared(inner) for inner in value]
    if key in ("phoneNumber", "location"):
        return "somewhere"
    return "..." if key in OWN_FACTS else value


@pytest.mark.parametrize(
    ("call", "name", "at_s"),
    [
        (DIRECT, "seed-direct-1-ringing", 2),
        (DIRECT, "seed-direct-2-answered", 5),
        (DIRECT, "seed-direct-3-ended", 11),
        (QUEUE, "seed-queue-1-ringing", 2),
        (QUEUE, "seed-queue-2-answered", 6),
        (QUEUE, "seed-queue-3-ended", 20),
    ],
)
def test_the_recorded_calls_come_out_as_recorded(call: Call, name: str, at_s: float) -> None:
    """The recording's two calls, as a script, are rendered with its keys, order, words, times and names."""
    recorded = sample(name)
    start = datetime.fromisoformat(recorded["startTime"])
    story = played(Script(account=ACCOUNT, calls=(call,)), start)
    (record,) = story.active(DESK.id, start + timedelta(seconds=at_s))
    assert compared(record) == compared(recorded)


@pytest.mark.parametrize(
    "name", ["derived-queue-missed", "derived-queue-voicemail", "derived-queue-caller-hangup-ringing"]
)
def test_a_queue_call_in_the_companys_log_reads_as_the_production_ones(name: str) -> None:
    """One record for the whole call: the caller's leg leads, and each phone that rang has a Stopped leg."""
    recorded = json.loads((SAMPLES / "call-log" / f"{name}.json").read_text())
    ends = {"Missed": "missed", "Voicemail": "voicemail", "Hang Up": "hung_up"}[recorded["result"]]
    call = Call(kind="queue", offers=(("1001", "1002"),), rings_s=8, ends=ends)
    (record,) = story_of(START, call).log(None, START + timedelta(minutes=5))
    assert words(record) == words(recorded)
    assert [words(leg) for leg in record["legs"]] == [words(leg) for leg in recorded["legs"][:2]] + [
        words(recorded["legs"][1])
    ]


def words(one: Record) -> tuple[Any, ...]:
    return tuple(one.get(key) for key in ("type", "direction", "action", "result", "legType"))


def test_a_queue_call_reads_stopped_while_it_goes_on() -> None:
    """A provisional one is Outbound and Stopped with ring-outs only, under the id that later reads Accepted."""
    offers = (("1002", "1003"), ("1001",))
    call = Call(kind="queue", extension="1001", offers=offers, rings_s=5, talks_s=60, provisional=True)
    story = story_of(START, call)
    (live,) = story.log(None, START + timedelta(seconds=50))
    assert words(live) == ("Voice", "Outbound", "VoIP Call", "Stopped", None)
    assert {leg["legType"] for leg in live["legs"]} == {"PstnToSip"}
    (ended,) = story.log(None, START + timedelta(seconds=150))
    assert (ended["id"], words(ended)) == (live["id"], ("Voice", "Inbound", "Phone Call", "Accepted", None))
    assert ended["startTime"] < live["startTime"]


def test_both_records_of_a_ringout() -> None:
    """Two sessions 1,000 apart in opposite directions; while they talk the outbound one reads connected with 0 s."""
    story = story_of(START, Call(kind="ringout", extension="1001", number="+15550101234", rings_s=4, talks_s=20))
    outbound, inbound = story.active("400200001", START + timedelta(seconds=10))
    assert int(inbound["sessionId"]) - int(outbound["sessionId"]) == 1000
    assert (outbound["action"], outbound["result"], outbound["duration"]) == ("RingOut Web", "Call connected", 0)
    assert (inbound["direction"], inbound["result"]) == ("Inbound", "In Progress")


def test_a_conference_has_no_session_of_its_own() -> None:
    """Its plain session id is "0", and it goes to `conference`."""
    story = story_of(START, Call(kind="conference", extension="1001", rings_s=1, talks_s=20))
    (record,) = story.active("400200001", START + timedelta(seconds=10))
    assert (record["sessionId"], record["to"]["phoneNumber"]) == ("0", "conference")


def test_an_id_may_change_at_the_end() -> None:
    """The ended record has another id and begins a second later, in the same session (jshelpers-lifecycle-2014)."""
    story = story_of(START, Call(kind="inbound", extension="1001", talks_s=10, id_changes=True))
    (live,) = story.active("400200001", START + timedelta(seconds=8))
    (ended,) = story.active("400200001", START + timedelta(seconds=20))
    assert live["id"] != ended["id"]
    assert live["sessionId"] == ended["sessionId"]
    assert datetime.fromisoformat(ended["startTime"]) - datetime.fromisoformat(live["startTime"]) == timedelta(
        seconds=1
    )


@given(call=calls())
def test_every_record_fits_the_api(call: Call) -> None:
    """Whatever is played, each record at each moment is one that the API's schema allows."""
    story = story_of(START, call)
    for moment in [*moments(story, START), START + timedelta(minutes=20)]:
        lists = [story.active(extension, moment) for extension in (*story.extension_ids(), None)]
        lists += [story.log(extension, moment) for extension in (story.extension_ids()[0], None)]
        for record in (one for shown in lists for one in shown):
            assert faults("call-log", "CallLogRecord", record) == []
            assert record["result"] != "In Progress" or "duration" not in record
