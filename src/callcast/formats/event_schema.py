"""Builds the JSON Schema of events from the types of the model."""

from collections.abc import Callable, Sequence
from typing import Any

from callcast.calls.model import EVENT_TYPES, REASONS, Direction, Disposition, Evidence, State
from callcast.formats.cloudevents import DATASCHEMA

Schema = dict[str, Any]
Ref = Callable[[str], Schema]

RESERVED_STATES = ("held", "parked")
TIME: Schema = {
    "type": "string",
    "format": "date-time",
    "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$",
    "description": "RFC 3339 in UTC with milliseconds",
}
TEXT: Schema = {"type": "string"}
# What holds for each type, in addition to what holds for all.
OF_TYPE: dict[str, Schema] = {
    "call.ringing": {"state": {"const": "ringing"}, "direction": {"const": "inbound"}, "disposition": {"type": "null"}},
    "call.dialing": {
        "state": {"const": "dialing"},
        "direction": {"const": "outbound"},
        "disposition": {"type": "null"},
    },
    "call.answered": {"state": {"const": "connected"}, "disposition": {"type": "null"}},
    "call.updated": {"disposition": {"type": "null"}},
    "call.ended": {"state": {"const": "ended"}, "disposition": TEXT, "ended_at": TEXT},
    "call.corrected": {"state": {"const": "ended"}, "disposition": TEXT, "ended_at": TEXT},
}


def event_schema() -> Schema:
    """Return the JSON Schema 2020-12 of the CloudEvents structured form. Open: fields may be added at any time."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": DATASCHEMA,
        "title": "callcast event",
        "description": "A change of a call, or of a source's health, as a CloudEvents 1.0 structured event.",
        "oneOf": [{"$ref": f"#/$defs/{definition_name(type_)}"} for type_ in EVENT_TYPES],
        "$defs": definitions("#/$defs/"),
    }


def definitions(refs: str) -> dict[str, Schema]:
    """Return the definitions by name, with references of the form `refs` + name. Uses only draft 7 keywords."""

    def ref(name: str) -> Schema:
        return {"$ref": refs + name}

    return {
        "party": _object(
            "one side of a call; null while nothing is known of it",
            number=_or_null(TEXT, "as the sink's `numbers` says: in full, ***last4, h:hash or null"),
            name=_or_null(TEXT),
            extension_number=_or_null(TEXT),
            location=_or_null(TEXT),
        ),
        "observation": _object(
            "the two polls around the event",
            after=_or_null(TIME, "null at a first poll"),
            before=TIME,
            exact={
                "type": "boolean",
                "description": "true if the platform gave the time; false if it is the time of the poll",
            },
            evidence=_one_of_more(Evidence, "what showed the event"),
            first_poll={"type": "boolean", "description": "the call was shown by the first poll of its target"},
        ),
        "provider": _object(
            "the platform's own words, for its support",
            name=TEXT,
            record_id=TEXT,
            **{key: _or_null(TEXT) for key in ("session_id", "action", "result", "reason")},
        ),
        "callData": _call_data(ref),
        "sourceData": _source_data(),
        **{definition_name(type_): _event(type_, ref) for type_ in EVENT_TYPES},
        **{definition_name(type_) + "Standard": _standard(type_, ref) for type_ in EVENT_TYPES},
    }


def definition_name(type_: str) -> str:
    """`call.ringing` as `callRinging`."""
    first, second = type_.split(".")
    return first + second.capitalize()


def _call_data(ref: Ref) -> Schema:
    return _object(
        "the whole state of the call after the change",
        call_id={"type": "string", "description": "<extension>/<session>, a second part of both with ~2, and so on"},
        session_id=TEXT,
        account_id=_or_null(TEXT),
        extension_id={"type": "string", "description": "digits, or unassigned"},
        sequence={"type": "integer", "minimum": 1, "description": "1, 2, 3 ... per call"},
        direction=_one_of(Direction),
        state=_one_of_more((*State, *RESERVED_STATES)),
        previous_state=_or_null(_one_of_more((*State, *RESERVED_STATES))),
        **{"from": _or_null(ref("party")), "to": _or_null(ref("party"))},
        queue=_or_null(_object("the queue that it came through", name=TEXT)),
        started_at=TIME,
        answered_at=_or_null(TIME),
        ended_at=_or_null(TIME),
        ring_seconds=_or_null({"type": "number", "minimum": 0}),
        talk_seconds=_or_null({"type": "number", "minimum": 0}),
        disposition=_or_null(_one_of_more(Disposition, "how it ended")),
        observation=ref("observation"),
        provider=ref("provider"),
    )


def _source_data() -> Schema:
    return _object(
        "a source, or one of its extensions, had no successful poll for too long, or has recovered",
        source=TEXT,
        extension_id=_or_null(TEXT, "null when the whole source is affected"),
        reason=_one_of(REASONS, "why polls failed"),
        since=TIME,
    )


def _event(type_: str, ref: Ref) -> Schema:
    key = "the call's id" if type_ in OF_TYPE else "the source's name"
    attributes = _object(
        "",
        specversion={"const": "1.0"},
        id={"type": "string", "pattern": "^evt_[a-z0-9]+$", "description": "the same for the same fact, always"},
        source={"type": "string", "pattern": "^/callcast/[a-z0-9_]+$"},
        type={"const": type_},
        subject={"type": "string", "minLength": 1, "description": key},
        time=TIME,
        datacontenttype={"const": "application/json"},
        dataschema={"const": DATASCHEMA},
        partitionkey={"type": "string", "minLength": 1, "description": f"{key}: what order is kept for"},
        data=_data(type_, ref),
    )
    return {"title": type_, **attributes}


def _standard(type_: str, ref: Ref) -> Schema:
    """The body with `format = "standard"`; the id travels in the header webhook-id."""
    return {"title": type_, **_object("", type={"const": type_}, timestamp=TIME, data=_data(type_, ref))}


def _data(type_: str, ref: Ref) -> Schema:
    """The schema of `data`: what all events have, and what this type adds."""
    if type_ in OF_TYPE:
        more: Schema = {"type": "object", "properties": OF_TYPE[type_]}
        if type_ == "call.corrected":
            more["properties"] = more["properties"] | {"corrects": {**TEXT, "description": "the event that was wrong"}}
            more["required"] = ["corrects"]
        return {"allOf": [ref("callData"), more]}
    if type_ == "source.recovered":
        blind = _object("the time without a successful poll", after=_or_null(TIME), before=TIME)
        return {"allOf": [ref("sourceData"), {"type": "object", "properties": {"blind": blind}}]}
    return ref("sourceData")


def _object(description: str, **properties: Schema) -> Schema:
    """An object in which every property is required; it may be null."""
    summary = {"description": description} if description else {}
    return {**summary, "type": "object", "required": list(properties), "properties": properties}


def _or_null(schema: Schema, description: str = "") -> Schema:
    summary = {"description": description} if description else {}
    return {**summary, "anyOf": [schema, {"type": "null"}]}


def _one_of(words: Sequence[str] | type[Any], description: str = "") -> Schema:
    summary = {"description": description} if description else {}
    return {**summary, "type": "string", "enum": [str(word) for word in words]}


def _one_of_more(words: Sequence[str] | type[Any], description: str = "") -> Schema:
    """An open list of words: more may be added without a new version."""
    known = [str(word) for word in words]
    summary = f"{description}: " if description else ""
    return {**TEXT, "description": f"{summary}{', '.join(known)}; accept others too", "examples": known}
