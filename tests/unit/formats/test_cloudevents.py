"""What consumers get of an event, and how phone numbers are redacted."""

import hmac
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st

from callcast.calls.model import (
    Blind,
    Call,
    CallEvent,
    Direction,
    Disposition,
    Evidence,
    Observation,
    Party,
    PollHint,
    Provider,
    Queue,
    SourceEvent,
    State,
)
from callcast.formats.cloudevents import NUMBERS, Wire, last4, ring_seconds, talk_seconds

START = datetime(2021, 1, 19, 23, 58, 57, tzinfo=UTC)
HASHED = "h:" + hmac.new(b"key", b"crm:16504306662", "sha256").hexdigest()[:16]
ANSWER = START + timedelta(seconds=4)

CALL = Call(
    source="acme",
    call_id="62264425016/s-8f81",
    session_id="s-8f81",
    extension_id="62264425016",
    account_id="809646016",
    sequence=2,
    direction=Direction.INBOUND,
    state=State.CONNECTED,
    from_party=Party(number="+16504306662", name="WIRELESS CALLER", location="San Mateo, CA"),
    to_party=Party(number="+16502886382", name="Tyler Liu", extension_number="101"),
    started_at=START,
    answered_at=ANSWER,
    answered_exact=True,
    provider=Provider(name="ringcentral", record_id="LIef", session_id="538332041016", action="Phone Call"),
)

EVENT = CallEvent(
    id="evt_k3v9",
    type="call.answered",
    time=ANSWER,
    call=CALL,
    previous_state=State.RINGING,
    sequence=2,
    observation=Observation(
        after=START + timedelta(seconds=1, milliseconds=900),
        before=START + timedelta(seconds=8, milliseconds=200),
        exact=True,
        evidence=Evidence.ACTIVE_CALLS,
        first_poll=False,
    ),
)


def ended(**changes: Any) -> Call:
    facts: dict[str, Any] = {"state": State.ENDED, "ended_at": START + timedelta(seconds=10)} | changes
    return msgspec.structs.replace(CALL, **facts)


def test_an_event_has_the_documented_fields() -> None:
    """Every field of an event."""
    assert json.loads(Wire().event(EVENT)) == {
        "specversion": "1.0",
        "id": "evt_k3v9",
        "source": "/callcast/acme",
        "type": "call.answered",
        "subject": "62264425016/s-8f81",
        "time": "2021-01-19T23:59:01.000Z",
        "datacontenttype": "application/json",
        "dataschema": "urn:callcast:event:1",
        "partitionkey": "62264425016/s-8f81",
        "data": {
            "call_id": "62264425016/s-8f81",
            "session_id": "s-8f81",
            "account_id": "809646016",
            "extension_id": "62264425016",
            "sequence": 2,
            "direction": "inbound",
            "state": "connected",
            "previous_state": "ringing",
            "from": {
                "number": "+16504306662",
                "name": "WIRELESS CALLER",
                "extension_number": None,
                "location": "San Mateo, CA",
            },
            "to": {"number": "+16502886382", "name": "Tyler Liu", "extension_number": "101", "location": None},
            "queue": None,
            "started_at": "2021-01-19T23:58:57.000Z",
            "answered_at": "2021-01-19T23:59:01.000Z",
            "ended_at": None,
            "ring_seconds": 4.0,
            "talk_seconds": None,
            "disposition": None,
            "observation": {
                "after": "2021-01-19T23:58:58.900Z",
                "before": "2021-01-19T23:59:05.200Z",
                "exact": True,
                "evidence": "active_calls",
                "first_poll": False,
            },
            "provider": {
                "name": "ringcentral",
                "record_id": "LIef",
                "session_id": "538332041016",
                "action": "Phone Call",
                "result": None,
                "reason": None,
            },
        },
    }


def test_the_cloudevents_sdk_reads_an_event() -> None:
    """The official SDK accepts the structured form and finds the attributes."""
    event = JSONFormat().read(CloudEvent, Wire().event(EVENT))
    assert event.get_id() == "evt_k3v9"
    assert event.get_type() == "call.answered"
    assert event.get_extension("partitionkey") == EVENT.key


def test_a_source_event_describes_the_source() -> None:
    """Subject and partition key are the source's name; a recovery has the blind interval."""
    event = SourceEvent(
        id="evt_s",
        type="source.recovered",
        time=ANSWER,
        source="acme",
        extension_id=None,
        reason="timeout",
        since=START,
        blind=Blind(after=None, before=ANSWER),
    )
    encoded = json.loads(Wire().event(event))
    assert (encoded["subject"], encoded["partitionkey"]) == ("acme", "acme")
    assert encoded["data"] == {
        "source": "acme",
        "extension_id": None,
        "reason": "timeout",
        "since": "2021-01-19T23:58:57.000Z",
        "blind": {"after": None, "before": "2021-01-19T23:59:01.000Z"},
    }


