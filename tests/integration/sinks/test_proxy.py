"""The proxy that the environment names."""

import asyncio
import base64
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from pydantic import ValidationError
from pydantic_core import PydanticCustomError
from yarl import URL

from callcast.ports.sink import Delivered
from callcast.settings.proxy import Proxy, environment_proxy
from callcast.testing import delivery
from tests.integration.sinks.certificates import Certificates
from tests.integration.sinks.test_webhook import Server, opened, serving, settings

HTTPS = URL("https://hooks.example.com/calls")
NAMES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")


@pytest.fixture(autouse=True)
def no_proxy_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize(
    ("value", "proxy"),
    [
        ("http://proxy.example.com:3128", "http://proxy.example.com:3128"),
        ("proxy.example.com:3128", "http://proxy.example.com:3128"),
        ("proxy.example.com", "http://proxy.example.com"),
        ("10.1.2.3:3128", "http://10.1.2.3:3128"),
        ("[fd00::1]:3128", "http://[fd00::1]:3128"),
        ("HTTP://proxy.example.com:3128/", "http://proxy.example.com:3128/"),
        ("https://proxy.example.com:8443", "https://proxy.example.com:8443"),
        (" proxy.example.com:3128 ", "http://proxy.example.com:3128"),
        ("", None),
        (" ", None),
    ],
)
def test_what_is_written_is_understood(monkeypatch: pytest.MonkeyPatch, value: str, proxy: str | None) -> None:
    """A host with its port is an http proxy; nothing is none."""
    monkeypatch.setenv("HTTPS_PROXY", value)
    assert environment_proxy(HTTPS) == Proxy(URL(proxy) if proxy else None)
    assert environment_proxy(HTTPS.with_scheme("http")) == Proxy(), "of another variable"


def test_a_login_is_taken_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """With or without a scheme; what is percent-encoded in the address is not in the header."""
    header = {"proxy-authorization": "Basic " + base64.b64encode(b"user:p@ss").decode()}
    for value in ("http://user:p%40ss@proxy:3128", "user:p%40ss@proxy:3128"):
        monkeypatch.setenv("https_proxy", value)
        assert environment_proxy(HTTPS) == Proxy(URL("http://proxy:3128"), header)


FAULTS = [
    ("proxy.example.com:99999", "not the address of a proxy"),
    ("http://proxy.example.com:99999", "not the address of a proxy"),
    ("proxy.example.com:0", "not the address of a proxy"),
    ("http://user:secret-word@proxy:port", "not the address of a proxy"),
    ("http://", "not the address of a proxy"),
    ("http://proxy..example.com:3128", "not the address of a proxy"),
    ("http://[fd00::1", "not the address of a proxy"),
    ("socks5://user:secret-word@proxy:1080", "SOCKS"),
    ("socks4a://proxy:1080", "SOCKS"),
    ("ftp://proxy:21", "neither http nor https"),
]


@pytest.mark.parametrize(("value", "says"), FAULTS)
def test_what_cannot_be_used_is_a_fault_of_the_configuration(
    monkeypatch: pytest.MonkeyPatch, value: str, says: str
) -> None:
    """It is found when the configuration is read; the message has the variable's name and no login."""
    monkeypatch.setenv("HTTPS_PROXY", value)
    with pytest.raises(PydanticCustomError, match=says) as fault:
        environment_proxy(HTTPS)
    assert "HTTPS_PROXY" in str(fault.value)
    fix = (fault.value.context or {})["fix"]
    assert "HTTPS_PROXY" in fix
    with pytest.raises(ValidationError, match=says) as refused:
        settings(str(HTTPS), trust_env=True)
    assert "secret-word" not in f"{fault.value} {fix} {refused.value}"
    settings(str(HTTPS))


@pytest.mark.parametrize(
    ("no_proxy", "url", "excepted"),
    [
        ("*", "https://a.example.com", True),
        ("[::1]", "https://[::1]:8443", True),
        ("[::2]", "https://[::1]:8443", False),
        ("example.com", "https://example.com", True),
        ("example.com", "https://a.example.com", True),
        ("example.com", "https://an-example.com", False),
        (".example.com", "https://a.example.com", True),
        ("*.example.com", "https://a.example.com", True),
        ("a.example.com", "https://example.com", False),
        ("EXAMPLE.com, other.org", "https://a.Example.COM.", True),
        ("other.org example.com", "https://example.com", True),
        ("example.com:443", "https://example.com", True),
        ("example.com:8443", "https://example.com", False),
        ("10.0.0.0/8", "https://10.1.2.3", True),
        ("10.0.0.0/8", "https://11.1.2.3", False),
        ("10.1.2.3/8", "https://10.9.9.9", True),
        ("10.0.0.0/8", "https://ten.example.com", False),
        ("10.1.2.3", "https://10.1.2.3", True),
        ("10.1.2.3:8443", "https://10.1.2.3:8443", True),
        ("0.1.2.3", "https://10.1.2.3", False),
        ("fd00::/8", "https://[fd00::1]", True),
        ("fd00::1", "https://[fd00:0::1]", True),
        ("[fd00::1]:8443", "https://[fd00::1]:8443", True),
        ("fd00::/8", "https://10.1.2.3", False),
        (",, ,", "https://example.com", False),
    ],
)
def test_no_proxy(monkeypatch: pytest.MonkeyPatch, no_proxy: str, url: str, excepted: bool) -> None:
    """Domains with all below them, addresses, networks, each with or without a port."""
    monkeypatch.setenv("HTTPS_PROXY", "proxy:3128")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert (environment_proxy(URL(url)).url is None) is excepted


def test_a_network_that_is_none_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a host would be reached through the proxy that must not be."""
    monkeypatch.setenv("HTTPS_PROXY", "proxy:3128")
    monkeypatch.setenv("NO_PROXY", "10.0.0.0/33")
    with pytest.raises(ValidationError, match=re.escape("NO_PROXY contains 10.0.0.0/33")):
        settings(str(HTTPS), trust_env=True)


@asynccontextmanager
async def tunnel(tls: Any = None) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A proxy that connects to any requested address."""
    requests: list[bytes] = []

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        requests.append(head)
        host, _, port = head.split(b" ")[1].decode().rpartition(":")
        there = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(pipe(reader, there[1]), pipe(there[0], writer))

    listener = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    async with listener:
        yield listener.sockets[0].getsockname()[1], requests


@pytest.mark.parametrize("scheme", ["", "http://", "https://"])
async def test_events_go_through_a_tunnel(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    """Also through a proxy with TLS; the tunnel is kept and used again."""
    context = certificates.server_context() if scheme == "https://" else None
    async with serving(certificates.server_context()) as server, tunnel(context) as (port, requests):
        monkeypatch.setenv("HTTPS_PROXY", f"{scheme}localhost:{port}")
        async with opened(server.url, trust_env=True, tls_ca=certificates.ca) as sink:
            for number in range(2):
                assert await sink.send(delivery(number)) == Delivered()
    assert len(requests) == 1
    assert len(server.requests) == 2


async def test_a_plain_request_goes_through_a_proxy_without_a_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    """To a receiver without TLS."""
    async with serving() as proxy, serving() as server:
        monkeypatch.setenv("HTTP_PROXY", proxy.url.removeprefix("http://").removesuffix("/hook"))
        async with opened(server.url, trust_env=True) as sink:
            assert await sink.send(delivery()) == Delivered()
        assert seen(proxy) == 1
        assert seen(server) == 0


def seen(server: Server) -> int:
    return len(server.requests)
