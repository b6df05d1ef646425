"""Frames of the WebSocket: the recorded ones byte for byte, and any others without an exception."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from callcast.ringcentral import frames
from callcast.ringcentral.frames import Frame, Presence, Steps, read_frame, read_presences
from tests import TESTS
from tests.effort import tries

WS = TESTS / "samples" / "ws"
EVENTS = TESTS / "samples" / "events"
FRAMES = [path for path in sorted(WS.glob("*.json")) if path.read_bytes().startswith(b"[")]


def events_of(name: str) -> list[dict[str, Any]]:
    content = json.loads((EVENTS / f"{name}.json").read_bytes())
    return content if isinstance(content, list) else [content]


def notification(event: Any) -> bytes:
    return json.dumps([{"type": "ServerNotification", "messageId": "1", "status": 200}, event]).encode()


def steps_of(steps: Steps, *events: Any) -> list[tuple[str | None, str, str]]:
    """(extension, end of the party's id, step) of each new step."""
    shown = []
    for one in events:
        frame = read_frame(notification(one))
        assert frame is not None
        event = frames.event(frame.body)
        assert event is not None
        shown += [(step.extension_id, step.party[-1], step.step) for step in steps.of_event(event)]
    return shown


def party_event(
    code: str, sequence: int, *, uuid: str = "", party: str = "p-1", extension: object = "7", path: str = "/extension/7"
) -> dict[str, Any]:
    one = {"id": party, "extensionId": extension, "status": {"code": code}}
    body = {"telephonySessionId": "s-1", "sequence": sequence, "parties": [one]}
    return {
        "uuid": uuid or f"{party}-{sequence}",
        "event": f"/restapi/v1.0/account/1{path}/telephony/sessions",
        "body": body,
    }


def presence_event(sequence: int, *calls: dict[str, str], total: int | None = None) -> dict[str, Any]:
    total = len(calls) if total is None else total
    return {
        "uuid": f"u{sequence}",
        "event": "/restapi/v1.0/account/~/extension/7/presence?detailedTelephonyState=true",
        "body": {"sequence": sequence, "telephonyStatus": "x", "activeCalls": calls, "totalActiveCalls": total},
    }


def call(status: str, *, party: str = "p-1", termination: str = "") -> dict[str, str]:
    more = {"terminationType": termination} if termination else {}
    return {"telephonySessionId": "s-1", "partyId": party, "telephonyStatus": status, **more}


# The recorded frames


@pytest.mark.parametrize("path", FRAMES, ids=lambda path: path.stem)
def test_recorded_frames_are_read(path: Path) -> None:
    raw = path.read_bytes()
    meta, *body = json.loads(raw)
    frame = read_frame(raw)
    assert frame is not None
    assert frame.type == meta.get("type", "")
    assert frame.message_id == meta.get("messageId", "")
    assert frame.status == meta.get("status", 0)
    assert frame.headers == meta.get("headers", {})
    assert json.loads(frame.body or b"null") == (body[0] if body else None)
    if "wsc" in meta:
        assert frame.recovery == (meta["wsc"]["sequence"], meta["wsc"]["token"])


def test_connection_details() -> None:
    first = read_frame((WS / "apidocs-connection-details.json").read_bytes()) or Frame()
    failed = read_frame((WS / "jswidgets-connectionDetails-recovery-failed.json").read_bytes()) or Frame()
    assert (frames.connection(first.body).recovered, frames.connection(first.body).recovery_s) == (False, 180)
    assert not frames.connection(failed.body).recovered
    assert frames.connection(b'{"recoveryState": "Successful", "recoveryTimeout": 60}').recovered
    assert frames.connection(b'{"recoveryTimeout": 60}').recovery_s == 60
    assert frames.connection(b"nonsense").recovery_s == 180


def test_subscription_answer() -> None:
    frame = read_frame((WS / "jswidgets-subscriptionResponse.json").read_bytes()) or Frame()
    found = frames.subscription(frame.body)
    assert found is not None
    assert found.id == "9c5bf39a-2c66-43e4-a927-737de24097b1"
    assert len(found.eventFilters) == 4
    assert found.disabledFilters == []
    assert frame.headers["X-Rate-Limit-Group"] == "medium"


def test_error_code() -> None:
    assert frames.error_code(b'{"errorCode": "WSG-902", "message": "idle"}') == "WSG-902"
    assert frames.error_code(b'{"errorCode": "secret words"}') == ""
    assert frames.error_code(b"[]") == ""


def test_call_to_a_menu_and_from_there_to_an_extension() -> None:
    assert steps_of(Steps(), *events_of("csn-PSTN-RingCentral-DataStreams")) == [
        (None, "1", "started"),
        ("62242421016", "2", "started"),
        (None, "1", "answered"),
        ("62242421016", "2", "ended"),
        ("809646016", "3", "started"),
        ("809646016", "3", "answered"),
        ("809646016", "3", "ended"),
        (None, "1", "ended"),
    ]


def test_outbound_call() -> None:
    assert steps_of(Steps(), *events_of("csn-RingCentral-PSTN")) == [
        ("809646016", "1", "started"),
        (None, "2", "started"),
        (None, "2", "answered"),
        ("809646016", "1", "answered"),
        ("809646016", "1", "ended"),
        (None, "2", "ended"),
    ]


def test_internal_call() -> None:
    assert steps_of(Steps(), *events_of("csn-RingCentral-RingCentral")) == [
        ("979428016", "1", "started"),
        ("809646016", "2", "started"),
        ("979428016", "1", "answered"),
        ("809646016", "2", "answered"),
        ("979428016", "1", "ended"),
        ("809646016", "2", "ended"),
    ]


def test_documented_events() -> None:
    queue = json.loads((EVENTS / "tylerlong-direct-vs-queue-2023.json").read_bytes())
    assert steps_of(Steps(), queue["direct"], queue["queue"]) == [
        ("62264425016", "2", "started"),
        ("62264425016", "3", "started"),
    ]
    assert steps_of(Steps(), *events_of("apidocs-cust-to-oper-event")) == [("684351005", "2", "answered")]
    assert steps_of(Steps(), *events_of("apidocs-detailed-extension-presence")) == [("6610372004", "2", "answered")]
    for without in (
        "apidocs-extension-presence-line",
        "apidocs-call-queue-member-presence",
        "apidocs-account-presence",
    ):
        assert steps_of(Steps(), *events_of(without)) == []


# What passes


def test_a_party_goes_only_forward() -> None:
    steps = Steps()
    events = [party_event(code, n) for n, code in enumerate(["Setup", "Proceeding", "Answered", "Hold", "Answered"], 1)]
    assert [step for *_, step in steps_of(steps, *events)] == ["started", "answered"]
    assert steps.ignored == {"no_change": 3}
    assert [step for *_, step in steps_of(steps, party_event("Gone", 6), party_event("Answered", 7))] == ["ended"]


def test_an_event_counts_once_and_late_ones_do_not_count() -> None:
    steps = Steps()
    steps_of(steps, party_event("Answered", 5, uuid="a"), party_event("Answered", 5, uuid="a"))
    assert steps.ignored == {"duplicate": 1}
    assert steps_of(steps, party_event("Disconnected", 4)) == []
    assert steps.ignored == {"duplicate": 1, "old": 1}
    assert steps_of(steps, party_event("Setup", 4, party="p-2")) == [("7", "2", "started")]  # counted per party


def test_event_ids_are_remembered_up_to_a_limit() -> None:
    steps = Steps()
    for n in range(frames.EVENTS_MAX + 1):
        steps_of(steps, party_event("Hold", n, party="p-9"))
    assert len(steps._events) == frames.EVENTS_MAX
    for n in range(frames.PARTIES_MAX + 1):
        steps_of(steps, party_event("Hold", n, party=f"p-{n}"))
    assert len(steps._parties) == frames.PARTIES_MAX


def test_extension_of_a_party() -> None:
    assert steps_of(Steps(), party_event("Setup", 1, extension=8)) == [("8", "1", "started")]
    assert steps_of(Steps(), party_event("Setup", 1, extension=None)) == [("7", "1", "started")]
    assert steps_of(Steps(), party_event("Setup", 1, extension=None, path="")) == [(None, "1", "started")]


def test_calls_of_a_presence() -> None:
    steps = Steps()
    assert steps_of(steps, presence_event(1, call("Ringing"))) == [("7", "1", "started")]
    assert steps_of(steps, presence_event(2, call("NoCall", termination="intermediate"))) == []
    assert steps_of(steps, presence_event(3, call("CallConnected"))) == [("7", "1", "answered")]
    assert steps_of(steps, presence_event(4, call("OnHold"))) == []
    assert steps_of(steps, presence_event(3)) == []  # an old one: the call goes on
    assert steps_of(steps, presence_event(5, call("NoCall", termination="final"))) == [("7", "1", "ended")]


def test_a_call_that_presence_no_longer_lists_has_ended() -> None:
    steps = Steps()
    steps_of(steps, presence_event(1, call("CallConnected"), call("Ringing", party="p-2")))
    assert steps_of(steps, presence_event(2, call("CallConnected"))) == [("7", "2", "ended")]
    assert steps_of(steps, presence_event(3)) == [("7", "1", "ended")]


def test_a_call_beyond_the_seven_that_presence_lists_goes_on() -> None:
    steps = Steps()
    steps_of(steps, presence_event(1, call("CallConnected")))
    assert steps_of(steps, presence_event(2, call("Ringing", party="p-2"), total=8)) == [("7", "2", "started")]
    assert steps_of(steps, presence_event(3)) == [("7", "2", "ended"), ("7", "1", "ended")]


def test_a_new_subscription_may_count_from_one() -> None:
    steps = Steps()
    steps_of(steps, presence_event(90, call("Ringing")))
    steps.resubscribed()
    assert steps_of(steps, presence_event(1, call("CallConnected"))) == [("7", "1", "answered")]


# Answers about presence


def test_presence_of_one_extension() -> None:
    body = (TESTS / "samples" / "presence" / "jswidgets-presence-nocall.json").read_bytes()
    found = read_presences(body, ["208594004"])
    assert found == {"208594004": Presence(telephonyStatus="NoCall", totalActiveCalls=0)}


def test_presence_of_several_extensions() -> None:
    busy = {"telephonyStatus": "Ringing", "activeCalls": [call("Ringing")]}
    items = [
        {"resourceId": "7", "status": 200, "body": busy},
        {"resourceId": 8, "status": 200, "body": {"presenceStatus": "Offline"}},  # hidden, or not a user
        {"resourceId": "9", "status": 404, "body": {"errorCode": "CMN-102"}},
        {"resourceId": "10", "status": 200, "body": busy},  # not asked for
        {"resourceId": "11", "status": 200, "body": "damaged"},
    ]
    found = read_presences(json.dumps(items).encode(), ["7", "8", "9", "11"])
    assert found is not None
    assert sorted(found) == ["7", "8"]
    assert (found["7"].telephonyStatus, found["8"].telephonyStatus) == ("Ringing", "")
    assert read_presences(b'--Boundary\nContent-Type: application/json\n\n{"a": 1}', ["7", "8"]) is None
    assert read_presences(b"<html>", ["7"]) is None


# What is no frame


@pytest.mark.parametrize("raw", [b"", b"null", b"{}", b"[]", b"[1]", b'["x"]', b"<html>", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_frame(raw: bytes) -> None:
    assert read_frame(raw) is None


def test_multipart_frame_is_of_no_use_but_no_damage() -> None:
    raw = b'[{"type":"ClientRequest","messageId":"1","status":207},--Boundary_1\r\n\r\n{"a":1}\r\n--Boundary_1--]'
    assert read_frame(raw) == Frame()


def test_unknown_and_odd_frames() -> None:
    assert read_frame(b'[{"type":"Later"}, {"a": 1}]') == Frame(type="Later", body=b'{"a": 1}')
    odd = b'[{"type": 5, "messageId": [], "status": "x", "headers": [1], "wsc": {"token": 1}}]'
    assert read_frame(odd) == Frame()
    assert read_frame(b'[{"headers": {"X-Rate-Limit-Limit": 40}}]') == Frame(headers={"X-Rate-Limit-Limit": "40"})


def understand(raw: bytes) -> None:
    """Everything that is done with the bytes of a frame. Must not raise."""
    steps = Steps()
    frame = read_frame(raw)
    if frame is not None:
        frames.connection(frame.body)
        frames.subscription(frame.body)
        frames.error_code(frame.body)
        if event := frames.event(frame.body):
            steps.of_event(event)
    read_presences(raw, ["7"])
    read_presences(raw, ["7", "8"])


RECORDED = [path.read_bytes() for path in FRAMES] + [
    notification(one) for path in sorted(EVENTS.glob("*.json")) for one in events_of(path.stem)
]


@settings(deadline=None, max_examples=tries(100, 20_000))
@given(st.binary(max_size=300))
def test_any_bytes(raw: bytes) -> None:
    understand(raw)


@settings(deadline=None, max_examples=tries(100, 20_000))
@given(st.sampled_from(RECORDED), st.randoms(use_true_random=False))
def test_damaged_frames(raw: bytes, chance: random.Random) -> None:
    damaged = bytearray(raw)
    for _ in range(chance.randint(1, 6)):
        place = chance.randrange(len(damaged) + 1)
        damaged[place : place + chance.choice([0, 1, 1, 5, 50])] = chance.choice(
            [b"", b"\x00", b"\xff", b'"', b"[", b"}", b",", b"null", b"-1", b"1e999", b"\\ud800", b"[[", b'{"a":']
        )
    understand(bytes(damaged))


WORDS = "type wsc headers body uuid event parties status code id sequence activeCalls telephonySessionId resourceId"
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(WORDS.split()), inner, max_size=5),
    max_leaves=20,
)


@settings(deadline=None, max_examples=tries(60, 20_000))
@given(VALUES)
def test_any_json(value: Any) -> None:
    understand(json.dumps(value).encode())
    understand(json.dumps([{"type": "ServerNotification"}, value]).encode())
    understand(notification({"event": "/account/1/extension/7/telephony/sessions", "body": value}))
    understand(notification({"event": "/account/1/extension/7/presence", "body": value}))
