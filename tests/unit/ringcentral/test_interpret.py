"""What records show: each rule, with the recording or sample that shows it."""

import json
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from callcast.calls.model import CallObservation, Direction, Disposition, Leg, Party, Queue, State, Target
from callcast.ringcentral.vocabulary import RESULTS
from tests import TESTS
from tests.unit.calls.snapshots import at
from tests.unit.ringcentral.decoded import decode_page, observations_of, snapshot
from tests.unit.ringcentral.test_vocabulary import record

SAMPLES = TESTS / "samples"
ACCOUNT = Target(source="acme")
EXTENSION = Target(source="acme", extension_id="101")
ACCEPTED = {"reason": "Accepted"}
OWN = {"name": "Agent", "extensionNumber": "11115"}
OWN_NUMBER = {"phoneNumber": "+17203861294", "extensionNumber": "11115"}


def seen(one: dict[str, Any], target: Target = EXTENSION) -> tuple[CallObservation, ...]:
    page = decode_page(json.dumps({"records": [one]}).encode())
    assert (page.bad, page.bad_fields) == ((), ())
    return observations_of(page, target)


def only(one: dict[str, Any], target: Target = EXTENSION) -> CallObservation:
    (observation,) = seen(one, target)
    return observation


def sample(name: str) -> Any:
    return json.loads((SAMPLES / f"{name}.json").read_text())


def leg(leg_type: str, extension: int | None = None, **fields: Any) -> dict[str, Any]:
    owner = {"extension": {"id": extension}} if extension else {}
    return {"legType": leg_type, "direction": "Outbound", "action": "VoIP Call", **owner, **fields}


def live(**fields: Any) -> dict[str, Any]:
    one = record(result="In Progress", **fields)
    del one["duration"]
    return one


# Live or ended


@pytest.mark.parametrize("reason", ["Accepted", "accepted"])
@pytest.mark.parametrize("where", ["record", "leg"])
def test_answered_by_a_reason_on_the_record_or_on_any_leg(reason: str, where: str) -> None:
    """seed-direct-2 says so only on the second leg, seed-queue-2 on both."""
    legs = [leg("Accept"), leg("PstnToSip", **({"reason": reason} if where == "leg" else {}))]
    shown = only(live(legs=legs, **({"reason": reason} if where == "record" else {})))
    assert shown.state is State.CONNECTED
    assert shown.disposition is None
    assert shown.ended_at is None
    assert [one.accepted for one in shown.legs] == [False, where == "leg"]


@pytest.mark.parametrize("where", ["record", "leg"])
def test_connected_is_no_answer(where: str) -> None:
    """By the reason it was answered without a choice of how to handle the call: a voice mail (cases/A1-1)."""
    word = {"reason": "Connected"}
    shown = only(live(legs=[leg("FindMe", **(word if where == "leg" else {}))], **(word if where == "record" else {})))
    assert (shown.state, [one.accepted for one in shown.legs]) == (State.RINGING, [False])
    over = record(result="Missed", legs=[leg("FindMe", result="Answered Not Accepted", **word)], **word)
    assert only(over).disposition is Disposition.MISSED


@pytest.mark.parametrize("result", ["Accepted", "Call connected", "call accepted"])
@pytest.mark.parametrize("duration", [{}, {"duration": 0}, {"duration": 9}])
def test_answered_by_the_result_of_a_leg(result: str, duration: dict[str, int]) -> None:
    """A fan-out says it without a reason (cases/G2-1)."""
    taken = leg("PstnToSip", result=result, startTime="2026-03-02T09:00:04Z", **duration)
    shown = only(live(legs=[leg("PstnToSip", result="Stopped"), taken]))
    assert shown.state is State.CONNECTED
    assert [one.accepted for one in shown.legs] == [False, True]


@pytest.mark.parametrize("result", ["In Progress", "in progress", "ResultInProgress", "", None])
@pytest.mark.parametrize(("direction", "state"), [("Inbound", State.RINGING), ("Outbound", State.DIALING)])
def test_unanswered_is_ringing_or_dialing(result: str | None, direction: str, state: State) -> None:
    """Without a result a record is live as well; another reason answers nothing."""
    shown = only(live(direction=direction, reason="Hang Up") | {"result": result})
    assert (shown.state, shown.direction, shown.disposition) == (state, Direction(direction.lower()), None)


@pytest.mark.parametrize("duration", [{}, {"duration": 0}, {"durationMs": 0}, {"duration": 3, "durationMs": 0}])
@pytest.mark.parametrize("result", ["Accepted", "Call connected", "call accepted"])
def test_connected_without_a_duration_goes_on(result: str, duration: dict[str, int]) -> None:
    """jswidgets-activeCalls: a RingOut reads Call connected with duration 0 while it lives."""
    one = record(result=result)
    del one["duration"]
    assert only(one | duration).state is State.CONNECTED
    assert only(one | duration).ended_at is None
    assert only(one | duration).disposition is Disposition.ANSWERED, "if it turns out to be over"
    assert only(one | {"duration": 1}).state is State.ENDED
    assert only(one | {"durationMs": 1}).state is State.ENDED
    assert only(one | duration | {"finished": True}).state is State.ENDED


def test_finished_ends_whatever_the_result() -> None:
    """Finished with In Progress gives unknown, unless an answer is shown; not finished says nothing."""
    shown = only(live(finished=True))
    assert (shown.state, shown.disposition, shown.provisional) == (State.ENDED, Disposition.UNKNOWN, False)
    assert only(live(finished=True, reason="Accepted")).disposition is Disposition.ANSWERED
    assert only(live(finished=True, legs=[leg("PstnToSip", **ACCEPTED)])).disposition is Disposition.ANSWERED
    assert only(live(finished=False)).state is State.RINGING
    assert only(record(result="Missed", finished=False)).state is State.ENDED


def test_the_end_is_start_plus_duration() -> None:
    """Milliseconds where given (webphone-381: 18706 ms reads 19 s); no end without a duration."""
    assert only(record(result="Missed", duration=9)).ended_at == at(9)
    assert only(record(result="Missed", duration=19, durationMs=18706)).ended_at == at(18.706)
    assert only(record(result="Missed", duration=0)).ended_at == at(0)
    one = record(result="Missed")
    del one["duration"]
    assert only(one).ended_at is None


