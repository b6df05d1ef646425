"""The account's list: a record that stops naming an extension still says what becomes of that extension's part."""

import json
from typing import Any

import msgspec
import pytest

from callcast.calls.model import CallObservation, PollRecord
from callcast.calls.tracker import Rules, compare, fill_gap, resolve
from tests.unit.calls.snapshots import ACCOUNT, Watch, at
from tests.unit.ringcentral.decoded import decode_page, observations_of, snapshot

Json = dict[str, Any]
RULES = Rules()
LINE = {"phoneNumber": "+15550100901", "extensionId": "900"}
NO_LINE = {"phoneNumber": "+15550100901"}
ACCEPTED = {"result": "Accepted", "reason": "Accepted"}
FLIPPED = {
    "direction": "Outbound",
    "action": "VoIP Call",
    "from": {"phoneNumber": "+15550100901"},
    "to": {"phoneNumber": "+15550100351"},
}


def record(result: str = "In Progress", *legs: Json, **fields: Any) -> Json:
    one = {
        "id": "L1",
        "sessionId": "1",
        "telephonySessionId": "s-1",
        "startTime": "2026-03-02T09:00:00Z",
        "type": "Voice",
        "direction": "Inbound",
        "action": "Phone Call",
        "from": {"phoneNumber": "+15550100351"},
        "to": NO_LINE,
        "result": result,
        **({"legs": list(legs)} if legs else {}),
    }
    return one | fields


def phone(extension: int, start: int = 0, **fields: Any) -> Json:
    stamp = f"2026-03-02T09:00:{start:02}Z"
    owner = {"extension": {"id": extension}}
    return {"legType": "PstnToSip", "direction": "Outbound", "startTime": stamp, **owner, **fields}


def decoded(*records: Json) -> tuple[CallObservation, ...]:
    return observations_of(decode_page(json.dumps({"records": records}).encode()), ACCOUNT)


def poll(watch: Watch, t: float, *records: Json) -> list[str]:
    """The events of a poll, as `extension type`; the same poll again has none."""
    shot = snapshot(ACCOUNT, [decode_page(json.dumps({"records": records}).encode())], at(t))
    before = len(watch.events)
    watch.apply(PollRecord(target=ACCOUNT, taken_at=at(t)), compare(watch.index, shot, RULES))
    assert not compare(watch.index, shot, RULES)
    assert not [call for call in watch.index.live_calls() if call.vanished_at], "its record stands in the list"
    return [f"{event.call.extension_id} {event.type.removeprefix('call.')}" for event in watch.events[before:]]


def ends(watch: Watch) -> dict[str, tuple[str, float | None]]:
    """How each extension's part ended, and when, if the platform has the time."""
    assert not watch.index.live_calls()
    calls = {event.call.extension_id: event.call for event in watch.events}
    return {
        id_: (str(call.disposition), (call.ended_at - at(0)).total_seconds() if call.ended_exact else None)  # type: ignore[operator]
        for id_, call in calls.items()
    }


def watching() -> Watch:
    return Watch(ACCOUNT)


@pytest.mark.parametrize("between", [True, False])
def test_a_line_of_which_only_the_called_side_speaks_hands_over_to_an_extension(between: bool) -> None:
    """The owner stood in `to.extensionId` alone; then the legs name who is rung, and in the end who took the call."""
    watch = watching()
    assert poll(watch, 1, record(to=LINE)) == ["900 ringing"]
    if between:
        assert poll(watch, 4, record("In Progress", phone(102), to=LINE)) == ["102 ringing"]
        talking = record("In Progress", phone(102, 5, **ACCEPTED), to=LINE)
        assert poll(watch, 8, talking) == ["102 answered", "900 ended"]
        assert poll(watch, 9, talking) == []
    final = record("Accepted", phone(102, 5, duration=35, **ACCEPTED), to=LINE, duration=40)
    assert poll(watch, 41, final) == (["102 ended"] if between else ["102 ended", "900 ended"])
    assert ends(watch) == {"102": ("answered", 40), "900": ("answered_elsewhere", None)}
    assert poll(watch, 50, final) == []


def test_a_line_whose_extension_missed_the_call_missed_it_too() -> None:
    watch = watching()
    poll(watch, 1, record(to=LINE))
    final = record("Missed", phone(102, result="Missed", duration=20), to=LINE, duration=20)
    assert poll(watch, 21, final) == ["102 ended", "900 ended"]
    assert ends(watch) == {"102": ("missed", 20), "900": ("missed", 20)}


@pytest.mark.parametrize(
    ("final", "expected"),
    [
        (record("No Answer", duration=20, **FLIPPED), "missed"),
        (record("Missed", duration=20), "missed"),
        (record("Voicemail", duration=20), "voicemail"),
        (record("Accepted", duration=20), "answered"),
    ],
)
@pytest.mark.parametrize("first", [record(to=LINE), record("In Progress", phone(900))])
def test_a_final_record_that_names_no_extension_ends_the_only_part(first: Json, final: Json, expected: str) -> None:
    """The called side lost its id, the record turned outbound, or it has no legs any more."""
    watch = watching()
    poll(watch, 1, first)
    assert poll(watch, 21, final) == ["900 ended"]
    assert ends(watch) == {"900": (expected, 20)}
    assert poll(watch, 23, final) == []


