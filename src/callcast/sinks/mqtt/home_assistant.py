"""The discovery messages for Home Assistant: one device per source and per extension."""

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from msgspec import json

from callcast.calls.model import EVENT_TYPES
from callcast.formats.cloudevents import Numbers
from callcast.sinks.mqtt.wire import Topics

_STATES = ["ringing", "dialing", "connected", "held", "parked", "idle"]
# An empty message, which removes a topic, has no value_json.
_STATE = "{{ value_json.state if value_json is defined else 'idle' }}"
_CALLS = "{{ value_json.calls if value_json is defined else 0 }}"
_CALLER = (
    "{% set caller = value_json.caller if value_json is defined else none %}"
    "{{ (caller.number or caller.name or 'unknown') if caller else none }}"
)
_CALLER_PARTS = "{{ ((value_json.caller if value_json is defined else none) or {}) | tojson }}"
_RINGING = "{{ 'ON' if value_json is defined and value_json.state == 'ringing' else 'OFF' }}"
_EVENT = "{{ dict(value_json.data, event_type=value_json.type) | tojson }}"
_SOURCE_STATE = (
    "{{ 'idle' if value_json is not defined else 'ringing' if value_json.ringing"
    " else 'dialing' if value_json.dialing else 'connected' if value_json.connected else 'idle' }}"
)
_SOURCE_CALLS = "{{ value_json.ringing + value_json.dialing + value_json.connected if value_json is defined else 0 }}"
_SOURCE_RINGING = "{{ 'ON' if value_json is defined and value_json.ringing else 'OFF' }}"
_SOURCE_OVERDUE = "{{ 'OFF' if value_json is defined and value_json.complete else 'ON' }}"

_Owner = tuple[str, str]  # source and extension; the extension of the source's own device is ""


class Devices:
    """Builds the discovery message of each device.

    A device is identified by the sink's topic, which no other sink on the broker uses, the source and the extension.
    So it stays the same device when the service moves to another machine.
    """

    def __init__(self, topics: Topics, events: tuple[str, ...], numbers: Numbers, version: str) -> None:
        self._topics = topics
        self._events = events
        self._named = numbers in ("full", "last4")
        self._version = version

    def topic(self, owner: _Owner) -> str:
        return self._topics.device("-".join(filter(None, owner)))

    def owner(self, topic: str) -> _Owner | None:
        """The owner of a discovery topic of this sink; None for any other topic."""
        match = re.fullmatch(self._topics.device("([a-z0-9_]+)(?:-([0-9]+))?"), topic)
        return (match[1], match[2] or "") if match else None

    def message(self, owner: _Owner, names: Mapping[str, str]) -> bytes:
        source, extension_id = owner
        identifier = self._identifier(owner)
        device = {"identifiers": [identifier], "manufacturer": "callcast", "sw_version": self._version}
        if extension_id:
            name = names.get(extension_id) if self._named else None
            device |= {
                "name": name or f"Extension {extension_id}",
                "model": "Extension",
                "via_device": self._identifier((source, "")),
            }
            components = self._of_extension(source, extension_id)
        else:
            device |= {"name": f"callcast {source}", "model": "Source"}
            components = self._of_source(source)
        for key, component in components.items():
            if len(component) > 1:  # a component with a platform only is removed
                component["unique_id"] = f"{identifier}-{key}"
        return json.encode(
            {
                "device": device,
                "origin": {"name": "callcast", "sw_version": self._version},
                "availability": [{"topic": self._topics.status, "value_template": "{{ value_json.state }}"}],
                "qos": 1,
                "components": components,
            }
        )

    def _identifier(self, owner: _Owner) -> str:
        return "-".join(filter(None, (self._topics.device_node, *owner)))

    def _of_extension(self, source: str, extension_id: str) -> dict[str, dict[str, Any]]:
        topic = self._topics.state(source, extension_id)
        return {
            "state": _state_sensor(topic, _STATE),
            "calls": _count_sensor("Calls", topic, _CALLS),
            "caller": _component("sensor", "Caller", topic, _CALLER, icon="mdi:phone-incoming")
            | {"json_attributes_topic": topic, "json_attributes_template": _CALLER_PARTS},
            "ringing": _component("binary_sensor", "Ringing", topic, _RINGING, icon="mdi:phone-ring"),
            "event": self._event_entity("Call event", self._topics.events(source, extension_id), "call."),
        }

    def _of_source(self, source: str) -> dict[str, dict[str, Any]]:
        topic = self._topics.summary(source)
        return {
            "state": _state_sensor(topic, _SOURCE_STATE),
            "calls": _count_sensor("Calls", topic, _SOURCE_CALLS),
            "ringing": _component("binary_sensor", "Ringing", topic, _SOURCE_RINGING, icon="mdi:phone-ring"),
            "overdue": _component("binary_sensor", "Polls overdue", topic, _SOURCE_OVERDUE)
            | {"device_class": "problem", "entity_category": "diagnostic"},
            "event": self._event_entity("Source event", self._topics.events(source), "source."),
        }

    def _event_entity(self, name: str, topics: str, prefix: str) -> dict[str, Any]:
        types = [
            one for one in EVENT_TYPES if one.startswith(prefix) and any(fnmatchcase(one, g) for g in self._events)
        ]
        return _component("event", name, topics, _EVENT, event_types=types) if types else {"platform": "event"}


def _component(platform: str, name: str, topic: str, template: str, **more: object) -> dict[str, Any]:
    return {"platform": platform, "name": name, "state_topic": topic, "value_template": template, **more}


def _state_sensor(topic: str, template: str) -> dict[str, Any]:
    return _component("sensor", "State", topic, template, icon="mdi:phone", device_class="enum", options=_STATES)


def _count_sensor(name: str, topic: str, template: str) -> dict[str, Any]:
    return _component("sensor", name, topic, template, icon="mdi:counter", state_class="measurement")