@pytest.mark.parametrize("result", ["Stopped", "stopped", "IP Phone Offline"])
def test_provisional_while_nothing_but_phones_was_rung(result: str) -> None:
    """derived-queue-snapshot-*: written over a queue call that goes on."""
    out = {"direction": "Outbound", "action": "VoIP Call"}
    assert only(record(result=result, legs=[leg("PstnToSip"), leg("siptosip")], **out)).provisional
    assert only(record(result=result, **out)).provisional
    for final in (
        record(result=result, legs=[leg("PstnToSip"), leg("Accept", direction="Inbound")], **out),
        record(result=result, legs=[leg("PstnToSip", direction="Inbound")], **out),
        record(result=result, legs=[leg("SipToPstnUnmetered")], **out),
        record(result=result, legs=[leg("PstnToSip")], finished=True, **out),
        record(result=result),
        record(result="Missed", legs=[leg("PstnToSip")], **out),
    ):
        shown = only(final)
        assert (shown.state, shown.provisional) == (State.ENDED, False)


def test_provisional_although_one_of_its_phones_took_it() -> None:
    """Answered, on the record or on any leg: what is Stopped are its other phones."""
    out = {"direction": "Outbound", "action": "VoIP Call", "result": "Stopped"}
    for answered in (
        record(legs=[leg("PstnToSip", result="Stopped"), leg("PstnToSip", reason="Accepted")], **out),
        record(legs=[leg("PstnToSip")], reason="Accepted", **out),
    ):
        shown = only(answered)
        assert (shown.provisional, shown.disposition) == (True, Disposition.ANSWERED)
    rung = record(legs=[leg("PstnToSip", extension=102, reason="Accepted"), leg("PstnToSip")], **out)
    assert only(rung, Target(source="acme", extension_id="102")).disposition is Disposition.ANSWERED
    others = record(legs=[leg("PstnToSip", extension=n, **r) for n, r in ((101, {}), (102, ACCEPTED))], **out)
    assert only(others).disposition is Disposition.ANSWERED_ELSEWHERE


# Which way


def test_a_queue_call_is_inbound_from_no_one_while_it_lives() -> None:
    """seed-queue-1, -2: Outbound, VoIP Call, a ring-out, own side on both; the own name stands on the other side."""
    for name, state in (("1-ringing", State.RINGING), ("2-answered", State.CONNECTED)):
        (one,) = sample(f"active-calls/seed-queue-{name}")["records"]
        shown = only(one)
        assert (shown.direction, shown.state, shown.from_party) == (Direction.INBOUND, state, None)
        assert shown.to_party == Party(
            number="+17203861294", name="Tyler Liu", extension_number="11115", location=", CO"
        )
        assert shown.queue is None


def test_a_queue_call_turns_round_at_the_end() -> None:
    """seed-queue-3: Inbound, the caller's number, and QUEUE - CALLER."""
    (one,) = sample("active-calls/seed-queue-3-ended")["records"]
    shown = only(one)
    assert (shown.direction, shown.disposition) == (Direction.INBOUND, Disposition.ANSWERED)
    assert shown.queue == Queue(name="Tyler's call queue")
    assert shown.from_party == Party(number="+16504306662", name="WIRELESS CALLER", location="San Mateo, CA")


@pytest.mark.parametrize(
    "fields",
    [
        {"from": OWN, "to": OWN_NUMBER, "legs": [leg("PstnToSip")]},
        {"from": OWN, "to": OWN_NUMBER, "legs": [leg("SipToSip")]},
        {"from": OWN, "to": OWN_NUMBER},
        {"from": {"phoneNumber": "+15550100351"}, "to": {"extensionNumber": "303"}, "legs": [leg("PstnToSip")] * 2},
        {"to": OWN_NUMBER, "legs": [leg("PstnToSip")]},
        {"from": OWN, "to": {"phoneNumber": "+15550100360"}, "legs": [leg("PstnToSip")]},
    ],
)
def test_a_ring_out_is_an_offer(fields: dict[str, Any]) -> None:
    """Own side on both, or a PstnToSip leg with the caller or nothing on the other."""
    shown = only(live(direction="Outbound", **{**fields, "action": "voip call"}))
    assert (shown.direction, shown.state) == (Direction.INBOUND, State.RINGING)
    caller = fields.get("from", {}).get("phoneNumber")
    assert (shown.from_party.number if shown.from_party else None) == caller


@pytest.mark.parametrize(
    ("from_", "to", "caller"),
    [
        ({"phoneNumber": "+15550100351"}, None, Party(number="+15550100351")),
        ({"phoneNumber": "+1", "extensionNumber": "9"}, None, Party(number="+1", extension_number="9")),
        (None, None, None),
        ({"name": "Agent"}, OWN_NUMBER, None),
        (OWN | {"phoneNumber": "+15550100900"}, OWN_NUMBER, None),
        (OWN | {"name": ""}, OWN_NUMBER, None),
    ],
)
def test_the_caller_of_an_offer(from_: Any, to: Any, caller: Party | None) -> None:
    """Any party that has a number and is not the extension itself; a side may be missing."""
    shown = only(live(direction="Outbound", action="VoIP Call", legs=[leg("PstnToSip")], **{"from": from_, "to": to}))
    assert (shown.direction, shown.from_party) == (Direction.INBOUND, caller)


def test_the_caller_of_an_offer_to_a_part_is_another_extension() -> None:
    """Both sides have an extension number, and not the same one."""
    sides = {"from": {"phoneNumber": "+1", "extensionNumber": "1"}, "to": {"phoneNumber": "+2", "extensionNumber": "2"}}
    came_in = leg("Accept", 300, **{**sides, "direction": "Inbound"})
    shown = rung(came_in, leg("Accept", 301), direction="Outbound", result="In Progress", duration=None)["300"]
    assert shown.from_party == Party(number="+1", extension_number="1")


def test_the_called_side_of_an_offer_keeps_its_own_name() -> None:
    """The other side's is taken only where there is none, and only if it is the same side."""
    number = OWN_NUMBER["phoneNumber"]
    for from_, to, expected in (
        (OWN, OWN_NUMBER | {"name": "OutboxAdmin"}, Party(number=number, name="OutboxAdmin", extension_number="11115")),
        (OWN | {"name": ""}, OWN_NUMBER, Party(number=number, extension_number="11115")),
        ({"name": "JANE", "phoneNumber": "+1"}, OWN_NUMBER, Party(number=number, extension_number="11115")),
        ({"name": "JANE", "phoneNumber": "+1"}, {"phoneNumber": number}, Party(number=number)),
    ):
        offer = live(direction="Outbound", action="VoIP Call", legs=[leg("PstnToSip")], **{"from": from_, "to": to})
        assert only(offer).to_party == expected


def test_a_leg_that_says_nothing_is_no_ring_out() -> None:
    """No type: not a phone that is rung. No direction: one, as long as it is not Inbound."""
    sides = {"from": OWN, "to": OWN_NUMBER}
    out = {"direction": "Outbound", "action": "VoIP Call", **sides}
    assert only(live(legs=[{}], **out)).direction is Direction.OUTBOUND
    assert only(live(legs=[{"legType": "PstnToSip"}], **out)).direction is Direction.INBOUND


