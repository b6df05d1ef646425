"""The tables of the platform's words: every word of the API's lists has its row, others are only counted."""

import json
from typing import Any

import pytest

from callcast.calls.model import Disposition, State, Target
from callcast.ringcentral.vocabulary import DISPOSITIONS, KNOWN, RESULTS, RESULTS_OFF_LIST, disposition
from tests import TESTS
from tests.unit.calls.snapshots import at
from tests.unit.ringcentral.decoded import decode_page, snapshot

ENUMS = json.loads((TESTS / "openapi" / "enums.json").read_text())
SAMPLES = TESTS / "samples"
LISTS = {
    "type": "CallTypeEnum",
    "direction": "CallDirectionEnum",
    "action": "CallActionEnum",
    "result": "CallResultEnum",
    "reason": "CallResultReasonEnum",
    "legType": "CallLegTypeEnum",
    "delegationType": "DelegationTypeEnum",
}
EXPECTED = {
    "answered": ["Accepted", "Call connected"],
    "missed": ["Missed", "No Answer", "Answered Not Accepted"],
    "abandoned": ["Abandoned"],
    "voicemail": ["Voicemail", "Sent to Voicemail"],
    "busy": ["Busy"],
    "declined": ["Declined", "Rejected"],
    "blocked": ["Blocked", "Restricted Number", "Not Allowed", "International Disabled", "International Restricted"],
    "answered_elsewhere": ["Answered Elsewhere", "Stopped"],
    "cancelled": ["Hang Up"],
    "fax": [
        "Fax Not Sent",
        "Fax Partially Sent",
        "Fax Poor Line",
        "Fax Receipt Error",
        "Fax on Demand",
        "Partial Receive",
        "Receive Error",
        "Received",
        "Send Error",
        "Sent",
    ],
    "failed": [
        "Call Failed",
        "Call Failure",
        "Internal Error",
        "Wrong Number",
        "IP Phone Offline",
        "No Calling Credit",
        "Carrier is not active",
        "EDGE trunk misconfigured",
        "Suspended account",
    ],
    "unknown": [
        "911",
        "933",
        "In Progress",
        "Phone Login",
        "Reply",
        "Unknown",
        "Callback requested",
    ],
}

OFF_LIST = {
    "answered": ("Call accepted",),
    "fax": ("Fax Receipt", "Fax Send Error", "No fax machine", "Poor Line Quality"),
    "unknown": ("Disconnected", "ResultEmpty", "ResultInProgress", "Ringing Elsewhere"),
}

Record = dict[str, Any]


def record(**fields: Any) -> Record:
    return {
        "id": "L1",
        "sessionId": "5",
        "startTime": "2026-03-02T09:00:00.000Z",
        "type": "Voice",
        "direction": "Inbound",
        "action": "Phone Call",
        "duration": 9,
        **fields,
    }


@pytest.mark.parametrize(("field", "name"), LISTS.items())
def test_every_word_of_the_lists_is_known(field: str, name: str) -> None:
    """A word that the API describes is never counted as unknown."""
    assert {word.lower() for word in ENUMS[name]} <= KNOWN[field]


def test_every_result_has_its_disposition() -> None:
    """The whole table: no result is without a row, none has two."""
    listed = {word: kind for kind, words in EXPECTED.items() for word in words}
    assert set(listed) == set(ENUMS["CallResultEnum"])
    assert sum(map(len, EXPECTED.values())) == len(listed)
    assert {word: DISPOSITIONS[word.lower()].value for word in listed} == listed
    assert {word for words in RESULTS.values() for word in words} == set(listed)


def test_every_result_off_the_list_is_known() -> None:
    """Words that were seen in replies or have left the list are not counted, and have their row."""
    assert {kind.value: words for kind, words in RESULTS_OFF_LIST.items()} == OFF_LIST
    for kind, words in OFF_LIST.items():
        assert {DISPOSITIONS[word.lower()] for word in words} == {Disposition(kind)}
        assert {word.lower() for word in words} <= KNOWN["result"]


@pytest.mark.parametrize(
    ("word", "inbound", "expected"),
    [
        ("hang up", True, Disposition.ABANDONED),
        ("hang up", False, Disposition.CANCELLED),
        ("missed", False, Disposition.NO_ANSWER),
        ("no answer", True, Disposition.MISSED),
        ("no answer", False, Disposition.NO_ANSWER),
        ("answered not accepted", True, Disposition.MISSED),
        ("answered not accepted", False, Disposition.NO_ANSWER),
        ("abandoned", False, Disposition.ABANDONED),
        ("busy", True, Disposition.BUSY),
        ("call accepted", True, Disposition.ANSWERED),
        ("fax send error", True, Disposition.FAX),
        ("no fax machine", False, Disposition.FAX),
        ("disconnected", True, Disposition.UNKNOWN),
        ("ringing elsewhere", True, Disposition.UNKNOWN),
        ("something new", True, Disposition.UNKNOWN),
        ("", True, Disposition.UNKNOWN),
    ],
)
def test_words_off_the_list(word: str, inbound: bool, expected: Disposition) -> None:
    """Seen in replies or never seen: a disposition all the same; a hang-up or no answer depends on who rang whom."""
    assert disposition(word, inbound=inbound) is expected


@pytest.mark.parametrize("name", LISTS.values())
def test_every_value_of_every_list_decodes(name: str) -> None:
    """Each word in its field gives a good page without unknown words, in any case of dead letters."""
    field = next(f for f, n in LISTS.items() if n == name)
    for word in (w.swapcase() for w in ENUMS[name]):
        one = record(result="Missed", legs=[{"legType": "Accept"}])
        (one["legs"][0] if field == "legType" else one)[field] = word
        page = decode_page(json.dumps({"records": [one]}).encode())
        assert (len(page.records), page.bad, page.bad_fields, page.unknown) == (1, (), (), ())
        snapshot(Target(source="acme"), [page], at(0))


@pytest.mark.parametrize("field", LISTS)
def test_a_new_word_is_reported_once_and_harmless(field: str) -> None:
    """Counted by field and word, once a page; the record stays good and the other one too."""
    new = record(result="Missed", legs=[{"legType": "Accept"}])
    (new["legs"][0] if field == "legType" else new)[field] = "Quantum Call"
    page = decode_page(json.dumps({"records": [new, {**new, "id": "L2"}, record(id="L3", result="Missed")]}).encode())
    assert page.unknown == ((field, "Quantum Call"),)
    assert page.bad == ()
    shown = snapshot(Target(source="acme"), [page], at(0)).observations
    assert len(shown) == (1 if field == "type" else 3)
    assert all(observation.state is State.ENDED for observation in shown)


def test_words_of_legs_are_reported_too() -> None:
    """A leg has direction, action, result and reason of its own."""
    leg = {"direction": "Sideways", "action": "Juggle", "result": "Lost", "reason": "Fun", "legType": "Third"}
    page = decode_page(json.dumps({"records": [record(legs=[leg])]}).encode())
    assert {word for _, word in page.unknown} == set(leg.values())
    several = record(legs=[{"result": word} for word in "XWZVYU"])
    page = decode_page(json.dumps({"records": [several]}).encode())
    assert page.unknown == tuple(("result", word) for word in "UVWXYZ"), "in an order that does not change"


def test_the_words_that_the_official_widget_renders_are_known() -> None:
    """jswidgets-results-rendered: old and new spellings beside one another."""
    rendered = json.loads((SAMPLES / "call-log" / "jswidgets-results-rendered.json").read_text())
    assert {word for word in rendered if word.lower() not in KNOWN["result"]} == set()