def test_a_live_record_that_names_no_extension_for_a_while_changes_nothing() -> None:
    watch = watching()
    talking = record("In Progress", phone(102, 5, **ACCEPTED))
    poll(watch, 1, talking)
    assert poll(watch, 4, record()) == []
    assert poll(watch, 7, talking) == []
    assert poll(watch, 41, record("Accepted", duration=40)) == ["102 ended"]


def test_a_hunt_that_goes_on_to_another_phone_may_come_back() -> None:
    """It rings 102, then 103, then 102 again, who takes the call."""
    watch = watching()
    assert poll(watch, 1, record("In Progress", phone(102))) == ["102 ringing"]
    assert poll(watch, 11, record("In Progress", phone(103, 10))) == ["103 ringing"]
    assert poll(watch, 21, record("In Progress", phone(102, 20))) == []
    assert poll(watch, 26, record("In Progress", phone(102, 20, **ACCEPTED))) == ["102 answered", "103 ended"]
    final = record("Accepted", phone(102, 20, duration=30, **ACCEPTED), duration=50)
    assert poll(watch, 51, final) == ["102 ended"]
    assert ends(watch) == {"102": ("answered", 50), "103": ("answered_elsewhere", None)}


@pytest.mark.parametrize(("word", "expected"), [("Missed", "missed"), ("Accepted", "answered_elsewhere")])
def test_a_hunt_whose_end_names_the_last_phone_ends_for_the_first_too(word: str, expected: str) -> None:
    watch = watching()
    poll(watch, 1, record("In Progress", phone(102)))
    poll(watch, 11, record("In Progress", phone(103, 10)))
    poll(watch, 31, record(word, phone(103, 10, result=word, duration=20), duration=30))
    assert {id_: how for id_, (how, _) in ends(watch).items()} == {
        "102": expected,
        "103": "answered" if word == "Accepted" else "missed",
    }


def test_of_several_parts_the_one_that_was_seen_connected_answered() -> None:
    """The final record names none of them."""
    watch = watching()
    poll(watch, 1, record("In Progress", phone(102), phone(103)))
    poll(watch, 6, record("In Progress", phone(102), phone(103, 5, **ACCEPTED)))
    assert poll(watch, 41, record("Accepted", duration=40)) == ["102 ended", "103 ended"]
    assert {id_: how for id_, (how, _) in ends(watch).items()} == {"102": "answered_elsewhere", "103": "answered"}


def test_the_owner_of_a_record_may_be_left_when_its_legs_go() -> None:
    """The queue's record; the leg that rang 102 is not there any more."""
    watch = watching()
    poll(watch, 1, record("In Progress", phone(102), extension={"id": 900}))
    poll(watch, 31, record("Accepted", duration=30, extension={"id": 900}))
    assert ends(watch) == {"900": ("answered", 30), "102": ("answered_elsewhere", None)}


def test_the_call_log_ends_a_part_that_its_record_does_not_name() -> None:
    """Looked up after it vanished, and after downtime."""
    final = record("Accepted", phone(102, 5, duration=35, **ACCEPTED), to=LINE, duration=40)
    for by_gap in (False, True):
        watch = watching()
        poll(watch, 1, record(to=LINE))
        shot = snapshot(ACCOUNT, [decode_page(b'{"records": []}')], at(10))
        watch.apply(PollRecord(target=ACCOUNT, taken_at=at(10)), compare(watch.index, shot, RULES))
        if by_gap:
            change = fill_gap(watch.index, ACCOUNT, decoded(final), at(60), RULES, after=at(1))
        else:
            change = resolve(watch.index, "900/s-1", decoded(final), at(60), RULES)
        watch.apply(None, change)
        assert ends(watch)["900"] == ("answered_elsewhere", None)


def test_a_record_does_not_decide_on_a_part_that_another_record_shows() -> None:
    """102 was rung by the hunt's record, and has one of its own as well, which is live."""
    watch = watching()
    own = record(id="L2", extension={"id": 102})
    poll(watch, 1, record("In Progress", phone(102)), own)
    assert poll(watch, 11, record("Missed", phone(103, 2, result="Missed", duration=8), duration=10), own) == [
        "103 ended"
    ]
    assert watch.call("102/s-1").live


def test_a_part_that_is_over_is_not_corrected_by_a_record_that_does_not_name_it() -> None:
    """Its phone was busy; the call went on to another, and in the end no extension is named."""
    watch = watching()
    poll(watch, 1, record("In Progress", phone(102), phone(103)))
    poll(watch, 3, record("In Progress", phone(102, result="Busy", duration=2), phone(103)))
    final = record("Missed", phone(103, result="Missed", duration=20), duration=20)
    for t, last in ((21, final), (23, record("Missed", duration=20)), (25, record("Missed", duration=20))):
        poll(watch, t, last)
    assert ends(watch) == {"102": ("busy", 2), "103": ("missed", 20)}
    assert watch.index.call("unassigned/s-1") is None


def test_a_record_that_was_renamed_is_matched_under_its_older_session() -> None:
    """It gets the name of its session in the poll in which it stops naming the extension."""
    watch = watching()
    first = record(to=LINE)
    del first["telephonySessionId"]
    poll(watch, 1, first)
    assert poll(watch, 21, record("Missed", duration=20)) == ["900 ended"]


def test_facts_of_an_unnamed_extension_are_kept_for_an_account_only() -> None:
    (one,) = decoded(record("Missed", phone(102), duration=20))
    assert one.unnamed is not None
    assert (one.unnamed.extension_id, one.unnamed.legs, one.unnamed.unnamed) == ("unassigned", (), None)
    assert msgspec.structs.replace(one, unnamed=None) != one