@pytest.mark.parametrize(
    "fields",
    [
        {"from": OWN, "to": {"extensionNumber": "302"}, "legs": [leg("SipToSip")]},  # derived-ext-to-ext
        {"from": OWN, "to": {"extensionNumber": "302"}, "legs": [leg("PstnToSip")]},
        {"from": OWN, "to": {"phoneNumber": "+15550100360"}, "legs": [leg("SipToPstnUnmetered")]},
        {"from": OWN, "to": {"phoneNumber": "+15550100360"}, "legs": [leg("PstnToSip"), leg("SipToPstnMetered")]},
        {"from": OWN, "to": {"phoneNumber": "+15550100360"}, "legs": [leg("SipToSip")]},
        {"from": OWN, "to": {"phoneNumber": "+15550100360"}, "legs": [leg("PstnToSip"), leg("SipToSip")]},
        {"from": OWN, "to": {"phoneNumber": "+15550100360"}},
        {"from": OWN, "to": OWN_NUMBER, "legs": [leg("PstnToSip")], "action": "RingOut Web"},
        {"from": OWN, "to": OWN_NUMBER, "legs": [leg("PstnToSip", direction="Inbound")]},
    ],
)
def test_what_the_extension_places_stays_outbound(fields: dict[str, Any]) -> None:
    """Extension to extension, to the outside, a RingOut."""
    shown = only(live(**{"direction": "Outbound", "action": "VoIP Call", **fields}))
    assert (shown.direction, shown.state) == (Direction.OUTBOUND, State.DIALING)
    assert shown.from_party is not None


@pytest.mark.parametrize(
    ("direction", "expected"), [("Inbound", Disposition.ABANDONED), ("Outbound", Disposition.CANCELLED)]
)
def test_a_hang_up_depends_on_the_direction(direction: str, expected: Disposition) -> None:
    """Abandoned by the caller, cancelled by who placed the call."""
    assert only(record(result="Hang up", direction=direction)).disposition is expected


# Queues


@pytest.mark.parametrize(("given", "known"), [("62264425016", "62264425016"), (101, "101"), (None, None), ("", None)])
def test_a_side_that_is_an_extension_says_which(given: object, known: str | None) -> None:
    """Its id is text or a number; alone it is of no use to consumers, so it is not a party."""
    shown = only(record(to={"phoneNumber": "+1", "extensionId": given}, **{"from": {"extensionId": given}}))
    assert shown.to_party == Party(number="+1", extension_id=known)
    assert shown.from_party is None


@pytest.mark.parametrize(
    ("name", "queue", "caller"),
    [
        ("Sales - JANE", "Sales", "JANE"),
        ("A - B - JANE", "A - B", "JANE"),
        ("Sales - ", "Sales", None),
        (" - JANE", None, "JANE"),
    ],
)
def test_the_queues_name_is_split_off_at_the_last_mark(name: str, queue: str | None, caller: str | None) -> None:
    """A queue may have the mark in its own name."""
    legs = [leg("Accept", direction="Inbound"), leg("PstnToSip", startTime="2026-03-02T09:00:00Z")]
    side = {"name": name, "phoneNumber": "+1", "extensionNumber": "7", "location": "Bonn"}
    shown = only(record(result="Accepted", legs=legs, **{"from": side}))
    assert (shown.queue and shown.queue.name) == queue
    assert shown.from_party == Party(number="+1", name=caller, extension_number="7", location="Bonn")


def test_a_callers_name_is_not_taken_for_a_queue() -> None:
    """Only a call whose phone rang from its start came through a queue, or one that says so."""
    start = {"startTime": "2026-03-02T09:00:00Z"}
    later = [leg("Accept", direction="Inbound", **start), leg("PstnToSip", startTime="2026-03-02T09:00:04Z")]
    named = {"from": {"name": "ACME - Berlin"}, "legs": later}
    assert only(record(result="Accepted", **named)).queue is None
    assert only(record(result="Accepted", **named | {"legs": []})).queue is None
    shown = only(record(result="Accepted", delegationType="QueueForwarding", **named))
    assert shown.queue == Queue(name="ACME", confirmed=True)
    assert (
        only(record(result="Accepted", direction="Outbound", delegationType="QueueForwarding", **named)).queue is None
    )
    at_once = [leg("PstnToSip", startTime="2026-03-02T09:00:00Z")]
    rung = record(result="Accepted", action="VoIP Call", legs=at_once, **{"from": {"name": "Sales - JANE"}})
    assert only(rung).queue == Queue(name="Sales"), "an inbound record is no offer, whatever it looks like"
    plain = only(record(result="Accepted", legs=at_once, **{"from": {"name": "JANE"}}))
    assert (plain.queue, plain.from_party) == (None, Party(name="JANE"))


# Whose


def test_sessions() -> None:
    """telephonySessionId, else sessionId unless "0" (embeddable-319), else the record's own id."""
    assert only(record(telephonySessionId="s-1")).session_id == "s-1"
    assert only(record(telephonySessionId="")).session_id == "5"
    assert only(record()).session_id == "5"
    assert only(record(sessionId="0")).session_id == "L1"
    assert only(record(sessionId="0", telephonySessionId="s-1")).session_id == "s-1"


def test_every_record_of_an_extensions_list_is_its_own() -> None:
    """Whatever extension a leg or the record names."""
    assert only(record(extension={"id": 7}, legs=[leg("Accept", 8)])).extension_id == "101"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"extension": {"id": 7}}, "7"),
        ({"extension": {"id": "7"}}, "7"),
        ({"uri": "https://x/account/1/extension/131192004/call-log/A"}, "131192004"),
        ({"legs": [leg("Accept"), leg("PstnToSip", 8)]}, "8"),
        ({"legs": [leg("Accept", 8), leg("PstnToSip", 8)]}, "8"),
        ({"legs": [leg("Accept") | {"extension": {}}, leg("PstnToSip", 8)]}, "8"),
        ({"legs": [leg("Accept")]}, "unassigned"),
        ({"legs": [leg("Accept") | {"extension": {"id": ""}}, leg("PstnToSip")]}, "unassigned"),
        ({"extension": {}}, "unassigned"),
        ({}, "unassigned"),
        ({"to": {"extensionId": "8"}, "from": {"extensionId": "9"}}, "8"),
        ({"to": {"extensionId": 8}, "legs": [leg("Accept")]}, "8"),
        ({"to": {"extensionId": "8"}, "extension": {"id": 7}}, "7"),
        ({"from": {"extensionId": "9"}}, "unassigned"),
        ({"to": {"extensionId": "8"}, "from": {"extensionId": "9"}, "direction": "Outbound"}, "9"),
        ({"to": {"extensionId": "8"}, "direction": "Outbound"}, "unassigned"),
        (
            {
                "to": OWN_NUMBER | {"extensionId": "8"},
                "from": OWN,
                "direction": "Outbound",
                "action": "VoIP Call",
                "legs": [leg("PstnToSip")],
            },
            "8",
        ),
    ],
)
def test_the_extension_of_a_record_of_the_account(fields: dict[str, Any], expected: str) -> None:
    """The record's, else that of its legs, else that of our own side, else none."""
    shown = only(record(**fields), ACCOUNT)
    assert (shown.extension_id, shown.rings_alone) == (expected, True)


