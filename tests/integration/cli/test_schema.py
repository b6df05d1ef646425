"""`callcast schema event` and `asyncapi`: valid, and true of everything that is sent."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from callcast.calls.ids import event_id
from callcast.calls.model import (
    EVENT_TYPES,
    REASONS,
    Blind,
    Call,
    CallEvent,
    Direction,
    Disposition,
    Evidence,
    Observation,
    Party,
    Provider,
    Queue,
    SourceEvent,
    State,
)
from callcast.calls.summary import Summary
from callcast.formats.asyncapi import asyncapi
from callcast.formats.cloudevents import NUMBERS, Wire
from callcast.formats.event_schema import event_schema
from callcast.sinks.mqtt.retained_topics import _encoded_state, _encoded_summary
from tests import TESTS
from tests.unit.calls.fuzz import Play

HERE = Path(__file__).parent
GOLDEN = json.loads((TESTS / "golden" / "seed-events.json").read_bytes())
NODE = TESTS / "node"
NINE = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)


def strict(schema: Any) -> Any:
    """The schema, closed: what it does not name is refused. So it names all that is sent."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: strict(value) for key, value in schema.items()}
    if "allOf" in schema:
        closed["unevaluatedProperties"] = False
    return closed


@cache
def validator(standard: bool = False) -> Draft202012Validator:
    schema = strict(event_schema())
    suffix = "Standard" if standard else ""
    schema["oneOf"] = [{"$ref": one["$ref"] + suffix} for one in schema["oneOf"]]
    for name, definition in schema["$defs"].items():
        if "properties" in definition and name not in ("CallData", "SourceData"):
            definition["additionalProperties"] = False
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)


def faults(event: dict[str, Any], *, standard: bool = False) -> list[str]:
    """The error is that of the type's branch: `oneOf` alone would report only that none matches."""
    (branch,) = [s for s in validator(standard).schema["oneOf"] if matches(s["$ref"], event["type"], standard)]
    one = validator(standard).evolve(schema=validator(standard).schema | {"oneOf": [branch]})
    return [f"{e.json_path}: {e.message}" for error in one.iter_errors(event) for e in (error.context or [error])]


def matches(reference: str, type_: str, standard: bool) -> bool:
    first, second = type_.split(".")
    return reference.endswith(f"/{first}{second.capitalize()}{'Standard' if standard else ''}")


def test_the_golden_events_fit() -> None:
    """What the end-to-end tests expect at each sink, field by field, with nothing left over."""
    assert [faults(event) for event in GOLDEN] == [[]] * len(GOLDEN)


def test_the_histories_of_the_fuzzer_fit() -> None:
    """Every event that random histories of calls bring, under each numbers policy and in both forms."""
    types = set()
    for seed in range(120):
        play = Play(seed, restarts=False)
        play.run()
        for event in play.disk.events:
            types.add(event.type)
            wire = Wire(NUMBERS[seed % len(NUMBERS)], b"key", "crm")
            assert faults(json.loads(wire.event(event))) == []
            assert faults(json.loads(wire.standard(event)), standard=True) == []
    assert types >= {"call.ringing", "call.dialing", "call.answered", "call.ended", "call.corrected"}


def text() -> st.SearchStrategy[str]:
    return st.text(max_size=12)


def times() -> st.SearchStrategy[datetime]:
    return st.timedeltas(timedelta(0), timedelta(days=1)).map(lambda later: NINE + later)


parties = st.builds(
    Party,
    number=st.none() | text(),
    name=st.none() | text(),
    location=st.none() | text(),
    extension_id=st.none() | st.just("101"),
)
observations = st.builds(
    Observation,
    after=st.none() | times(),
    before=times(),
    exact=st.booleans(),
    evidence=st.sampled_from(Evidence),
    first_poll=st.booleans(),
)
STATES = {"call.ringing": State.RINGING, "call.dialing": State.DIALING, "call.answered": State.CONNECTED}


@st.composite
def call_events(draw: st.DrawFn) -> CallEvent:
    type_ = draw(st.sampled_from([t for t in EVENT_TYPES if t.startswith("call.")]))
    over = type_ in ("call.ended", "call.corrected")
    live = draw(st.sampled_from([State.RINGING, State.DIALING, State.CONNECTED]))
    state = State.ENDED if over else STATES.get(type_, live)
    directions = {"call.ringing": Direction.INBOUND, "call.dialing": Direction.OUTBOUND}
    call = Call(
        source="acme",
        call_id=draw(st.text(min_size=1, max_size=20)),
        session_id=draw(text()),
        extension_id=draw(st.sampled_from(["101", "unassigned"])),
        account_id=draw(st.none() | text()),
        sequence=draw(st.integers(1, 99)),
        direction=directions.get(type_) or draw(st.sampled_from(Direction)),
        state=state,
        from_party=draw(st.none() | parties),
        to_party=draw(st.none() | parties),
        queue=draw(st.none() | st.builds(Queue, name=text(), confirmed=st.booleans())),
        started_at=NINE,
        answered_at=draw(st.none() | times()),
        answered_exact=draw(st.booleans()),
        ended_at=draw(times()) if over else None,
        disposition=draw(st.sampled_from(Disposition)) if over else None,
        provider=draw(
            st.builds(
                Provider,
                name=text(),
                record_id=text(),
                session_id=st.none() | text(),
                action=st.none() | text(),
                reason=st.none() | text(),
            )
        ),
    )
    return CallEvent(
        id=event_id(draw(text())),
        type=type_,
        time=draw(times()),
        call=call,
        previous_state=draw(st.none() | st.sampled_from(State)),
        sequence=call.sequence,
        observation=draw(observations),
        corrects=event_id("x") if type_ == "call.corrected" else None,
    )


