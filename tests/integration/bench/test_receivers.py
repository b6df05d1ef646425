"""The remote sides take every event out of the bytes, however they are cut."""

import asyncio
from typing import Any

import pytest

from bench.receivers import Arrivals, Pipe, Subscriber, Webhook

EVENTS = [b'{"type":"call.ringing","data":{"session_id":"s-%032x"}}' % number for number in range(3)]
KEYS = [0, 3, 6]


class Wire:
    """A transport that keeps what was written."""

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data


def fed(protocol: Any, data: bytes, size: int) -> Wire:
    wire = Wire()
    if not isinstance(protocol, Pipe):
        protocol.connection_made(wire)
    for at in range(0, len(data), size):
        protocol.data_received(data[at : at + size])
    return wire


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_every_post_is_taken_and_answered(size: int) -> None:
    """Also when header and body come in pieces, or several requests at once."""
    arrivals = Arrivals()
    posts = b"".join(b"POST / HTTP/1.1\r\ncontent-length: %d\r\n\r\n%b" % (len(one), one) for one in EVENTS)
    wire = fed(Webhook(arrivals), posts, size)
    assert list(arrivals.keys) == KEYS
    assert wire.written.count(b"204 No Content") == 3


@pytest.mark.parametrize("size", [1, 7, 10_000])
async def test_every_message_is_taken_and_acknowledged(size: int) -> None:
    """Long ones have a length of two bytes; each acknowledgement names its packet."""
    arrivals = Arrivals()
    subscriber = Subscriber(arrivals, asyncio.get_running_loop())
    topic, packets = b"callcast/acme/1/events/call.ringing", b""
    for number, event in enumerate(EVENTS):
        rest = len(topic).to_bytes(2) + topic + number.to_bytes(2) + event.ljust(150)
        packets += b"\x32" + bytes([len(rest) & 0x7F | 0x80, len(rest) >> 7]) + rest
    wire = fed(subscriber, b"\x90\x03\x00\x01\x01" + packets, size)
    assert list(arrivals.keys) == KEYS
    assert subscriber.ready.done()
    assert wire.written.endswith(b"\x40\x02\x00\x00" + b"\x40\x02\x00\x01" + b"\x40\x02\x00\x02")


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_every_line_is_taken(size: int) -> None:
    """And what is no event is counted apart."""
    arrivals = Arrivals()
    fed(Pipe(arrivals), b"\n".join([*EVENTS, b"hello", b""]), size)
    assert list(arrivals.keys) == KEYS
    assert arrivals.others == 1