@pytest.mark.parametrize("target", [ACCOUNT, EXTENSION])
@pytest.mark.parametrize("first", [leg("Accept"), leg("Accept", 101, startTime="2026-03-02T09:00:02Z")])
def test_a_record_that_rings_one_extension_is_wholly_its_own(target: Target, first: dict[str, Any]) -> None:
    """It began when the record says, not when its own leg did."""
    legs = [first, leg("PstnToSip", 101, startTime="2026-03-02T09:00:04Z")]
    stated = {"extension": {"id": 101}} if first == leg("Accept") else {}
    assert only(live(legs=legs, **stated), target).started_at == at(0)


def test_fax_paging_and_their_like_make_no_call() -> None:
    """Only voice records, and only those in which people may talk."""
    assert seen(record(type="Fax")) == ()
    for action in ("Paging", "incoming fax", "Outgoing Fax", "E911 Update", "Phone Login"):
        assert seen(record(action=action)) == ()
    assert len(seen(record(action="Conference Call", type="voice"))) == 1


def test_masked_numbers_and_empty_parties() -> None:
    """A party of nothing is none, also one of which there is nothing but a masked number."""
    names = ("phoneNumber", "name", "extensionNumber", "location")
    shown = only(live(**{"from": {"phoneNumber": "+3351234XXXX"}, "to": dict.fromkeys(names, "")}))
    assert shown.from_party is None
    assert shown.to_party is None


@pytest.mark.parametrize(
    ("text", "is_number"),
    [
        ("+15550100351", True),
        ("(866)123-4567", True),
        ("1855COMPANY", True),
        ("1-800-TAXIS", True),
        ("101", True),
        ("*67", True),
        ("**10", True),
        ("+3351234XXXX", False),
        ("+1 (555) 01x-xxxx", False),
        ("XXXXXXXXXX", False),
        ("+1555010****", False),
        ("***0351", False),
        ("+1*******51", False),
        ("anonymous", False),
        ("Anonymous", False),
        ("Restricted", False),
        ("unavailable", False),
        (" PRIVATE ", False),
        ("Anonymous Caller", False),
        ("Unknown Number", False),
        ("anonymous@anonymous.invalid", False),
        ("conference", False),
        ("+", False),
        ("5", True),
    ],
)
def test_a_number_that_is_withheld_or_masked_is_none(text: str, is_number: bool) -> None:
    """On either side, of a call, of an offer and of a leg; a name that is given stays."""
    number = text if is_number else None
    side = {"phoneNumber": text, "name": "CALLER NAME"}
    shown = only(live(**{"from": side, "to": side}))
    assert (shown.from_party, shown.to_party) == (Party(number=number, name="CALLER NAME"),) * 2
    offer = live(direction="Outbound", action="VoIP Call", legs=[leg("PstnToSip")], **{"from": side, "to": OWN_NUMBER})
    assert only(offer).from_party == Party(number=number, name="CALLER NAME")
    own = leg("SipToPstnUnmetered", 300, **{"from": side, "to": side})
    out = {"direction": "Outbound", "result": "In Progress", "duration": None}
    assert rung(own, leg("SipToPstnUnmetered", 301), **out)["300"].to_party == Party(number=number, name="CALLER NAME")


def test_a_record_on_two_pages_counts_once() -> None:
    """A call that arrived between two requests shifts the rows; the later page is newer."""
    first = decode_page(json.dumps({"records": [record(id="A"), live(id="B")]}).encode())
    second = decode_page(json.dumps({"records": [record(id="B", result="Missed"), record(id="C")]}).encode())
    shown = snapshot(EXTENSION, [first, second], at(3))
    assert [s.record_id for s in shown.observations] == ["A", "B", "C"]
    assert shown.observations[1].state is State.ENDED
    assert (shown.target, shown.taken_at) == (EXTENSION, at(3))


def test_legs_are_told_apart_by_type_and_start() -> None:
    """A leg without a start began with the call."""
    shown = only(live(legs=[leg("Accept"), leg("PstnToSip", startTime="2026-03-02T09:00:04.250Z"), leg("PstnToSip")]))
    assert shown.legs == (
        Leg(kind="Accept", started_at=at(0), accepted=False),
        Leg(kind="PstnToSip", started_at=at(4.25), accepted=False),
        Leg(kind="PstnToSip", started_at=at(0), accepted=False),
    )


@pytest.mark.parametrize("target", [EXTENSION, ACCOUNT])
def test_an_own_leg_is_one_that_names_the_extensions_phone(target: Target) -> None:
    """The leg to the line is accepted whichever part takes the call, and one without an owner may be another's."""
    legs = [leg("Accept", 101), leg("PstnToSip", 101), leg("PstnToSip"), leg("Accept", 101, master=False)]
    shown = only(live(extension={"id": 101}, legs=legs), target)
    assert [one.own for one in shown.legs] == [False, True, False, True]


def test_the_platforms_words_are_kept() -> None:
    """For requests to its support."""
    provider = only(record(result="Missed", reason="No Answer")).provider
    words = (provider.name, provider.record_id, provider.session_id, provider.action, provider.result, provider.reason)
    assert words == ("ringcentral", "L1", "5", "Phone Call", "Missed", "No Answer")


# Parts of a record that rings several


def rung(*legs: dict[str, Any], **fields: Any) -> dict[str, CallObservation]:
    shown = seen(record(legs=[leg("Accept", direction="Inbound"), *legs], **fields), ACCOUNT)
    assert not any(s.rings_alone for s in shown)
    return {s.extension_id: s for s in shown}


LATER = {"startTime": "2026-03-02T09:00:06Z", "duration": 8}


