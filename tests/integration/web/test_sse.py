"""Many clients of the event stream: what is new is encoded once, and no client delays another."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing

import msgspec
import pytest

from callcast.ports.outbox import Stored
from callcast.web import sse
from callcast.web.sse import QUEUED_ROUNDS_MAX, Client, Round
from tests.integration.web.http_side import Harness, until

CLIENTS = 50


class Connection:
    """A client whose messages are collected; `pause` keeps it from taking any."""

    def __init__(self, here: Harness, *, live_calls: bool = False, after_seq: int = 0) -> None:
        self.client = Client(after_seq, live_calls=live_calls)
        self.messages: list[bytes] = []
        self._reads = asyncio.Event()
        self._reads.set()
        self._task = asyncio.create_task(self._collect(here))

    async def _collect(self, here: Harness) -> None:
        async with aclosing(here.broadcaster.stream(self.client)) as messages:
            async for message in messages:
                self.messages.append(message)
                await self._reads.wait()

    def pause(self) -> None:
        self._reads.clear()

    @property
    def ended(self) -> bool:
        return self._task.done()

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.wait((self._task,))


Connect = Callable[..., Connection]


@pytest.fixture
async def connect(here: Harness) -> AsyncIterator[Connect]:
    connections = []

    def connected(**how: object) -> Connection:
        connections.append(Connection(here, **how))  # type: ignore[arg-type]
        return connections[-1]

    yield connected
    for connection in connections:
        await connection.close()


async def joined(here: Harness, count: int) -> None:
    await until(lambda: here.broadcaster.clients == count)


async def test_all_clients_get_the_same_bytes_encoded_once(
    here: Harness, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients at the same position get the same object, and each event is encoded once."""
    encoded = []
    original = here.broadcaster._serializer.wire.event
    monkeypatch.setattr(
        here.broadcaster._serializer.wire, "event", lambda event: encoded.append(event) or original(event)
    )
    connections = [connect() for _ in range(CLIENTS)]
    await joined(here, CLIENTS)
    here.record(here.ring("101"), "call.updated")
    await until(lambda: all(connection.messages for connection in connections))
    assert len({id(message) for connection in connections for message in connection.messages}) == 1
    assert [event.type for event in encoded] == ["call.ringing", "call.updated"]


async def test_the_event_loop_is_free_between_batches(here: Harness, connect: Connect) -> None:
    """One iteration of the event loop queues a round for a few clients only, however many there are."""
    connections = [connect() for _ in range(CLIENTS)]
    await joined(here, CLIENTS)
    iteration = 0
    queued: list[int] = []
    for connection in connections:
        put = connection.client.put
        connection.client.put = lambda round_, put=put: queued.append(iteration) or put(round_)  # type: ignore[method-assign, misc]
    here.ring("101")
    while len(queued) < CLIENTS:
        await asyncio.sleep(0)
        iteration += 1
    assert max(map(queued.count, queued)) <= sse._AT_ONCE < CLIENTS / 4


async def test_changes_of_one_round_are_one_message(here: Harness, connect: Connect) -> None:
    """Ten changes of one round are one write for each client: events and live calls together."""
    plain, page = connect(), connect(live_calls=True)
    await joined(here, 2)
    await until(lambda: bool(page.messages))  # all live calls
    plain_before, page_before = len(plain.messages), len(page.messages)
    for number in range(10):
        here.ring("101", f"s-{number}")
    await until(lambda: len(plain.messages) > plain_before and b"call.ringing" in page.messages[-1])
    assert plain.messages[plain_before].count(b"event: call.ringing") == 10
    message = next(message for message in page.messages[page_before:] if b"call.ringing" in message)
    assert message.count(b"event: call.ringing") == 10
    live_calls = msgspec.json.decode(message.split(b"event: board\ndata: ")[1].split(b"\n")[0])
    assert len(live_calls["calls"]) == 10


async def test_a_client_with_a_full_queue_is_disconnected(here: Harness, connect: Connect) -> None:
    """Only the client that does not read; the others are not affected."""
    stalled, quick = connect(), connect()
    await joined(here, 2)
    stalled.pause()
    for number in range(QUEUED_ROUNDS_MAX + 2):
        seen = len(quick.messages)
        here.ring("101", f"s-{number}")
        await here.broadcaster._send_round()
        await until(lambda seen=seen: len(quick.messages) > seen)  # type: ignore[misc]
    assert stalled.client._ended
    assert not quick.client._ended
    stalled._reads.set()
    await until(lambda: stalled.ended)
    assert here.broadcaster.clients == 1
    assert len(stalled.messages) == 1  # what was queued is in the outbox: the client comes back for it


async def test_a_client_that_joins_late_gets_each_event_once(here: Harness, connect: Connect) -> None:
    """Recorded before, while and after it joins, and whatever other clients have already got."""
    first = connect()
    for number in range(250):
        here.ring("101", f"s-{number}")
    late = [connect(after_seq=after) for after in (0, 100, 249)]
    for number in range(250, 300):
        here.ring("101", f"s-{number}")
        await asyncio.sleep(0)
    for connection, after in ((first, 0), *zip(late, (0, 100, 249), strict=True)):
        await until(lambda c=connection, n=300 - after: len(ids(c)) >= n)  # type: ignore[misc]
        assert ids(connection) == list(range(after + 1, 301))


def ids(connection: Connection) -> list[int]:
    lines = b"".join(connection.messages).splitlines()
    return [int(line.removeprefix(b"id: ")) for line in lines if line.startswith(b"id: ")]


def test_an_older_round_does_not_replace_newer_calls() -> None:
    """A round that was queued while the client got all live calls is older than these: only its events are new."""
    client = Client(5, live_calls=True)
    client.version = 8
    assert client._message(Round(((5, b"five"), (6, b"six")), b"fivesix", 7, b"calls")) == b"six"
    assert client._message(Round(((7, b"seven"),), b"seven", 8, b"calls")) == b"sevencalls"
    assert client._message(Round(heartbeat=True, version=8)) == b":\n\n"


async def test_an_ended_client_gets_nothing_more() -> None:
    """A stopping service ends every stream."""
    client = Client(0, live_calls=False)
    client.put(Round(((1, b"late"),), b"late"))
    client.end()
    assert [message async for message in client.messages()] == []


async def test_new_clients_take_turns_at_the_outbox(
    here: Harness, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    connections = [connect() for _ in range(CLIENTS)]
    await until(lambda: all(len(ids(connection)) == 3 for connection in connections))
    assert most <= sse._READS_MAX + 1  # and the broadcaster
