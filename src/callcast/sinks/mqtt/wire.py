"""What goes over the connection: messages, topic names, and MQTT 5 properties."""

import re
from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import quote

from msgspec import Struct
from paho.mqtt.properties import Properties, VariableByteIntegers

from callcast.calls.model import Call, Event, SourceEvent

_SPECIAL = re.compile(r"[/+#%]")
_TEXT_BYTES_MAX = 0xFFFF
_EXPIRY_S_MAX = 0xFFFFFFFF


class EncodedProperties(Properties):
    """MQTT 5 properties that are already encoded: paho encodes each by name, which takes longer than sending."""

    packed: bytes

    def __init__(self, content_type: str, *more: bytes) -> None:
        body = b"".join((b"\x01\x01", b"\x03", _text(content_type), *more))  # the identifiers of MQTT 5, 2.2.2.2
        vars(self)["packed"] = VariableByteIntegers.encode(len(body)) + body  # type: ignore[no-untyped-call]

    def pack(self) -> bytes:
        return self.packed


def user_properties(pairs: Mapping[str, str]) -> bytes:
    return b"".join([_user_property(name) + _text(text) for name, text in pairs.items()])


def correlation(text: str) -> bytes:
    return b"\x09" + _text(text)


def expiry(seconds: int) -> bytes:
    """The message expiry interval, at least 1 s: with 0 a broker may discard the message at once."""
    return b"\x02" + min(max(1, seconds), _EXPIRY_S_MAX).to_bytes(4, "big")


@lru_cache(64)  # every message has the same few names
def _user_property(name: str) -> bytes:
    return b"\x26" + _text(name)


def _text(text: str) -> bytes:
    packed = text.encode()
    if len(packed) > _TEXT_BYTES_MAX or b"\0" in packed:
        raise ValueError("text too long for MQTT, or with a NUL character")  # a broker would close the connection
    return len(packed).to_bytes(2, "big") + packed


class Message(Struct, frozen=True):
    """What to publish, always with QoS 1. `properties` is for MQTT 5 only."""

    topic: str
    payload: bytes
    retain: bool = False
    properties: EncodedProperties | None = None

    def packet_bytes(self) -> int:
        """The size of its packet, at most."""
        properties = self.properties.pack() if self.properties else b""
        return 5 + 2 + len(self.topic.encode()) + 2 + len(properties) + len(self.payload)


class Topics:
    """The names of all topics under one prefix."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.status = f"{prefix}/status"
        self.device_node = re.sub(r"[^a-zA-Z0-9-]", lambda c: "".join(f"_{b:02X}" for b in c[0].encode()), prefix)
        # What to subscribe to in order to read every retained topic, and no event.
        self.retained = [self.status, f"{prefix}/+/+/calls/+", f"{prefix}/+/+/state", f"{prefix}/+/summary"]
        self.devices = self.device("+")

    def is_state(self, topic: str) -> bool:
        """False for discovery topics."""
        return topic.startswith(f"{self._prefix}/")

    def event(self, event: Event) -> str:
        extension_id = "" if isinstance(event, SourceEvent) else event.call.extension_id
        return self.events(event.source, extension_id, event.type)

    def events(self, source: str, extension_id: str = "", event_type: str = "+") -> str:
        """The topic of one type of event, or what to subscribe to for all types."""
        owner = f"{source}/{encoded(extension_id)}" if extension_id else source
        return f"{self._prefix}/{owner}/events/{event_type}"

    def call(self, call: Call) -> str:
        part = call.call_id.partition("/")[2]
        return f"{self._prefix}/{call.source}/{encoded(call.extension_id)}/calls/{encoded(part)}"

    def state(self, source: str, extension_id: str) -> str:
        return f"{self._prefix}/{source}/{encoded(extension_id)}/state"

    def summary(self, source: str) -> str:
        return f"{self._prefix}/{source}/summary"

    def device(self, name: str) -> str:
        """The discovery topic of a device. Home Assistant permits letters, digits, - and _ in its parts."""
        return f"homeassistant/device/{self.device_node}/{name}/config"


def encoded(part: str) -> str:
    """One topic level, with special and control characters percent-encoded."""
    if part.isprintable() and not _SPECIAL.search(part):
        return part
    return "".join(quote(c, safe="") if c in "/+#%" or not c.isprintable() else c for c in part)