@pytest.mark.parametrize(
    ("result", "first", "second"),
    [
        ("Missed", Disposition.MISSED, Disposition.MISSED),
        ("Voicemail", Disposition.VOICEMAIL, Disposition.VOICEMAIL),
        ("Hang Up", Disposition.ABANDONED, Disposition.ABANDONED),
        ("Accepted", Disposition.ANSWERED_ELSEWHERE, Disposition.ANSWERED_ELSEWHERE),
    ],
)
def test_a_stopped_leg_takes_the_records_word(result: str, first: Disposition, second: Disposition) -> None:
    """derived-queue-missed, -voicemail, -caller-hangup-ringing, -snapshot-accepted-short."""
    shown = rung(
        leg("PstnToSip", 300, result="Stopped", **LATER),
        leg("PstnToSip", 301, result="Stopped", **LATER),
        result=result,
    )
    assert (shown["300"].disposition, shown["301"].disposition) == (first, second)
    assert {s.direction for s in shown.values()} == {Direction.INBOUND}
    assert (shown["300"].started_at, shown["300"].ended_at) == (at(6), at(14))


def test_a_legs_own_word_counts() -> None:
    """A phone that was offline did not miss the call; who answered, answered."""
    shown = rung(
        leg("PstnToSip", 300, result="IP Phone Offline"),
        leg("PstnToSip", 301, result="Accepted", reason="Accepted", **LATER),
        leg("PstnToSip", 302, result="Stopped"),
        leg("PstnToSip", 303),
        leg("PstnToSip", 304, result="In Progress"),
        result="Accepted",
        duration=30,
    )
    assert {id_: s.disposition for id_, s in shown.items()} == {
        "300": Disposition.FAILED,
        "301": Disposition.ANSWERED,
        "302": Disposition.ANSWERED_ELSEWHERE,
        "303": Disposition.ANSWERED_ELSEWHERE,
        "304": Disposition.ANSWERED_ELSEWHERE,
    }
    assert shown["301"].ended_at == at(14)
    assert shown["303"].ended_at == at(30)


def test_a_leg_that_is_over_and_has_no_duration_ended_no_later_than_the_record() -> None:
    """The record goes on with who took the call: its end is not that of the phone that stopped ringing."""
    shown = rung(
        leg("PstnToSip", 300, result="Accepted", reason="Accepted"),
        leg("PstnToSip", 301, result="Stopped"),
        leg("PstnToSip", 302, result="Stopped", duration=5),
        leg("PstnToSip", 303),
        result="Accepted",
        duration=55,
    )
    assert {id_: (s.ended_at, s.ended_exact) for id_, s in shown.items()} == {
        "300": (at(55), True),
        "301": (at(55), False),
        "302": (at(5), True),
        "303": (at(55), True),
    }


def test_a_leg_of_a_part_may_say_little() -> None:
    """No type, no start: it began with the call."""
    bare = {"extension": {"id": 300}, "duration": 4}
    shown = rung(bare, leg("PstnToSip", 301, **LATER), result="Missed", duration=20)
    assert (shown["300"].direction, shown["300"].started_at, shown["300"].ended_at) == (
        Direction.INBOUND,
        at(0),
        at(4),
    )


def test_a_leg_of_an_outbound_part_may_say_as_little() -> None:
    """No action, no type, no direction: nothing that rings."""
    bare = {"extension": {"id": 300}}
    shown = rung(bare, leg("PstnToSip", 301), direction="Outbound", result="In Progress", duration=None)
    assert (shown["300"].direction, shown["300"].state) == (Direction.OUTBOUND, State.DIALING)


@pytest.mark.parametrize(
    ("record_direction", "own", "expected"),
    [
        ("Outbound", [leg("Accept", direction="Inbound"), leg("SipToPstnMetered")], Direction.INBOUND),
        ("Outbound", [leg("PstnToSip"), leg("SipToPstnMetered")], Direction.INBOUND),
        ("Outbound", [leg("SipToPstnMetered"), leg("Monitoring")], Direction.OUTBOUND),
        ("Inbound", [leg("Monitoring"), leg("PstnToSip")], Direction.INBOUND),
        ("Inbound", [leg("Monitoring"), leg("Monitoring", direction="Inbound")], Direction.INBOUND),
    ],
)
def test_the_direction_of_a_part_of_several_legs(
    record_direction: str, own: list[dict[str, Any]], expected: Direction
) -> None:
    """One that came in, or rings the phone, is enough; who only listens has no other leg."""
    legs = [one | {"extension": {"id": 300}} for one in own]
    shown = rung(*legs, leg("Accept", 301), direction=record_direction, result="In Progress", duration=None)
    assert shown["300"].direction is expected


def test_the_times_of_a_part_of_several_legs() -> None:
    """From the first of its legs to the end of the last; who is on the line stands on the first."""
    legs = [
        leg("SipToPstnMetered", 300, startTime=f"2026-03-02T09:00:{start}Z", duration=took, to={"name": name})
        for start, took, name in (("04", 9, "First"), ("02", 3, "Second"))
    ]
    shown = rung(*legs, leg("SipToPstnMetered", 301), direction="Outbound", result="Call connected", duration=20)["300"]
    assert (shown.started_at, shown.ended_at, shown.to_party) == (at(2), at(13), Party(name="First"))


def test_a_part_of_several_legs_lives_and_talks_while_any_of_them_does() -> None:
    """The first rang out, the second goes on."""
    base = {"result": "In Progress", "duration": None}
    over, on = leg("PstnToSip", 300, result="Busy", **LATER), leg("PstnToSip", 300)
    assert rung(on, over, leg("PstnToSip", 301), **base)["300"].state is State.RINGING
    talks = leg("PstnToSip", 300, reason="Accepted")
    assert rung(on, talks, leg("PstnToSip", 301), **base)["300"].state is State.CONNECTED
    connected = leg("PstnToSip", 300, result="Call connected", duration=0)
    shown = rung(connected, leg("PstnToSip", 301), **base)["300"]
    assert (shown.state, shown.ended_at) == (State.CONNECTED, None)


def test_the_last_leg_of_a_part_has_its_word() -> None:
    """What became of it in the end."""
    offline, busy = leg("PstnToSip", 300, result="IP Phone Offline"), leg("PstnToSip", 300, result="Busy")
    assert rung(offline, busy, leg("PstnToSip", 301), result="Missed")["300"].disposition is Disposition.BUSY


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        (leg("PstnToSip", 300, reason="Accepted"), Disposition.ANSWERED),
        (leg("PstnToSip", 300, result="Stopped", reason="Accepted"), Disposition.ANSWERED),
        (leg("PstnToSip", 300, result="Hang Up"), Disposition.ABANDONED),
        (leg("SipToPstnMetered", 300, result="Hang Up"), Disposition.ABANDONED),
        (leg("Monitoring", 300, result="Hang Up"), Disposition.CANCELLED),
    ],
)
def test_the_disposition_of_a_part(own: dict[str, Any], expected: Disposition) -> None:
    """A reason answers without a result; a hang-up reads by the part's own direction."""
    assert rung(own, leg("PstnToSip", 301), result="Accepted")["300"].disposition is expected


