"""Many clients of the event stream: events are encoded once, and the event loop is free between batches."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import msgspec
import pytest

from callcast.ports.outbox import Stored
from callcast.web import sse
from callcast.web.sse import QUEUED_BYTES_MAX, StreamClient
from tests.integration.web.http_side import Room, until

CLIENTS = 50


class FakeConnection:
    """A transport that records what is written; `iterations` holds the event loop iteration of each write."""

    def __init__(self, iteration: "LoopIterations") -> None:
        self.chunks: list[bytes] = []
        self.iterations: list[int] = []
        self.waiting = 0
        self.aborted = False
        self._iterations = iteration

    def write(self, chunk: bytes) -> None:
        self.chunks.append(chunk)
        self.iterations.append(self._iterations.number)

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True


class LoopIterations:
    """Counts the iterations of the event loop."""

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
async def iterations() -> AsyncIterator[LoopIterations]:
    counting = LoopIterations()
    yield counting
    counting.stop()


def join(here: Room, iterations: LoopIterations, count: int = 1, **how: Any) -> list[FakeConnection]:
    connections = [FakeConnection(iterations) for _ in range(count)]
    for connection in connections:
        here.broadcaster.join(
            StreamClient(cast("asyncio.Transport", connection), **{"live_calls": False, "chunked": True, **how})
        )
    return connections


async def test_all_clients_get_the_same_bytes_encoded_once(
    here: Room, iterations: LoopIterations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients at the same position get the same object, and each event is encoded once."""
    encoded = []
    original = here.broadcaster._serializer.wire.event
    monkeypatch.setattr(
        here.broadcaster._serializer.wire, "event", lambda event: encoded.append(event) or original(event)
    )
    connections = join(here, iterations, CLIENTS)
    updated = here.tell(here.ring("101"), "call.updated")
    await until(lambda: all(connection.chunks for connection in connections))
    assert len({id(chunk) for connection in connections for chunk in connection.chunks}) == 1
    assert [event.type for event in encoded] == ["call.ringing", updated.type]


async def test_the_event_loop_is_free_between_batches(here: Room, iterations: LoopIterations) -> None:
    """Each batch writes to a few clients only, however many there are."""
    connections = join(here, iterations, CLIENTS, live_calls=True)
    here.ring("101")
    await until(lambda: all(connection.chunks for connection in connections))
    first = [connection.iterations[0] for connection in connections]
    assert max(first.count(iteration) for iteration in first) <= sse._AT_ONCE < CLIENTS / 4


async def test_large_messages_come_in_smaller_batches(
    here: Room, iterations: LoopIterations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches are limited in bytes too, since writing many calls takes longer."""
    monkeypatch.setattr(sse, "_BYTES_AT_ONCE", 20_000)
    for number in range(20):
        here.ring("101", f"s-{number}")
    connections = join(here, iterations, CLIENTS, live_calls=True)
    await until(lambda: all(connection.chunks for connection in connections))
    assert len(connections[0].chunks[0]) > 10_000
    first = [connection.iterations[0] for connection in connections]
    assert max(first.count(iteration) for iteration in first) <= 2


async def test_a_disconnected_client_is_detected_without_an_event(here: Room, iterations: LoopIterations) -> None:
    """A closed connection frees its place in the next round."""
    connection = join(here, iterations)[0]
    client = next(iter(here.broadcaster._clients))
    connection.aborted = True
    async with asyncio.timeout(5):
        await client.ended()
    assert connection.chunks == []


async def test_changes_of_one_round_are_one_message(here: Room, iterations: LoopIterations) -> None:
    """Ten changes of one round are one write for each client: events and live calls together."""
    (plain,) = join(here, iterations)
    (page,) = join(here, iterations, live_calls=True)
    await until(lambda: len(page.chunks) == 1)  # all live calls
    for number in range(10):
        here.ring("101", f"s-{number}")
    await until(lambda: len(page.chunks) == 2 and len(plain.chunks) == 1)
    assert plain.chunks[0].count(b"event: call.ringing") == 10
    assert page.chunks[1].count(b"event: call.ringing") == 10
    live_calls = msgspec.json.decode(page.chunks[1].split(b"event: board\ndata: ")[1].split(b"\n")[0])
    assert len(live_calls["calls"]) == 10


async def test_a_client_with_a_full_buffer_is_disconnected(here: Room, iterations: LoopIterations) -> None:
    """Only the client that does not read; the others are not affected."""
    stalled, quick = join(here, iterations, 2)
    stalled.waiting = QUEUED_BYTES_MAX
    here.ring("101")
    await until(lambda: bool(quick.chunks))
    assert (stalled.aborted, stalled.chunks, quick.aborted) == (True, [], False)


async def test_one_message_may_exceed_the_buffer_limit(iterations: LoopIterations) -> None:
    """Otherwise a client of a very large account would be disconnected again at each connection."""
    connection = FakeConnection(iterations)
    client = StreamClient(cast("asyncio.Transport", connection), live_calls=True, chunked=True)
    client.write(b"b" * 3 * QUEUED_BYTES_MAX)
    connection.waiting = 3 * QUEUED_BYTES_MAX
    client.write(b"")
    client.write(b"t" * QUEUED_BYTES_MAX)
    assert not connection.aborted
    connection.waiting = 4 * QUEUED_BYTES_MAX
    client.write(b"t")
    assert connection.aborted


async def test_a_client_that_left_gets_nothing_more(here: Room, iterations: LoopIterations) -> None:
    """Its connection may serve another request by then."""
    connection = FakeConnection(iterations)
    client = StreamClient(cast("asyncio.Transport", connection), live_calls=False, chunked=True)
    here.broadcaster.join(client)
    here.broadcaster.leave(client)
    client.write(b"late")
    assert connection.chunks == []


async def test_new_clients_take_turns_at_the_outbox(here: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few new clients read the outbox at once, so polls and deliveries wait little; each client gets all events."""
    for number in range(3):
        here.ring("101", f"s-{number}")
    original, asking, most = here.memory.history, 0, 0

    async def history(**where: int) -> Sequence[Stored]:
        nonlocal asking, most
        asking += 1
        most = max(most, asking)
        await asyncio.sleep(0.001)
        asking -= 1
        return await original(**where)

    monkeypatch.setattr(here.memory, "history", history)
    clients = [StreamClient(cast("asyncio.Transport", None), live_calls=False, chunked=True) for _ in range(CLIENTS)]
    caught_up = await asyncio.gather(*map(here.broadcaster.catch_up, clients))
    assert [got.count(b"event: call.ringing") for got in caught_up] == [3] * CLIENTS
    assert most == sse._READS_MAX
