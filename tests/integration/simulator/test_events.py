"""Telephony session events and presence have the recorded shapes and order, and the API's schema."""

import json
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given

from callcast.simulator.calls import CallQueue, Extension
from callcast.simulator.events import events_of, presence, telephony_session
from callcast.simulator.scenarios import played
from callcast.simulator.script import Account, Call, Handover, Script
from tests import TESTS
from tests.integration.simulator.conftest import START
from tests.integration.simulator.openapi import faults
from tests.integration.simulator.plots import ACCOUNT, calls, story_of

SAMPLES = TESTS / "samples"
# The recordings' own people.
BABJI = Extension(id="809646016", number="11101", name="TESTER Babji", direct="+18003151571")
DISPATCHER = Extension(id="979428016", number="11104", name="Message Dispatcher", direct="+17203861294")
TYLER = Extension(id="62264425016", number="11115", name="Test User", direct="+16504223279")
QUEUE = CallQueue(id="62282928016", name="Tyler's call queue", number="+12092271475")
PEOPLE = Account(id="809646016", extensions=(BABJI, DISPATCHER, TYLER), queues=(QUEUE,))


def recorded(name: str) -> Any:
    return json.loads((SAMPLES / "events" / f"{name}.json").read_text())


def bodies(call: Call) -> list[dict[str, Any]]:
    """The bodies of all events of a call."""
    (session,) = played(Script(account=PEOPLE, calls=()), START).place(call, START)
    return [event.body for event in events_of(PEOPLE.id, session)]


def shape(value: Any, key: str = "") -> Any:
    """A value without what differs from call to call; keys stay in their order."""
    if isinstance(value, dict):
        return [(name, shape(inner, name)) for name, inner in value.items()]
    if isinstance(value, list):
        return [shape(inner) for inner in value]
    if key in ("sessionId", "telephonySessionId", "eventTime", "serverId", "deviceId", "sid"):
        return "..."
    if key == "id" and isinstance(value, str):
        return value[-2:]
    return value.split("@")[0][:1] if key == "to" else value


def test_a_call_between_two_extensions_comes_as_recorded() -> None:
    """The nine recorded events: same order, sequences, states, sides, keys and order of keys."""
    call = Call(kind="internal", extension="11104", to="11101", rings_s=7, talks_s=14, holds_s=((4, 8),))
    sent = [event["body"] for event in recorded("csn-RingCentral-RingCentral")]
    assert shape(bodies(call)) == shape(sent)


def test_a_call_to_the_outside_comes_as_recorded() -> None:
    """The nine recorded events: the other side's party has no extension; it answers first and ends last."""
    number = "+14083388064"
    call = Call(kind="outbound", extension="11101", number=number, rings_s=7, talks_s=17, holds_s=((7, 10),))
    sent = [event["body"] for event in recorded("csn-RingCentral-PSTN")]
    assert shape(bodies(call)) == shape(sent)


def test_a_call_from_the_outside_comes_as_recorded() -> None:
    """The recorded events from the phone's on, which a menu came before: setup, proceeding, answered, hold, end."""
    call = Call(
        kind="inbound",
        extension="11101",
        number="+14083388064",
        name="DIBYENDU ROY",
        rings_s=8,
        talks_s=14,
        holds_s=((4, 7),),
    )
    made = bodies(call)
    sent = [event["body"] for event in recorded("csn-PSTN-RingCentral-DataStreams")]
    own = [
        [one["parties"] for one in stream if one["parties"][0].get("extensionId") == BABJI.id]
        for stream in (made, sent)
    ]
    numbered = json.loads(json.dumps(own[1]).replace('-3"', '-2"'))
    assert shape(own[0]) == shape(numbered)
    caller = [
        [one["parties"][0] for one in stream if "extensionId" not in one["parties"][0]] for stream in (made, sent)
    ]
    steps = [
        [(one["status"]["code"], list(one), list(one["to"]), list(one["from"])) for one in stream] for stream in caller
    ]
    assert steps[0] == steps[1]
    assert [one["sequence"] for one in made] == list(range(2, 2 + len(made)))
    assert [(one["parties"][0]["id"][-1], one["parties"][0]["status"]["code"]) for one in made[:4]] == [
        ("1", "Setup"),
        ("2", "Setup"),
        ("1", "Answered"),
        ("2", "Proceeding"),
    ]