def test_a_correction_names_what_it_corrects() -> None:
    """Only a correction has `data.corrects`."""
    corrected = msgspec.structs.replace(EVENT, type="call.corrected", corrects="evt_end")
    assert json.loads(Wire().event(corrected))["data"]["corrects"] == "evt_end"
    assert "corrects" not in json.loads(Wire().event(EVENT))["data"]


def test_the_hint_that_caused_a_poll_is_not_on_the_wire() -> None:
    hinted = msgspec.structs.replace(EVENT, hint=PollHint(via="push", seconds_before=0.8))
    assert Wire().event(hinted) == Wire().event(EVENT)
    assert Wire().standard(hinted) == Wire().standard(EVENT)


def test_sinks_that_share_a_wire_encode_an_event_once() -> None:
    """An equal event, as each sink reads it from the outbox, is not encoded again; one with other fields is."""
    wire = Wire()
    first = wire.event(EVENT)
    assert wire.event(msgspec.json.decode(msgspec.json.encode(EVENT), type=CallEvent)) is first
    other = msgspec.structs.replace(
        EVENT, call=msgspec.structs.replace(CALL, from_party=Party(number="+4915112345678"))
    )
    assert json.loads(wire.event(other))["data"]["from"]["number"] == "+4915112345678"
    assert wire.event(EVENT) == first


def test_the_cache_of_encoded_events_is_limited() -> None:
    """Only the newest events are cached."""
    wire = Wire()
    many = [msgspec.structs.replace(EVENT, id=f"evt_{number}") for number in range(1000)]
    texts = [wire.event(event) for event in many]
    assert wire.event(many[-1]) is texts[-1]
    assert wire.event(many[0]) is not texts[0]


def test_the_standard_form_has_type_time_and_data() -> None:
    """The timestamp is the time of the event."""
    body = json.loads(Wire().standard(EVENT))
    assert list(body) == ["type", "timestamp", "data"]
    assert body["timestamp"] == "2021-01-19T23:59:01.000Z"
    assert body["data"] == json.loads(Wire().event(EVENT))["data"]


@pytest.mark.parametrize(
    ("numbers", "caller", "own_name"),
    [
        ("full", "+16504306662", "Tyler Liu"),
        ("last4", "***6662", "Tyler Liu"),
        ("hash", HASHED, None),
        ("drop", None, None),
    ],
)
def test_numbers_and_names_follow_the_policy(numbers: Any, caller: str | None, own_name: str | None) -> None:
    """Only full keeps locations and the caller's name; full and last4 keep the own side's name."""
    to_party = msgspec.structs.replace(CALL.to_party, extension_id=CALL.extension_id)  # type: ignore[type-var]
    call = json.loads(Wire(numbers, b"key", "crm").call(msgspec.structs.replace(CALL, to_party=to_party)))
    assert call["from"]["number"] == caller
    assert (call["from"]["name"] is None) is (numbers != "full")
    assert (call["from"]["location"] is None) is (numbers != "full")
    assert call["to"]["extension_number"] == "101"
    assert call["to"]["name"] == own_name
    assert set(call["to"]) == {"number", "name", "extension_number", "location"}


@pytest.mark.parametrize("extension_id", [None, "999"])
def test_a_party_with_another_or_no_extension_id_is_external(extension_id: str | None) -> None:
    """Only the call's own extension keeps its name."""
    to_party = msgspec.structs.replace(CALL.to_party, extension_id=extension_id)  # type: ignore[type-var]
    call = Wire("last4").call_dict(msgspec.structs.replace(CALL, to_party=to_party))
    assert call["to"]["name"] is None


def test_a_hash_is_stable_for_a_sink_and_differs_between_sinks() -> None:
    """The same digits give the same text for one sink and key, and another for another sink or key."""

    def hashed(number: str, sink: str = "crm", key: bytes = b"k") -> Any:
        call = msgspec.structs.replace(CALL, from_party=Party(number=number))
        return json.loads(Wire("hash", key, sink).call(call))["from"]["number"]

    assert hashed("+16504306662") == hashed("+1 (650) 430-6662")
    assert len({hashed("+16504306662"), hashed("+16504306662", "other"), hashed("+16504306662", key=b"x")}) == 3


@pytest.mark.parametrize("numbers", NUMBERS)
def test_a_confirmed_queue_name_is_always_sent(numbers: Any) -> None:
    """An unconfirmed one may be part of the caller's name, so only full has it."""
    for confirmed in (True, False):
        call = msgspec.structs.replace(CALL, queue=Queue(name="Sales", confirmed=confirmed))
        is_sent = confirmed or numbers == "full"
        assert Wire(numbers, b"k", "s").call_dict(call)["queue"] == ({"name": "Sales"} if is_sent else None)


