"""The JSON Schema of events, generated from their types, with what holds for each event type added."""

from typing import Any

import msgspec

from callcast.calls.model import EVENT_TYPES
from callcast.formats import payloads

Schema = dict[str, Any]

_NULL: Schema = {"type": "null"}
_TEXT: Schema = {"type": "string"}
_ENDED: Schema = {"state": {"const": "ended"}, "disposition": _TEXT, "ended_at": _TEXT}
# What holds for the data of each type, in addition to what holds for all.
OF_TYPE: dict[str, Schema] = {
    "call.ringing": {"state": {"const": "ringing"}, "direction": {"const": "inbound"}, "disposition": _NULL},
    "call.dialing": {"state": {"const": "dialing"}, "direction": {"const": "outbound"}, "disposition": _NULL},
    "call.answered": {"state": {"const": "connected"}, "disposition": _NULL},
    "call.updated": {"disposition": _NULL},
    "call.ended": _ENDED,
    "call.corrected": _ENDED | {"corrects": _TEXT},
}


def event_schema() -> Schema:
    """Return the JSON Schema 2020-12 of the CloudEvents structured form. Open: fields may be added at any time."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": payloads.DATASCHEMA,
        "title": "callcast event",
        "description": "A change of a call, or of a source's health, as a CloudEvents 1.0 structured event.",
        "oneOf": [{"$ref": f"#/$defs/{definition_name(type_)}"} for type_ in EVENT_TYPES],
        "$defs": definitions("#/$defs/"),
    }


def definitions(refs: str, *more: type[msgspec.Struct]) -> dict[str, Schema]:
    """Return the definitions by name: both forms of each event type, `more` types, and all that these refer to.

    References have the form `refs` + name. Uses only draft 7 keywords.
    """
    forms = {payloads.CloudEvent: "", payloads.StandardEvent: "Standard"}
    types = (payloads.CallData, payloads.SourceData, *forms, *more)
    _, schemas = msgspec.json.schema_components(types, ref_template=refs + "{name}")
    for form, suffix in forms.items():
        schema = schemas.pop(form.__name__)
        for type_ in EVENT_TYPES:
            properties = schema["properties"] | {"type": {"const": type_}, "data": _data(type_, refs)}
            schemas[definition_name(type_) + suffix] = schema | {"title": type_, "properties": properties}
    return schemas


def definition_name(type_: str) -> str:
    """`call.ringing` as `callRinging`."""
    first, second = type_.split(".")
    return first + second.capitalize()


def _data(type_: str, refs: str) -> Schema:
    if type_ not in OF_TYPE:
        return {"$ref": refs + payloads.SourceData.__name__}
    observation = {"$ref": refs + payloads.Observation.__name__}  # only a call without an event has none
    more: Schema = {"type": "object", "properties": OF_TYPE[type_] | {"observation": observation}}
    if type_ == "call.corrected":
        more["required"] = ["corrects"]
    return {"allOf": [{"$ref": refs + payloads.CallData.__name__}, more]}