def test_the_parties_of_a_part() -> None:
    """The record's, unless it is an offer that only the leg describes; the leg's where the record has none."""
    sides = {"from": {"phoneNumber": "+15550100900"}, "to": {"phoneNumber": "+15550100360"}}
    own = leg("SipToPstnUnmetered", 300, **{"from": {"name": "Leg"}, "to": {"name": "Leg"}})
    out = {"direction": "Outbound", "result": "In Progress", "duration": None}
    shown = rung(own, leg("SipToPstnUnmetered", 301), **out, **sides)["300"]
    assert (shown.from_party, shown.to_party) == (Party(number="+15550100900"), Party(number="+15550100360"))
    shown = rung(own, leg("SipToPstnUnmetered", 301), **out)["300"]
    assert (shown.from_party, shown.to_party) == (Party(name="Leg"), Party(name="Leg"))


def test_a_provisional_part_reads_as_its_leg() -> None:
    """The record's word is another phone's."""
    legs = [
        leg("PstnToSip", 300, result="Stopped"),
        leg("PstnToSip", 301, result="IP Phone Offline"),
        leg("PstnToSip", 302),
    ]
    shown = seen(record(direction="Outbound", action="VoIP Call", result="IP Phone Offline", legs=legs), ACCOUNT)
    assert [s.disposition for s in shown] == [
        Disposition.ANSWERED_ELSEWHERE,
        Disposition.FAILED,
        Disposition.FAILED,
    ]
    assert all(s.provisional for s in shown)


def test_parts_of_a_live_record() -> None:
    """Each is as its own legs are; one that stopped ringing while the call is unanswered may ring again."""
    base = {"result": "In Progress", "duration": None}
    shown = rung(
        leg("PstnToSip", 300, result="Stopped", **LATER),
        leg("PstnToSip", 301, result="In Progress"),
        leg("PstnToSip", 302, result="Busy"),
        **base,
    )
    assert {id_: s.state for id_, s in shown.items()} == {
        "300": State.RINGING,
        "301": State.RINGING,
        "302": State.ENDED,
    }
    assert shown["302"].disposition is Disposition.BUSY
    shown = rung(
        leg("PstnToSip", 300, result="Stopped", **LATER),
        leg("PstnToSip", 301, reason="Accepted"),
        leg("PstnToSip", 302),
        **base,
    )
    assert {id_: s.state for id_, s in shown.items()} == {
        "300": State.ENDED,
        "301": State.CONNECTED,
        "302": State.RINGING,
    }
    assert (shown["300"].disposition, shown["300"].ended_at) == (Disposition.ANSWERED_ELSEWHERE, at(14))


def test_an_answered_leg_that_is_over_is_an_end_although_the_session_goes_on() -> None:
    """A transfer: one extension's part ends, another's begins."""
    talked = leg("PstnToSip", 300, result="Accepted", reason="Accepted", **LATER)
    shown = rung(talked, leg("TransferCall", 301, result="In Progress"), result="In Progress", duration=None)
    assert (shown["300"].state, shown["300"].disposition) == (State.ENDED, Disposition.ANSWERED)
    assert shown["301"].state is State.RINGING


def test_an_answer_that_only_the_record_tells_is_that_of_the_records_extension() -> None:
    """No leg says who, and of the phones that ring at most one was taken."""
    legs = leg("PstnToSip", 300), leg("PstnToSip", 301)
    for words in ({"result": "In Progress", "reason": "Accepted"}, {"result": "Accepted"}):
        shown = rung(*legs, duration=None, **words)
        assert {s.state for s in shown.values()} == {State.RINGING}
        shown = rung(*legs, duration=None, extension={"id": 300}, **words)
        assert {id_: s.state for id_, s in shown.items()} == {"300": State.CONNECTED, "301": State.RINGING}


def test_one_extensions_list_shows_its_own_part_of_a_record_that_rings_all() -> None:
    """Another agent's answer is not this extension's."""
    legs = [leg("PstnToSip", 101, result="Stopped"), leg("PstnToSip", 102, reason="Accepted")]
    shown = only(live(legs=legs))
    assert (shown.extension_id, shown.state, shown.disposition) == ("101", State.ENDED, Disposition.ANSWERED_ELSEWHERE)
    assert not shown.rings_alone
    other = only(live(legs=legs), Target(source="acme", extension_id="103"))
    assert (other.state, other.legs) == (State.RINGING, ()), "in a list that it does not belong to it answers nothing"
    over = only(record(result="Accepted", legs=legs), Target(source="acme", extension_id="103"))
    assert (over.disposition, over.taken_by_another) == (Disposition.ANSWERED_ELSEWHERE, True)


AWAY = {"action": "Transfer", "to": {"phoneNumber": "+15550109002", "extensionNumber": "102"}}
UNANSWERED_WORDS = [
    word
    for kind, words in RESULTS.items()
    if kind not in (Disposition.ANSWERED, Disposition.FAX)
    for word in words
    if word != "In Progress"
]


@pytest.mark.parametrize("word", UNANSWERED_WORDS)
def test_an_accepted_leg_outranks_the_word_of_the_record(word: str) -> None:
    """Its own: answered. Only another's: answered elsewhere (cases/R1-1, R2-1)."""
    line = leg("Accept", 101, direction="Inbound", result=word)
    phone = leg("PstnToSip", 101, result="Accepted", **ACCEPTED)
    for away in (leg("TransferCall", 101, **AWAY, **ACCEPTED), leg("TransferCall", **AWAY, result="Call connected")):
        for target in (EXTENSION, ACCOUNT):
            stated = {"extension": {"id": 101}}
            mine = only(record(result=word, legs=[line, phone, away], **stated), target)
            assert (mine.disposition, mine.taken_by_another) == (Disposition.ANSWERED, False)
            elses = only(record(result=word, legs=[line, away], **stated), target)
            assert (elses.disposition, elses.taken_by_another) == (Disposition.ANSWERED_ELSEWHERE, True)


