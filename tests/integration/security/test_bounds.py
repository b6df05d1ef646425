"""The HTTP side's bounds: sizes, numbers and times of what a client may send before it is authenticated."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import uvloop

from callcast.web import server
from tests.integration.web.http_side import Harness, harness

# The service's own loop, whose transports are of other classes, and the one of the other tests.
LOOP_FACTORIES = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
LIMIT_S = 30.0  # in which a closed connection is noticed on any machine


@pytest.fixture
async def here() -> AsyncIterator[Harness]:
    async with harness(token="s3cret-and-long") as made:
        yield made


async def connect(made: Harness) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", int(made.url.rpartition(":")[2]))


async def answer(made: Harness, request: bytes) -> bytes:
    """The status line of what comes back."""
    reader, writer = await connect(made)
    writer.write(request)
    async with asyncio.timeout(LIMIT_S):
        line = await reader.readline()
    writer.close()
    return line


async def ended(reader: asyncio.StreamReader) -> bool:
    async with asyncio.timeout(LIMIT_S):
        try:
            while await reader.read(65536):
                pass
        except ConnectionError:
            pass
    return True


def request(*lines: str, method: str = "GET", path: str = "/healthz") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *lines, "", ""]).encode()


@pytest.mark.parametrize(
    "sent",
    [
        request(*(f"X-{number}: 1" for number in range(200))),
        request(f"X-Long: {'a' * 20_000}"),
        request(path="/" + "a" * 20_000),
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n no: header\r\n\r\n",
        request("Content-Length: 5", "Transfer-Encoding: chunked"),
        request("Content-Length: -1", method="POST"),
    ],
    ids=["headers", "a header", "the path", "folded", "two lengths", "a length"],
)
async def test_too_much_or_too_odd_is_refused(here: Harness, caplog: pytest.LogCaptureFixture, sent: bytes) -> None:
    """400 for 200 headers, for a header of 20 kB and for ambiguous requests; none of them fills the log."""
    assert b" 200 " in await answer(here, request())
    assert b" 400 " in await answer(here, sent)
    assert caplog.text == ""


async def test_a_token_in_a_broken_request_is_not_logged(here: Harness, caplog: pytest.LogCaptureFixture) -> None:
    """aiohttp shows a header that it cannot read with the trace; a fault of ours in a handler still leaves one."""
    assert b" 400 " in await answer(here, request("Authorization: Bearer t0ken-canary\0"))
    assert "t0ken-canary" not in caplog.text

    def fails() -> list[str]:
        raise RuntimeError("a fault of ours")

    here.server._health.reasons = fails  # type: ignore[method-assign]
    assert b" 500 " in await answer(here, request(path="/readyz"))
    assert "a fault of ours" in caplog.text


async def test_a_body_is_bounded_however_it_comes(here: Harness) -> None:
    """In chunks too, where no length says so beforehand."""
    here.server._access.token = ""
    chunk = b"8000\r\n" + b" " * 0x8000 + b"\r\n"
    head = request("Transfer-Encoding: chunked", "Content-Type: application/json", method="POST", path="/-/reload")
    assert (await answer(here, head + chunk * 4 + b"0\r\n\r\n")).startswith(b"HTTP/1.1 413 ")
    assert here.reloads == 0


async def test_a_body_that_does_not_come_is_not_waited_for(here: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """408, and nothing was reloaded."""
    monkeypatch.setattr(server, "BODY_S", 0.05)
    here.server._access.token = ""
    head = request("Content-Length: 100", "Content-Type: application/json", method="POST", path="/-/reload")
    assert (await answer(here, head)).startswith(b"HTTP/1.1 408 ")
    assert here.reloads == 0


@pytest.mark.parametrize("sent", [b"", b"GET /hea", request()[:-2], request()], ids=["nothing", "a", "most", "whole"])
async def test_an_idle_connection_is_closed(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    """A client that sends nothing, sends a request byte by byte, or sends nothing after one."""
    monkeypatch.setattr(server, "IDLE_S", 0.1)
    async with harness() as made:
        reader, writer = await connect(made)
        writer.write(sent)
        assert await ended(reader)
        writer.close()


async def test_connections_are_bounded_and_others_come_in_again(here: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """One too many is closed at once, and who is in stays; when one leaves, there is room."""
    monkeypatch.setattr(server, "CONNECTIONS_MAX", 3)
    inside = [await connect(here) for _ in range(3)]
    for reader, writer in inside:
        writer.write(request())
        assert b" 200 " in await reader.readline()
    outside, _ = await connect(here)
    assert await ended(outside)
    for reader, writer in inside:
        writer.write(request())
        await reader.readuntil(b"}")
    inside[0][1].close()
    found: list[bytes] = []

    async def ask() -> None:
        while not found:
            line = await answer(here, request())
            if line:
                found.append(line)

    async with asyncio.timeout(LIMIT_S):
        await ask()
    assert b" 200 " in found[0]
    for _, writer in inside:
        writer.close()


def test_there_is_room_for_all_readers_and_for_the_rest() -> None:
    """The readers of /api/events leave connections for other clients, and all clients leave files for the service."""
    assert server.READERS_MAX + 50 <= server.CONNECTIONS_MAX <= 1024 - 300