source_events = st.builds(
    SourceEvent,
    id=text().map(event_id),
    type=st.sampled_from(["source.degraded", "source.recovered"]),
    time=times(),
    source=st.just("acme"),
    extension_id=st.none() | st.just("101"),
    reason=st.sampled_from(REASONS),
    since=times(),
).flatmap(
    lambda event: st.builds(Blind, after=st.none() | times(), before=times()).map(
        lambda blind: msgspec.structs.replace(event, blind=blind if event.type == "source.recovered" else None)
    )
)


@given(call_events() | source_events, st.sampled_from(NUMBERS))
def test_whatever_the_wire_writes_fits(event: CallEvent | SourceEvent, numbers: Any) -> None:
    """Any call in any state, any text in it, each numbers policy, both forms."""
    wire = Wire(numbers, b"key", "crm")
    assert faults(json.loads(wire.event(event))) == []
    assert faults(json.loads(wire.standard(event)), standard=True) == []


@pytest.mark.parametrize(
    ("where", "wrong"),
    [
        (("id",), "no-id"),
        (("time",), "2021-01-19T23:58:57Z"),
        (("type",), "call.answered"),
        (("data", "state"), "ended"),
        (("data", "direction"), "outbound"),
        (("data", "disposition"), "missed"),
        (("data", "sequence"), 0),
        (("data", "from", "number"), 5),
        (("data", "observation", "evidence"), 5),
        (("data", "observation"), None),
        (("data", "provider", "action"), 5),
    ],
)
def test_what_is_promised_is_checked(where: tuple[str, ...], wrong: object) -> None:
    """The first golden event, a ringing, with one thing wrong, fits no type."""
    event = json.loads(json.dumps(GOLDEN[0]))
    at = event
    for key in where[:-1]:
        at = at[key]
    at[where[-1]] = wrong
    assert not Draft202012Validator(event_schema()).is_valid(event)
    del at[where[-1]]
    assert not Draft202012Validator(event_schema()).is_valid(event)


def test_a_field_more_is_no_fault() -> None:
    """The published schema is open, since fields may be added within a version."""
    event = json.loads(json.dumps(GOLDEN[0]))
    event["data"]["mood"] = event["traceparent"] = "good"
    assert Draft202012Validator(event_schema()).is_valid(event)


@pytest.mark.parametrize("field", ["disposition", "previous_state", "evidence", "state"])
def test_a_new_word_is_no_fault(field: str) -> None:
    """Consumers must accept more dispositions, states and kinds of evidence than there are today."""
    schema = Draft202012Validator(event_schema())
    event = json.loads(json.dumps(GOLDEN[1] | {"type": "call.updated"} if field == "state" else GOLDEN[2]))
    at = event["data"]["observation"] if field == "evidence" else event["data"]
    assert schema.is_valid(event)
    at[field] = "brand_new"
    assert schema.is_valid(event)


def printed(what: str) -> Any:
    command = [sys.executable, "-m", "callcast", "schema", what]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_the_command_prints_them() -> None:
    """As JSON, and nothing else."""
    assert printed("event") == event_schema()
    assert printed("asyncapi") == asyncapi()


def node() -> str:
    """Without it the test skips on a laptop and fails where CI is set."""
    path = shutil.which("node")
    missing = "node is not installed" if path is None else "tests/node has no packages: npm ci --prefix tests/node"
    if path is not None and (NODE / "node_modules" / "@asyncapi" / "parser").is_dir():
        return path
    if os.environ.get("CI"):
        pytest.fail(missing)
    pytest.skip(missing)


def test_the_official_parser_takes_the_asyncapi_document() -> None:
    """Without an error or a warning; and it sees every operation."""
    command = [node(), str(NODE / "check_asyncapi.mjs")]
    done = subprocess.run(command, input=json.dumps(asyncapi()), capture_output=True, text=True, check=True)
    output = json.loads(done.stdout)
    assert [one for one in output["found"] if "latest version" not in one["message"]] == []
    assert set(output["operations"]) == set(asyncapi()["operations"])


def test_the_lock_of_the_parser_names_no_registry() -> None:
    """The message names the package to install, not where from."""
    lock = (NODE / "package-lock.json").read_text()
    assert '"resolved"' not in lock
    assert '"integrity": "sha512-' in lock
    assert not re.search(r"https?://[^\"]*registry", lock)


def channels() -> Iterator[tuple[str, dict[str, Any]]]:
    return iter(asyncapi()["channels"].items())


def test_every_type_has_its_message_in_both_worlds() -> None:
    """Webhook and MQTT together describe each event type, the webhook in both formats."""
    of = {name: set(channel["messages"]) for name, channel in channels()}
    names = {matched for type_ in EVENT_TYPES for matched in [type_.split(".")[0] + type_.split(".")[1].capitalize()]}
    assert of["callEvents"] | of["sourceEvents"] == names
    assert of["webhook"] == names | {f"{name}Standard" for name in names}


def payload_validator(message: str) -> Draft202012Validator:
    document = asyncapi()
    return Draft202012Validator(
        document["components"]["messages"][message]["payload"] | {"components": document["components"]}
    )


def test_the_retained_state_is_as_described() -> None:
    """What the MQTT sink really writes: a call, an extension's state, a summary."""
    event = GOLDEN[2]["data"]
    assert list(payload_validator("callState").iter_errors(event)) == []
    idle = json.loads(_encoded_state(Wire(), [], None))
    assert list(payload_validator("extensionState").iter_errors(idle)) == []
    summary = Summary(
        source="acme", ringing=1, dialing=0, connected=2, answered_today=3, missed_today=4, as_of=NINE, complete=True
    )
    assert list(payload_validator("summary").iter_errors(json.loads(_encoded_summary(summary)))) == []
    assert not payload_validator("status").is_valid({"state": "away"})