@pytest.mark.parametrize(
    ("to", "state"),
    [
        ({"extensionId": "102"}, State.RINGING),
        ({"extensionId": 102}, State.RINGING),
        ({"extensionId": "101", "extensionNumber": "9"}, State.CONNECTED),
        ({"extensionNumber": "102"}, State.RINGING),
        ({"extensionNumber": "7"}, State.CONNECTED),
        ({"phoneNumber": "+15550109002"}, State.CONNECTED),
        (None, State.CONNECTED),
    ],
)
def test_a_transfer_to_another_extension_is_no_leg_of_this_one(to: Any, state: State) -> None:
    """One to it is, as known by its id or number, and one to nowhere in particular."""
    legs = [leg("Accept", 101), leg("TransferCall", 101, to=to, **ACCEPTED)]
    shown = only(live(legs=legs, to={"extensionNumber": "7"}))
    assert shown.state is state
    assert not any(one.accepted for one in shown.legs), "a transfer's start is not the answer's"


@pytest.mark.parametrize("listener", ["Monitoring", "SilentMonitoring"])
def test_who_listens_takes_no_call(listener: str) -> None:
    """A supervisor's leg is accepted while the call rings on."""
    legs = [leg("Accept", 101, direction="Inbound"), leg(listener, 102, **ACCEPTED)]
    shown = only(record(result="Missed", legs=legs))
    assert (shown.disposition, shown.taken_by_another) == (Disposition.MISSED, False)


def test_the_line_is_not_answered_where_another_extensions_phone_was_taken() -> None:
    """The leg to what was called is accepted whichever part takes the call (cases/X1-1)."""
    line = leg("Accept", 900, direction="Inbound", result="Accepted", master=True, **ACCEPTED)
    taken, rang = leg("PstnToSip", 102, result="Accepted", **ACCEPTED), leg("PstnToSip", 103, result="Stopped")
    base = {"extension": {"id": 900}, "result": "Accepted", "reason": "Accepted"}
    shown = {s.extension_id: s.disposition for s in seen(record(legs=[line, taken, rang], **base), ACCOUNT)}
    assert shown == {
        "900": Disposition.ANSWERED_ELSEWHERE,
        "102": Disposition.ANSWERED,
        "103": Disposition.ANSWERED_ELSEWHERE,
    }
    shown = {s.extension_id: s.disposition for s in seen(record(legs=[line, rang], **base), ACCOUNT)}
    assert shown == {"900": Disposition.ANSWERED, "103": Disposition.ANSWERED_ELSEWHERE}, "it took the call itself"


RINGOUT = {"direction": "Outbound", "action": "RingOut Web"}


@pytest.mark.parametrize("action", ["RingOut Web", "RingOut PC", "RingOut Mobile"])
@pytest.mark.parametrize("own_phone", ["RingOutWebToCaller", "RingOutOneLegToCaller", "ringoutdevicetocaller"])
def test_a_ringout_is_answered_by_the_other_side(action: str, own_phone: str) -> None:
    """The own phone comes first, and is no answer; nor is what the record says of it (cases/B1-1)."""
    own = leg(own_phone, **ACCEPTED)
    for words in ({"result": "In Progress", "reason": "Accepted"}, {"result": "Call connected", "duration": 0}):
        base = {**live(direction="Outbound", action=action), **words}
        assert only(base).state is State.DIALING
        assert only(base | {"legs": [own]}).state is State.DIALING
        other = leg("RingOutWebToSubscriber", startTime="2026-03-02T09:00:04Z")
        assert only(base | {"legs": [own, other]}).state is State.DIALING
        assert only(base | {"legs": [own, other | ACCEPTED]}).state is State.CONNECTED
        assert only(base | {"legs": [own, other | {"result": "Call connected"}]}).state is State.CONNECTED


def test_the_end_of_a_ringout() -> None:
    """The record's word counts once it has a duration."""
    own = leg("RingOutWebToCaller", result="Call connected", duration=30, **ACCEPTED)
    for word, expected in (("No Answer", Disposition.NO_ANSWER), ("Call connected", Disposition.ANSWERED)):
        assert only(record(result=word, duration=30, legs=[own], **RINGOUT)).disposition is expected
    hung_up = only(record(result="Call connected", duration=0, finished=True, legs=[own], **RINGOUT))
    assert (hung_up.state, hung_up.disposition) == (State.ENDED, Disposition.UNKNOWN)


@pytest.mark.parametrize(
    ("word", "expected"),
    [("No Answer", Disposition.NO_ANSWER), ("Busy", Disposition.BUSY), ("Hang Up", Disposition.CANCELLED)],
)
def test_the_leg_to_the_other_side_decides_how_a_ringout_ends(word: str, expected: Disposition) -> None:
    """The record reads Call connected with a duration as soon as the own phone was picked up."""
    own = leg("RingOutWebToCaller", result="Call connected", duration=30, **ACCEPTED)
    other = leg("RingOutWebToSubscriber", result=word, duration=26)
    for target in (EXTENSION, ACCOUNT):
        shown = only(record(result="Call connected", duration=30, legs=[own, other], **RINGOUT), target)
        assert (shown.state, shown.disposition) == (State.ENDED, expected)
    again = leg("RingOutWebToSubscriber", result="Call connected")
    shown = only(record(result="Call connected", duration=30, legs=[own, other, again], **RINGOUT))
    assert shown.disposition is Disposition.ANSWERED, "the second attempt was taken"


@pytest.mark.parametrize("action", ["VoIP Call", "Phone Call", "Unknown"])
def test_a_leg_to_the_own_phone_makes_a_ringout_whatever_the_action(action: str) -> None:
    """Its acceptance is no answer, and the record's word is none while it has no duration."""
    own = leg("RingOutWebToCaller", 101, **ACCEPTED)
    base = live(direction="Outbound", action=action, legs=[own])
    for words in ({}, ACCEPTED, {"result": "Call connected", "duration": 0}):
        shown = only(base | words)
        assert (shown.state, [one.accepted for one in shown.legs]) == (State.DIALING, [False])
    other = leg("RingOutWebToSubscriber", 101, **ACCEPTED)
    assert only(base | {"legs": [own, other]}).state is State.CONNECTED


def test_a_fan_out_rings_several_though_no_leg_says_whose() -> None:
    """Some legs carry only the number that was rung."""
    out = {"direction": "Outbound", "action": "VoIP Call", "result": "Stopped", "extension": {"id": 101}}
    rung_ = [leg("PstnToSip", to={"extensionNumber": number}) for number in ("2", "13")]
    assert not only(record(legs=rung_, **out)).rings_alone
    assert only(record(legs=rung_[:1] * 2, **out)).rings_alone


def test_the_record_and_its_legs_are_different_extensions() -> None:
    """A queue's record, or a shared line's: one part each."""
    shown = {s.extension_id: s for s in seen(live(extension={"id": 7}, legs=[leg("PstnToSip", 8)]), ACCOUNT)}
    assert {id_: (s.state, s.rings_alone) for id_, s in shown.items()} == {
        "7": (State.RINGING, True),
        "8": (State.RINGING, True),
    }