@given(
    st.sampled_from(["last4", "hash", "drop"]),
    st.sampled_from(["+1{}", "+44 {}", "{}", "(650) {}"]),
    st.text("0123456789", min_size=8, max_size=12),
    st.sampled_from(["Rejected by {}", "{}", "({})", "{}, busy", "+49{}"]),
)
def test_no_full_number_is_sent_unless_full(numbers: Any, form: str, digits: str, word: str) -> None:
    """Neither in a party nor in the provider's texts."""
    number = form.format(digits)
    provider = Provider(name="ringcentral", record_id="r", result=word.format(number), reason="+4915112345678")
    ids = {"account_id": "1", "extension_id": "2", "session_id": "s", "call_id": "2/s"}
    call = msgspec.structs.replace(CALL, from_party=Party(number=number, name=number), provider=provider, **ids)
    text = Wire(numbers, b"k", "s").call(call).decode()
    assert digits not in text
    assert "4915112345678" not in text


@given(st.sampled_from(NUMBERS), st.text("0123456789", min_size=1, max_size=4), st.text(max_size=4))
def test_ids_are_never_changed(numbers: Any, number: str, other: str) -> None:
    """Even if they contain the digits of a number."""
    ids = {
        "call_id": f"62{number}00/s-{number}",
        "session_id": f"s-{number}",
        "extension_id": f"62{number}00",
        "account_id": number,
    }
    provider = Provider(name="ringcentral", record_id=number, session_id=f"538{number}101", action=f"A{number}B")
    parties = {"from_party": Party(number=number), "to_party": Party(number=other)}
    call = Wire(numbers, b"k", "s").call_dict(msgspec.structs.replace(CALL, provider=provider, **ids, **parties))
    assert {key: call[key] for key in ids} == ids
    given_ = {"name": "ringcentral", "record_id": number, "session_id": f"538{number}101", "action": f"A{number}B"}
    assert {key: call["provider"][key] for key in given_} == given_


@pytest.mark.parametrize(
    ("number", "word", "last4_of_it"),
    [
        ("101", "Busy 101", "Busy ***101"),
        ("101", "Busy 1012", "Busy 1012"),
        ("101", "Line_101", "Line_101"),
        ("(866)123-4567", "by (866)123-4567.", "by ***4567."),
        ("+16504306662", "by 16504306662", "by ***6662"),
        ("+16504306662", "by A16504306662", "by A16504306662"),
        ("anonymous", "anonymous", "anonymous"),
        (" ", "a b 1", "a b 1"),
    ],
)
def test_only_a_whole_token_is_a_number(number: str, word: str, last4_of_it: str) -> None:
    """Digits within a longer word are not changed; the bare digits of a long number count as that number."""
    provider = msgspec.structs.replace(CALL.provider, reason=word)
    call = msgspec.structs.replace(CALL, provider=provider, from_party=Party(number=number), to_party=None)
    assert Wire("last4").call_dict(call)["provider"]["reason"] == last4_of_it
    dropped = None if last4_of_it != word else word
    assert Wire("drop").call_dict(call)["provider"]["reason"] == dropped


@pytest.mark.parametrize(
    ("numbers", "word"),
    [
        ("full", "Rejected by +16504306662"),
        ("last4", "Rejected by ***6662"),
        ("hash", f"Rejected by {HASHED}"),
        ("drop", None),
    ],
)
def test_a_number_in_a_provider_text_is_redacted(numbers: Any, word: str | None) -> None:
    """The text around it is kept, except with drop, which removes the whole text."""
    provider = msgspec.structs.replace(CALL.provider, result="Rejected by +16504306662")
    shown = Wire(numbers, b"key", "crm").call_dict(msgspec.structs.replace(CALL, provider=provider))["provider"]
    assert (shown["result"], shown["action"]) == (word, "Phone Call")


@pytest.mark.parametrize(
    ("call", "ring", "talk"),
    [
        (CALL, 4.0, None),
        (ended(disposition=Disposition.ANSWERED), 4.0, 6.0),
        (ended(disposition=Disposition.ANSWERED, answered_exact=False), None, 6.0),
        (ended(disposition=Disposition.ANSWERED, answered_at=None), None, None),
        (ended(disposition=Disposition.MISSED, answered_at=None), 10.0, None),
        (ended(disposition=Disposition.UNKNOWN, answered_at=None), None, None),
        (msgspec.structs.replace(CALL, answered_at=None, state=State.RINGING), None, None),
    ],
)
def test_ring_and_talk_seconds_are_null_unless_known(call: Call, ring: float | None, talk: float | None) -> None:
    """Ring is null unless the answer is exact; an unanswered call rang to its end and never talked."""
    assert (ring_seconds(call), talk_seconds(call)) == (ring, talk)


def test_seconds_are_never_negative() -> None:
    """Even if two clocks disagree."""
    assert talk_seconds(ended(ended_at=START)) == 0.0


@pytest.mark.parametrize(("number", "shown"), [("+16504306662", "***6662"), ("(866)123-4567", "***4567"), ("", "***")])
def test_last4_shows_the_end_only(number: str, shown: str) -> None:
    """What logs may contain of a number."""
    assert last4(number) == shown
