"""`trust_env` of a source: the environment's proxy between callcast and the platform."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import ClientSession
from pydantic import ValidationError

from callcast.ports.upstream import PollFailed
from callcast.ringcentral.settings import SourceSettings
from tests.clock import TurnedClock
from tests.unit.ringcentral.recording import RecordedTelemetry, make_client

REFUSAL = b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n"
ACCESS = {"client_id": "a", "client_secret": "b", "jwt": "c"}


class RefusingProxy:
    def __init__(self) -> None:
        self.heads: list[bytes] = []
        self.port = 0

    @asynccontextmanager
    async def listening(self) -> AsyncIterator["RefusingProxy"]:
        server = await asyncio.start_server(self._refuse, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        async with server:
            yield self

    async def _refuse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(REFUSAL)
        writer.close()


@pytest.fixture(autouse=True)
def no_proxy_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


async def test_requests_go_through_the_proxy_and_its_login_to_nothing_else(
    session: ClientSession, telemetry: RecordedTelemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets the request for a tunnel with the login; the error of a refusal has no login, and has the next step."""
    async with RefusingProxy().listening() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:password@127.0.0.1:{proxy.port}")
        client = make_client(session, TurnedClock(), telemetry, server="https://platform.invalid", trust_env=True)
        with pytest.raises(PollFailed) as failed:
            await client.identify()
    assert b"CONNECT platform.invalid:443" in proxy.heads[0]
    assert base64.b64encode(b"user:password") in proxy.heads[0]
    assert failed.value.reason == "network"
    assert "the proxy from the environment answered 407" in failed.value.cause
    assert "password" not in failed.value.detail


async def test_a_proxy_for_plain_http_gets_its_login_with_each_request(
    session: ClientSession, telemetry: RecordedTelemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no tunnel there; the platform's own authorization stays what it is."""
    async with RefusingProxy().listening() as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://user:password@127.0.0.1:{proxy.port}")
        client = make_client(session, TurnedClock(), telemetry, server="http://localhost:1", trust_env=True)
        with pytest.raises(PollFailed):
            await client.identify()
    head = proxy.heads[0].lower()
    assert b"post http://localhost:1/restapi/oauth/token" in head
    assert b"proxy-authorization: basic" in head


async def test_without_trust_env_and_for_excepted_hosts_there_is_no_proxy(
    session: ClientSession, telemetry: RecordedTelemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment alone says nothing, and NO_PROXY counts."""
    async with RefusingProxy().listening() as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
        direct = make_client(session, TurnedClock(), telemetry, server="http://localhost:1")
        with pytest.raises(PollFailed):
            await direct.identify()
        monkeypatch.setenv("NO_PROXY", "localhost")
        excepted = make_client(session, TurnedClock(), telemetry, server="http://localhost:1", trust_env=True)
        with pytest.raises(PollFailed):
            await excepted.identify()
        assert proxy.heads == []


async def test_a_proxy_that_cannot_be_reached_is_named_as_the_cause(
    session: ClientSession, telemetry: RecordedTelemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not the platform that is down."""
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    client = make_client(session, TurnedClock(), telemetry, server="https://platform.invalid", trust_env=True)
    with pytest.raises(PollFailed) as failed:
        await client.identify()
    assert "the proxy from the environment is unreachable" in failed.value.cause


def test_a_proxy_that_cannot_be_used_is_a_fault_of_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Found when the configuration is read, only where the environment is trusted."""
    monkeypatch.setenv("HTTPS_PROXY", "socks5://user:secret-word@proxy:1080")
    SourceSettings.model_validate(ACCESS)
    with pytest.raises(ValidationError, match="SOCKS") as fault:
        SourceSettings.model_validate({**ACCESS, "trust_env": True})
    assert "secret-word" not in str(fault.value)