def test_a_leg_that_hands_the_call_on_is_all_that_names_the_extension() -> None:
    """The part is the record's whole; what the other one did is the other one's."""
    away = leg("TransferCall", 101, to={"extensionId": "102"}, **ACCEPTED)
    shown = only(record(result="Missed", legs=[leg("Accept"), away]), ACCOUNT)
    assert (shown.extension_id, shown.disposition, shown.legs) == ("101", Disposition.ANSWERED_ELSEWHERE, ())


def test_another_extensions_leg_in_a_record_that_names_none_is_anothers() -> None:
    """In the extension's own list."""
    legs = [leg("Accept", direction="Inbound"), leg("PstnToSip", 102, **ACCEPTED)]
    assert only(live(legs=legs)).state is State.RINGING
    shown = only(record(result="Missed", legs=legs))
    assert (shown.disposition, shown.taken_by_another) == (Disposition.ANSWERED_ELSEWHERE, True)


LEGS = st.builds(
    leg,
    st.sampled_from(["Accept", "PstnToSip", "SipToSip", "TransferCall", "Monitoring", "RingOutWebToCaller", "FindMe"]),
    st.sampled_from([None, 101, 102, 103]),
    direction=st.sampled_from(["Inbound", "Outbound"]),
    result=st.sampled_from([None, "In Progress", "Accepted", "Call connected", "Missed", "Stopped", "Busy"]),
    reason=st.sampled_from([None, "Accepted", "Connected"]),
    master=st.sampled_from([None, True, False]),
    to=st.sampled_from([None, {"extensionId": "101"}, {"extensionNumber": "7"}, {"phoneNumber": "+15550100360"}]),
)
RECORDS = st.fixed_dictionaries(
    {
        "legs": st.lists(LEGS, max_size=4),
        "extension": st.sampled_from([None, {"id": 101}, {"id": 900}]),
        "direction": st.sampled_from(["Inbound", "Outbound"]),
        "action": st.sampled_from(["Phone Call", "VoIP Call", "RingOut Web"]),
        "result": st.sampled_from([None, "In Progress", "Accepted", "Call connected", "Missed", "Stopped", "Hang Up"]),
        "reason": st.sampled_from([None, "Accepted", "Connected"]),
        "duration": st.sampled_from([None, 0, 9]),
        "finished": st.sampled_from([None, True]),
    }
)


@given(RECORDS)
@settings(deadline=None)
def test_whatever_the_legs_say_a_record_reads_one_way(fields: dict[str, Any]) -> None:
    """One part for each extension that is named; what was answered by another was not answered by this one."""
    shown = seen(record(**fields), ACCOUNT)
    named = {one["extension"]["id"] for one in [fields, *fields["legs"]] if one.get("extension")}
    assert {s.extension_id for s in shown} == ({str(id_) for id_ in named} or {"unassigned"})
    for part in (*shown, only(record(**fields))):
        assert (part.ended_at is None) or part.state is State.ENDED
        assert (part.state is State.ENDED) <= (part.disposition is not None)
        if part.taken_by_another:
            assert part.state is not State.CONNECTED
            assert part.disposition is not Disposition.ANSWERED
            assert not any(one.accepted and one.kind not in ("Accept", "RingOutWebToCaller") for one in part.legs)


def test_a_provisional_ring_all_is_provisional_for_each() -> None:
    """derived-queue-midcall-snapshot-then-final: seventeen phones, the caller on the other side."""
    both = sample("call-log/derived-queue-midcall-snapshot-then-final")
    page = decode_page(json.dumps({"records": [both["snapshot_while_call_live"]]}).encode())
    shown = observations_of(page, ACCOUNT)
    assert len(shown) == 17
    assert all(s.provisional and not s.rings_alone and s.direction is Direction.INBOUND for s in shown)
    assert {s.disposition for s in shown} == {Disposition.ANSWERED_ELSEWHERE, Disposition.FAILED}
    assert {s.from_party for s in shown} == {Party(number="+15550100351")}
    assert shown[0].to_party == Party(extension_number="300")


@pytest.mark.parametrize(
    ("record_direction", "own", "expected"),
    [
        ("Inbound", leg("PstnToSip", 300), Direction.INBOUND),
        ("Inbound", leg("FindMe", 300), Direction.INBOUND),
        ("Inbound", leg("Monitoring", 300), Direction.OUTBOUND),
        ("Inbound", leg("SilentMonitoring", 300), Direction.OUTBOUND),
        ("Inbound", leg("Monitoring", 300, direction="Inbound"), Direction.INBOUND),
        ("Outbound", leg("SipToPstnUnmetered", 300), Direction.OUTBOUND),
        ("Outbound", leg("Accept", 300, direction="Inbound"), Direction.INBOUND),
        ("Outbound", leg("PstnToSip", 300), Direction.INBOUND),
        (
            "Outbound",
            leg("SipToSip", 300, **{"from": {"extensionNumber": "1"}, "to": {"extensionNumber": "2"}}),
            Direction.OUTBOUND,
        ),
    ],
)
def test_the_direction_of_a_part(record_direction: str, own: dict[str, Any], expected: Direction) -> None:
    """A supervisor who listens placed that leg; a phone that is rung did not."""
    shown = rung(own, leg("Accept", 301), direction=record_direction, result="In Progress", duration=None)
    assert shown["300"].direction is expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("call-log/derived-ext-to-ext", [("900000000301", "outbound", "answered", 134)]),
        ("call-log/derived-monitoring", [("900000000300", "outbound", "answered", 25)]),
        (
            "call-log/derived-queue-voicemail",
            [("900000000300", "inbound", "voicemail", 10.137), ("900000000301", "inbound", "failed", 6.236)],
        ),
        ("call-log/unifiedcrm-detailed-inbound", [("1477535004", "inbound", "answered", 7)]),
        ("call-log/csharp-missed-2015", [("unassigned", "inbound", "missed", 31)]),
        ("call-log/apidocs-api-2", [("400400400", "inbound", "answered", 54)]),
    ],
)
def test_samples_of_the_call_log(name: str, expected: list[tuple[str, str, str, float]]) -> None:
    """Recorded and documented records, as an account's."""
    one = sample(name)
    shown = observations_of(decode_page(json.dumps({"records": [one]}).encode()), ACCOUNT)
    start = datetime.fromisoformat(one["startTime"])
    got = [(s.extension_id, s.direction.value, s.disposition and s.disposition.value, s.ended_at) for s in shown]
    assert got == [(a, b, c, start + timedelta(seconds=d)) for a, b, c, d in expected]
