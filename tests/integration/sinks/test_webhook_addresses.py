"""A webhook's name with several addresses, and with one that changes."""

import asyncio
import socket
from collections.abc import Callable, Iterator

import pytest

from callcast.ports.connectivity import ConnectivityRequest
from callcast.ports.sink import Delivered, Retry
from callcast.testing import RealClock, delivery
from tests.integration.sinks.test_webhook import opened, settings
from tests.integration.sinks.test_webhook_answers import FINE, RawReceiver, answers_with
from tests.ports import free_port

NAME = "receiver.example"
Points = Callable[..., None]


@pytest.fixture
def points(monkeypatch: pytest.MonkeyPatch) -> Points:
    """`points("127.0.0.2")` makes the name resolve to these addresses; `points.lookups` counts."""
    real = socket.getaddrinfo

    def point(*addresses: str) -> None:
        def look_up(host: str, *rest: object, **more: object) -> list[object]:
            hosts = addresses if host == NAME else (host,)
            return [found for one in hosts for found in real(one, *rest, **more)]  # type: ignore[arg-type]

        monkeypatch.setattr(socket, "getaddrinfo", look_up)

    return point


@pytest.fixture
def unresponsive() -> Iterator[tuple[str, int]]:
    """An address that does not respond to connections, because its accept queue is full."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.3", free_port()))
        listener.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
        yield listener.getsockname()
        for one in waiting:
            one.close()


def url_of(port: int) -> str:
    return f"http://{NAME}:{port}/"


async def test_an_unresponsive_address_does_not_block_another(points: Points, unresponsive: tuple[str, int]) -> None:
    """The event goes to the second address, and so does the connectivity check."""
    silent, port = unresponsive
    points(silent, "127.0.0.1")
    receiver = RawReceiver(answers_with(FINE))
    async with receiver.serve(port=port), opened(url_of(port), timeout_s=600, allow_plaintext=True) as sink:
        assert await sink.send(delivery()) == Delivered()
        question = ConnectivityRequest(name="crm", version="1.2.3", clock=RealClock())
        result = await settings(url_of(port), timeout_s=600, allow_plaintext=True).check_connectivity(question)
    assert result.status == "good"


async def test_a_refused_address_is_looked_up_again(points: Points) -> None:
    """The receiver moves to another address: the next event follows it in the same attempt."""
    points("127.0.0.1")
    first, second = RawReceiver(answers_with(FINE, closes=True)), RawReceiver(answers_with(FINE))
    async with first.serve(), opened(url_of(first.port), allow_plaintext=True) as sink:
        assert await sink.send(delivery()) == Delivered()
        points("127.0.0.2")
        first.stop()
        async with second.serve(host="127.0.0.2", port=first.port):
            assert await sink.send(delivery(1)) == Delivered()
    assert second.ids == [delivery(1).event.id]


async def test_a_receiver_that_is_down_is_tried_once(points: Points) -> None:
    """What was looked up just now is not looked up again: the attempt has failed."""
    points("127.0.0.1")
    gone = RawReceiver(answers_with(FINE))
    async with gone.serve():
        gone.stop()
    async with opened(url_of(gone.port), allow_plaintext=True) as sink:
        for number in range(3):
            outcome = await sink.send(delivery(number))
            assert outcome == Retry("connect", f"http://{NAME}: connection refused")
        outcomes = await asyncio.gather(*(sink.send(delivery(number)) for number in range(8)))
    assert {outcome.reason for outcome in outcomes if isinstance(outcome, Retry)} == {"connect"}