@pytest.mark.parametrize("which", ["direct", "queue"])
def test_direct_and_queue_calls_come_as_recorded(which: str) -> None:
    """The recorded event of each (2023): sequence, party number and all fields; a queue's id stands in `to`."""
    event = recorded("tylerlong-direct-vs-queue-2023")[which]["body"]
    if which == "direct":
        call = Call(kind="inbound", extension="11115", number="+16504888888", talks_s=9)
    else:
        call = Call(kind="queue", extension="11115", number="+16504888888", name="WIRELESS CALLER", talks_s=9)
    (made,) = (body for body in bodies(call) if body["sequence"] == event["sequence"])
    made.pop("serverId")
    assert shape(made) == shape(event)


def test_a_blind_transfer_goes_on_with_another_party() -> None:
    """The first phone's party ends with that reason, and the session goes on at the second one's."""
    handover = Handover(to="11104", rings_s=3, talks_s=5)
    call = Call(kind="inbound", extension="11101", number="+14083388064", talks_s=6, transfer=handover)
    states = [
        (party["id"][-1], party["status"]["code"], party["status"].get("reason"))
        for party in (body["parties"][0] for body in bodies(call))
    ]
    at = states.index(("2", "Disconnected", "BlindTransfer"))
    assert states[at + 1 :] == [
        ("3", "Setup", None),
        ("3", "Proceeding", None),
        ("3", "Answered", None),
        ("3", "Disconnected", None),
        ("1", "Disconnected", None),
    ]


def test_a_queue_rings_its_agents_as_parties_of_their_own() -> None:
    """Each phone of each round is a party; the queue's own ends when an agent answers."""
    offers = (("11104",), ("11115", "11101"))
    call = Call(kind="queue", extension="11101", number="+14083388064", offers=offers, talks_s=6)
    made = [body["parties"][0] for body in bodies(call)]
    assert {party["id"][-1] for party in made} == {"1", "2", "3", "4", "5"}
    assert {party["id"][-1] for party in made if party.get("queueCall")} == {"3", "4", "5"}
    (ended,) = (
        party for party in made if party.get("extensionId") == QUEUE.id and party["status"]["code"] == "Disconnected"
    )
    assert ended["status"]["reason"] == "AgentAnswered"


@given(call=calls())
def test_every_event_fits_the_api(call: Call) -> None:
    """Whatever is played: schema, sequences without a gap, sent in order and 14 ms or more after it happened."""
    for session in story_of(START).place(call, START):
        made = events_of(ACCOUNT.id, session)
        for event in made:
            assert faults("telephony-sessions", "TelephonySessionsEventBody", event.body) == []
            assert event.at - event.happened_at >= timedelta(milliseconds=14)
        assert [event.body["sequence"] for event in made] == list(range(2, len(made) + 2))
        assert all(earlier.at <= later.at for earlier, later in pairwise(made))
        for part in session.parts:
            codes = [
                event.body["parties"][0]["status"]["code"] for event in made if event.extension_id == part.extension.id
            ]
            assert codes[0] == "Setup"
            assert codes[-1] == "Disconnected"
        for event in made:
            now = event.happened_at
            assert faults("telephony-sessions", "CallSessionObject", telephony_session(ACCOUNT.id, session, now)) == []
            shown = presence(str(event.extension_id), [session], now, ended_since=now - timedelta(milliseconds=1))
            assert faults("presence", "DetailedExtensionPresenceEventBody", shown) == []


@given(call=calls())
def test_the_same_call_gives_the_same_events(call: Call) -> None:
    """Two stories with one call send the same, `uuid` included."""
    first, second = ([events_of("1", one) for one in story_of(START).place(call, START)] for _ in range(2))
    assert first == second


def test_no_two_events_have_the_same_uuid() -> None:
    """Also of the two sessions of a RingOut call; a receiver leaves out a second event with the same one."""
    call = Call(kind="ringout", extension="1001", number="+15550101234", rings_s=3, talks_s=2)
    sessions = story_of(START).place(call, START)
    uuids = [event.uuid for session in sessions for event in events_of(ACCOUNT.id, session)]
    assert len(sessions) == 2
    assert len(set(uuids)) == len(uuids)


def test_presence_has_the_documented_keys() -> None:
    """A connected call among the active ones, with the documented keys in their order."""
    call = Call(kind="queue", extension="11115", number="+16504888888", name="WIRELESS CALLER", talks_s=9)
    (session,) = played(Script(account=PEOPLE, calls=()), START).place(call, START)
    shown = presence(TYLER.id, [session], START + timedelta(seconds=8), ended_since=START)
    documented = recorded("apidocs-detailed-extension-presence")["body"]
    assert set(shown) == set(documented) - {"extensionId", "sequence"}
    assert shown["telephonyStatus"] == documented["telephonyStatus"] == "CallConnected"
    (mine,) = shown["activeCalls"]
    assert set(mine) - {"toName"} == set(documented["activeCalls"][0])
    assert datetime.fromisoformat(mine["startTime"]) > START
