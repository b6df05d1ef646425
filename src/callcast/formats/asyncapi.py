"""The AsyncAPI 3 description of what callcast sends: the webhook, and the topics of an MQTT sink."""

from typing import Any

from msgspec import Struct

from callcast import __version__
from callcast.calls.model import EVENT_TYPES
from callcast.formats import payloads
from callcast.formats.event_schema import Schema, definition_name, definitions

REFS = "#/components/schemas/"
EVENT_CONTENT = "application/cloudevents+json; charset=utf-8"
JSON_CONTENT = "application/json"
PARAMETERS = {
    "topic": "the sink's `topic`",
    "source": "the source's name",
    "extension": "the extension's id, or `unassigned`",
    "part": "the call's id after its first `/`; `/`, `+`, `#` and `%` are percent-encoded",
}
STATES: dict[str, tuple[str, str, type[Struct]]] = {
    "callState": (
        "{topic}/{source}/{extension}/calls/{part}",
        "the call's present state; an empty message removes it a while after its end",
        payloads.CallData,
    ),
    "extensionState": (
        "{topic}/{source}/{extension}/state",
        "what the extension does: the first of these words that applies to one of its calls",
        payloads.ExtensionState,
    ),
    "summary": (
        "{topic}/{source}/summary",
        "conversations of the source, now and since midnight; `complete` is false when a poll is overdue",
        payloads.Summary,
    ),
    "status": (
        "{topic}/status",
        "whether the sink is connected; `offline` is the will, and the last message of a clean stop",
        payloads.Status,
    ),
}


def asyncapi() -> dict[str, Any]:
    """Return the whole document. `send` is meant from callcast's side: a receiver gets these messages."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "callcast",
            "version": __version__,
            "description": "Call events from RingCentral's list of live calls, as webhooks and on MQTT topics.",
            "license": {"name": "MIT"},
        },
        "defaultContentType": JSON_CONTENT,
        "servers": {
            "receiver": {"host": "crm.example.com", "protocol": "https", "description": "a webhook sink's `url`"},
            "broker": {"host": "broker.example.com:8883", "protocol": "mqtts", "description": "an MQTT sink's `url`"},
        },
        "channels": _channels(),
        "operations": _operations(),
        "components": {
            "schemas": definitions(REFS, *(type_ for *_, type_ in STATES.values())),
            "messages": _messages(),
        },
    }


def _channels() -> dict[str, Any]:
    names = [definition_name(type_) for type_ in EVENT_TYPES]
    webhook = {
        "address": "/hooks/calls",
        "description": "POST to the sink's `url`; at least once, in order per call. Verify the signature.",
        "servers": [{"$ref": "#/servers/receiver"}],
        "messages": _refs([*names, *(f"{name}Standard" for name in names)]),
    }
    channels = {
        "webhook": webhook,
        "callEvents": _topic("{topic}/{source}/{extension}/events/{type}", "a call's events", _of("call.")),
        "sourceEvents": _topic("{topic}/{source}/events/{type}", "the source's health", _of("source.")),
    }
    return channels | {name: _topic(address, summary, [name]) for name, (address, summary, _) in STATES.items()}


def _of(prefix: str) -> list[str]:
    return [definition_name(type_) for type_ in EVENT_TYPES if type_.startswith(prefix)]


def _topic(address: str, description: str, messages: list[str]) -> dict[str, Any]:
    summary = PARAMETERS | {"type": "the event's type"}
    return {
        "address": address,
        "description": description,
        "servers": [{"$ref": "#/servers/broker"}],
        "parameters": {name: {"description": text} for name, text in summary.items() if f"{{{name}}}" in address},
        "messages": _refs(messages),
    }


def _refs(names: list[str]) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/messages/{name}"} for name in names}


def _operations() -> dict[str, Any]:
    posted = {"channel": {"$ref": "#/channels/webhook"}, "bindings": {"http": {"method": "POST"}}}
    operations: dict[str, Any] = {"postEvent": {"action": "send", **posted}}
    for channel, retain in (("callEvents", False), ("sourceEvents", False), *((name, True) for name in STATES)):
        operations[f"publish{channel[0].upper()}{channel[1:]}"] = {
            "action": "send",
            "channel": {"$ref": f"#/channels/{channel}"},
            "bindings": {"mqtt": {"qos": 1, "retain": retain}},
        }
    return operations


def _messages() -> dict[str, Any]:
    messages: dict[str, Any] = {}
    for type_ in EVENT_TYPES:
        name = definition_name(type_)
        messages[name] = _event_message(type_, name, EVENT_CONTENT)
        messages[f"{name}Standard"] = _event_message(type_, f"{name}Standard", JSON_CONTENT)
    for name, (_, summary, payload) in STATES.items():
        message = {"name": name, "summary": summary, "contentType": JSON_CONTENT}
        messages[name] = message | {"payload": {"$ref": REFS + payload.__name__}}
    return messages


def _event_message(type_: str, schema: str, content_type: str) -> dict[str, Any]:
    form = 'format = "standard"' if schema.endswith("Standard") else "a CloudEvents 1.0 structured event"
    message = {"name": type_, "title": f"{type_}, {form}", "contentType": content_type}
    return message | {"headers": HEADERS, "payload": {"$ref": REFS + schema}}


HEADERS: Schema = {
    "type": "object",
    "description": "of the webhook (Standard Webhooks); over MQTT 5 the attributes are user properties",
    "properties": {
        "webhook-id": {"type": "string", "description": "the event's id; the same on every attempt"},
        "webhook-timestamp": {"type": "string", "pattern": "^[0-9]+$", "description": "of this attempt, in seconds"},
        "webhook-signature": {
            "type": "string",
            "description": "`v1,` and HMAC-SHA256 over id.timestamp.body; one for each secret",
        },
        "x-callcast-attempt": {"type": "string", "pattern": "^[1-9][0-9]*$"},
        "user-agent": {"type": "string"},
    },
}
