"""Many readers cost little: one encoding for all of them, and the loop is free between handfuls."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import msgspec
import pytest

from callcast.ports.outbox import Stored
from callcast.web import sse as feed
from callcast.web.sse import QUEUED_BYTES_MAX, Reader
from tests.integration.web.http_side import Room, until

READERS = 50


class Far:
    """A connection that takes what it is given; `turns` says in which turn of the loop each piece came."""

    def __init__(self, turn: "Turns") -> None:
        self.chunks: list[bytes] = []
        self.turns: list[int] = []
        self.waiting = 0
        self.aborted = False
        self._turn = turn

    def write(self, chunk: bytes) -> None:
        self.chunks.append(chunk)
        self.turns.append(self._turn.number)

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True


class Turns:
    """Counts the loop's turns."""

    def __init__(self) -> None:
        self.number = 0
        self._loop = asyncio.get_running_loop()
        self._handle = self._loop.call_soon(self._next)

    def _next(self) -> None:
        self.number += 1
        self._handle = self._loop.call_soon(self._next)

    def stop(self) -> None:
        self._handle.cancel()


@pytest.fixture
async def turns() -> AsyncIterator[Turns]:
    counting = Turns()
    yield counting
    counting.stop()


def join(here: Room, turns: Turns, count: int = 1, **how: Any) -> list[Far]:
    fars = [Far(turns) for _ in range(count)]
    for far in fars:
        here.feed.join(Reader(cast("asyncio.Transport", far), **{"board": False, "chunked": True, **how}))
    return fars


async def test_all_get_the_same_bytes_encoded_once(here: Room, turns: Turns, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not copies: one object for everybody in the same place, and one poll into the view."""
    encoded = []
    whole = here.feed._view.wire.event  # what is encoded, counted where it happens
    monkeypatch.setattr(here.feed._view.wire, "event", lambda event: encoded.append(event) or whole(event))
    fars = join(here, turns, READERS)
    told = here.tell(here.ring("101"), "call.updated")
    await until(lambda: all(far.chunks for far in fars))
    assert len({id(chunk) for far in fars for chunk in far.chunks}) == 1
    assert [event.type for event in encoded] == ["call.ringing", told.type]


async def test_the_loop_is_free_between_handfuls(here: Room, turns: Turns) -> None:
    """However many read, the pipe waits for a few writes at most."""
    fars = join(here, turns, READERS, live_calls=True)
    here.ring("101")
    await until(lambda: all(far.chunks for far in fars))
    first = [far.turns[0] for far in fars]
    assert max(first.count(turn) for turn in first) <= feed._AT_ONCE < READERS / 4


async def test_large_pieces_come_in_smaller_handfuls(here: Room, turns: Turns, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole board of a large house takes the system longer to take; then fewer are served at once."""
    monkeypatch.setattr(feed, "_BYTES_AT_ONCE", 20_000)
    for number in range(20):
        here.ring("101", f"s-{number}")
    fars = join(here, turns, READERS, live_calls=True)
    await until(lambda: all(far.chunks for far in fars))
    assert len(fars[0].chunks[0]) > 10_000
    first = [far.turns[0] for far in fars]
    assert max(first.count(turn) for turn in first) <= 2


async def test_who_is_gone_is_noticed_although_nothing_happens(here: Room, turns: Turns) -> None:
    """Not only at the next event: the places are few, and whoever comes back wants one."""
    far = join(here, turns)[0]
    reader = next(iter(here.feed._readers))
    far.aborted = True
    async with asyncio.timeout(5):
        await reader.ended()
    assert far.chunks == []


async def test_what_happens_at_once_comes_at_once(here: Room, turns: Turns) -> None:
    """Ten changes of one round are one piece for each reader: events and the board's turn together."""
    (plain,) = join(here, turns)
    (page,) = join(here, turns, live_calls=True)
    await until(lambda: len(page.chunks) == 1)  # the whole board
    for number in range(10):
        here.ring("101", f"s-{number}")
    await until(lambda: len(page.chunks) == 2 and len(plain.chunks) == 1)
    assert plain.chunks[0].count(b"event: call.ringing") == 10
    assert page.chunks[1].count(b"event: call.ringing") == 10
    live_calls = msgspec.json.decode(page.chunks[1].split(b"event: board\ndata: ")[1].split(b"\n")[0])
    assert len(live_calls["calls"]) == 10


async def test_a_crowded_connection_is_cut(here: Room, turns: Turns) -> None:
    """Once so much waits for one reader; the others do not notice."""
    stalled, quick = join(here, turns, 2)
    stalled.waiting = QUEUED_BYTES_MAX
    here.ring("101")
    await until(lambda: bool(quick.chunks))
    assert (stalled.aborted, stalled.chunks, quick.aborted) == (True, [], False)


async def test_a_piece_that_is_larger_than_the_limit_takes_its_time(turns: Turns) -> None:
    """The first board of a very large house: cut off for it, its reader would come back for the same."""
    far = Far(turns)
    reader = Reader(cast("asyncio.Transport", far), live_calls=True, chunked=True)
    reader.write(b"b" * 3 * QUEUED_BYTES_MAX)
    far.waiting = 3 * QUEUED_BYTES_MAX
    reader.write(b"")
    reader.write(b"t" * QUEUED_BYTES_MAX)
    assert not far.aborted
    far.waiting = 4 * QUEUED_BYTES_MAX
    reader.write(b"t")
    assert far.aborted


async def test_a_reader_that_left_is_written_to_no_more(here: Room, turns: Turns) -> None:
    """Its connection may serve another request by then."""
    far = Far(turns)
    reader = Reader(cast("asyncio.Transport", far), live_calls=False, chunked=True)
    here.feed.join(reader)
    here.feed.leave(reader)
    reader.write(b"late")
    assert far.chunks == []


async def test_a_crowd_that_comes_at_once_queues_for_the_outbox(here: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipe's own turn there comes after a few of them, not after all; and each gets all it missed."""
    for number in range(3):
        here.ring("101", f"s-{number}")
    whole, asking, most = here.memory.history, 0, 0

    async def history(**where: int) -> Sequence[Stored]:
        nonlocal asking, most
        asking += 1
        most = max(most, asking)
        await asyncio.sleep(0.001)
        asking -= 1
        return await whole(**where)

    monkeypatch.setattr(here.memory, "history", history)
    readers = [Reader(cast("asyncio.Transport", None), live_calls=False, chunked=True) for _ in range(READERS)]
    caught_up = await asyncio.gather(*map(here.feed.catch_up, readers))
    assert [got.count(b"event: call.ringing") for got in caught_up] == [3] * READERS
    assert most == feed._ASKING_MAX
