"""Encoding of events, calls and times in the file."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import TypeVar

import msgspec

from callcast.calls.model import Call, Event

T = TypeVar("T")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_REPLAYED = 0x5EED

_encoder = msgspec.msgpack.Encoder()
_events = msgspec.msgpack.Decoder(Event)
_calls = msgspec.msgpack.Decoder(Call)


def encode(what: Event | Call) -> bytes:
    return _encoder.encode(what)


def encode_rows(rows: Sequence[object]) -> str:
    """Many rows as one parameter of a statement, for `json_each`."""
    return msgspec.json.encode(rows).decode()


def batched(items: Sequence[T], most: int) -> Iterator[Sequence[T]]:
    return (items[start : start + most] for start in range(0, len(items), most))


def event_of(body: bytes) -> Event:
    event: Event = _events.decode(body)
    return event


def call_of(body: bytes) -> Call:
    return _calls.decode(body)


def us_of(time: datetime) -> int:
    """Microseconds since 1970, without rounding."""
    return (time - _EPOCH) // _MICROSECOND


def time_of(us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=us)


def ordering_key(source: str, key: str) -> int:
    """The ordering key as a 64-bit hash. On a collision two calls share one order, which does no harm."""
    digest = blake2b(f"{source}\0{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def replay_ordering_key(ordering_key: int) -> int:
    """A separate ordering key for replayed events, so that they do not delay new events of their call."""
    return ordering_key ^ _REPLAYED


def ordering_key_of(event: Event) -> int:
    return ordering_key(event.source, event.key)
