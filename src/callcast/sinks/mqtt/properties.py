"""MQTT 5 properties, encoded directly: paho encodes each one by name, which takes longer than sending the message.

The identifiers are those of section 2.2.2.2 of MQTT 5.
"""

from collections.abc import Mapping
from functools import lru_cache

from paho.mqtt.properties import Properties, VariableByteIntegers

_TEXT_BYTES_MAX = 0xFFFF
_EXPIRY_S_MAX = 0xFFFFFFFF


class EncodedProperties(Properties):
    """Properties that are already encoded; paho only sends the bytes."""

    packed: bytes

    def __init__(self, content_type: str, *more: bytes) -> None:
        body = b"".join((b"\x01\x01", b"\x03", _text(content_type), *more))
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
