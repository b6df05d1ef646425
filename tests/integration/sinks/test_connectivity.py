"""The connectivity checks of sinks: they leave nothing behind, and each failure comes with a fix."""

import asyncio
import json
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cloudevents.v1.http import from_http
from standardwebhooks import Webhook

from callcast.ports.connectivity import ConnectivityRequest, ConnectivityResult
from callcast.ports.sink import Delivered, Outcome, Retry
from callcast.settings.secret import Secret
from callcast.sinks import SinkSettings, mqtt, stdout, webhook
from callcast.testing import RealClock, context, delivery, until
from tests.integration.sinks.brokers import Broker, iotcore, mosquitto
from tests.integration.sinks.certificates import Certificates
from tests.integration.sinks.remote_sides import HEADER_TOKEN, SIGNING_SECRET, URL_TOKEN, HttpRemoteSide, Watcher
from tests.ports import free_port

PASSWORD = "password-of-the-broker"


async def checked(settings: SinkSettings, *, send: bool = False) -> ConnectivityResult:
    result = await settings.check_connectivity(
        ConnectivityRequest(name="crm", version="1.2.3", clock=RealClock(), send=send)
    )
    assert result.status == "good" or result.status == "unasked" or result.fix, "a failure without a fix"
    for secret in (SIGNING_SECRET, URL_TOKEN, HEADER_TOKEN, PASSWORD):
        assert secret not in repr(result)
    return result


class Listener:
    """Takes connections and notes what they say."""

    def __init__(self) -> None:
        self.port = 0
        self.received: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.received.append(await reader.read())
        except OSError:  # a client that does not trust the certificate disconnects
            self.received.append(b"")
        finally:
            writer.close()


@asynccontextmanager
async def listener(tls: ssl.SSLContext | None = None) -> AsyncIterator[Listener]:
    kept = Listener()
    server = await asyncio.start_server(kept.serve, "127.0.0.1", 0, ssl=tls)
    kept.port = server.sockets[0].getsockname()[1]
    async with server:
        yield kept


def hook(url: str, **settings: Any) -> webhook.Settings:
    return webhook.Settings(
        url=Secret(f"{url}/hooks/{URL_TOKEN}"),
        secrets=(Secret(SIGNING_SECRET),),
        headers={"x-team": Secret(HEADER_TOKEN)},
        timeout_s=5,
        **settings,
    )


@asynccontextmanager
async def receiver(**modes: Any) -> AsyncIterator[HttpRemoteSide]:
    remote_side = HttpRemoteSide()
    for name, value in modes.items():
        setattr(remote_side, name, value)
    await remote_side.become("accepting")
    try:
        yield remote_side
    finally:
        await remote_side.become("down")


# Webhook, without --send


async def test_the_check_connects_to_a_webhook_and_sends_nothing() -> None:
    """A connection, and not a byte on it."""
    async with listener() as remote_side:
        result = await checked(hook(f"http://127.0.0.1:{remote_side.port}"))
        await until(lambda: bool(remote_side.received))
    assert (result.status, remote_side.received) == ("good", [b""])
    assert "--send" in result.detail


async def test_a_webhooks_certificate_that_is_trusted(certificates: Certificates) -> None:
    """The TLS handshake uses the authorities of the sink; no application data is sent."""
    async with listener(certificates.server_context()) as remote_side:
        result = await checked(hook(f"https://localhost:{remote_side.port}", tls_ca=certificates.ca))
        await until(lambda: bool(remote_side.received))
    assert (result.status, remote_side.received) == ("good", [b""])


async def test_a_webhooks_certificate_that_is_not_trusted(certificates: Certificates) -> None:
    """The result has the library's own words, and names the key that fixes it."""
    async with listener(certificates.server_context()) as remote_side:
        result = await checked(hook(f"https://localhost:{remote_side.port}"))
    assert result.status == "failed"
    assert "https://localhost: unable to get local issuer certificate" in result.detail
    assert "tls_ca" in result.fix


async def test_a_remote_side_that_requires_a_client_certificate(tmp_path: Path, certificates: Certificates) -> None:
    """With TLS 1.3 the rejection comes after the handshake; it is detected with an alert and without one."""
    pair = {"tls_cert": certificates.client, "tls_key": certificates.client_key}
    lines = [f"certfile {certificates.server}", f"keyfile {certificates.server_key}", f"cafile {certificates.ca}"]
    async with listener(certificates.server_context(ask_for_client=True)) as silent:
        with mosquitto(tmp_path, *lines, "require_certificate true") as alerting:
            for port in (silent.port, alerting.port):
                url = f"https://localhost:{port}"
                without = await checked(hook(url, tls_ca=certificates.ca))
                shown = await checked(hook(url, tls_ca=certificates.ca, **pair))
                assert (without.status, shown.status) == ("failed", "good")
                assert "tls_cert" in without.fix


async def test_a_webhooks_certificate_for_another_name(certificates: Certificates, monkeypatch: Any) -> None:
    """The name in url is the one that must stand in the certificate."""
    async with listener(certificates.server_context()) as remote_side:
        elsewhere(monkeypatch, "other.example")
        result = await checked(hook(f"https://other.example:{remote_side.port}", tls_ca=certificates.ca))
    assert result.status == "failed"
    assert result.fix == "use a host name in url that the certificate is valid for"


def elsewhere(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Resolve a name to this machine."""
    real = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *rest, **more: real("127.0.0.1" if host == name else host, *rest, **more)
    )


@pytest.mark.parametrize("send", [False, True])
async def test_an_https_url_for_a_webhook_without_tls(send: bool) -> None:
    """The fix names the scheme."""
    async with receiver() as remote_side:
        result = await checked(hook(f"https://127.0.0.1:{remote_side.port}"), send=send)
    assert result.status == "failed"
    assert "scheme" in result.fix


@pytest.mark.parametrize("send", [False, True])
async def test_no_webhook_there(send: bool) -> None:
    """The result has the system's own words, without an address."""
    result = await checked(hook(f"http://127.0.0.1:{free_port()}"), send=send)
    assert result.status == "failed"
    assert result.detail == "http://127.0.0.1: connection refused"
    assert "the service there is running" in result.fix


@pytest.mark.parametrize("send", [False, True])
async def test_an_unknown_host(send: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A typing mistake in the host, most of the time."""

    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    result = await checked(hook("https://crm.example.com"), send=send)
    assert result.status == "failed"
    assert "cannot be resolved" in result.detail
    assert "check the host in url" in result.fix


@pytest.mark.parametrize(
    "settings",
    [
        webhook.Settings(url=Secret("https://a.example.com"), timeout_s=0.2),
        mqtt.Settings(url="wss://a.example.com", timeout_s=0.2),
    ],
)
def test_a_hanging_name_server_does_not_delay_the_end(settings: SinkSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server that does not answer, and the query cannot be cancelled."""
    ended, late = threading.Event(), list[str]()

    def hangs(host: str, *_: object, **__: object) -> None:
        if not ended.wait(20):
            late.append(host)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    async def send() -> Outcome:
        async with settings.open(context()) as sink:
            return await sink.send(delivery())

    monkeypatch.setattr(socket, "getaddrinfo", hangs)
    outcome = asyncio.run(send())
    ended.set()
    assert not late
    assert isinstance(outcome, Retry)
    assert outcome.reason == "timeout"


async def test_a_webhook_behind_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy is what is reached; what it leads to is seen with --send only."""
    async with listener() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("NO_PROXY", "")
        result = await checked(hook("https://crm.example.com", trust_env=True))
        await until(lambda: bool(proxy.received))
    assert result.status == "good"
    assert "the proxy 127.0.0.1" in result.detail


# Webhook, with a request


@pytest.mark.parametrize("form", ["cloudevents", "standard"])
async def test_a_check_is_signed_and_shaped_as_an_event(form: str) -> None:
    """The official packages verify it and read it; its type says that it is no event; two have two ids."""
    async with receiver() as remote_side:
        for _ in range(2):
            result = await checked(hook(f"http://127.0.0.1:{remote_side.port}", format=form), send=True)
            assert result == ConnectivityResult("good", "http://127.0.0.1 accepted a callcast.check")
            await asyncio.sleep(0.002)
    request, body = remote_side.requests[0], remote_side.bodies[0]
    verified = Webhook(SIGNING_SECRET).verify(body, dict(request.headers))
    assert (verified["type"], verified["data"]) == ("callcast.check", {"sink": "crm"})
    assert (request.headers["x-team"], request.headers["x-callcast-attempt"]) == (HEADER_TOKEN, "1")
    if form == "cloudevents":
        event = from_http(dict(request.headers), body)
        assert event["id"] == request.headers["webhook-id"]
        assert event["source"] == "/callcast"
    else:
        assert set(verified) == {"type", "timestamp", "data"}
    ids = set(remote_side.received())
    assert len(ids) == 2
    assert all(one.startswith("evt_check") and "." not in one for one in ids)


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        (302, "redirects to"),
        (400, "types that it does not know"),
        (401, "check secrets and headers"),
        (403, "check secrets and headers"),
        (404, "check the path of url"),
        (410, "set url to it"),
        (415, "check format"),
        (429, "try again later"),
        (500, "check its log"),
        (503, "check its log"),
    ],
)
async def test_a_check_that_is_refused(status: int, remedy: str) -> None:
    """Each answer has its remedy."""
    async with receiver(accepts_with=status) as remote_side:
        result = await checked(hook(f"http://127.0.0.1:{remote_side.port}"), send=True)
    assert (result.status, result.detail) == ("failed", f"http://127.0.0.1: answered {status}")
    assert remedy in result.fix


async def test_a_check_over_tls_that_is_not_trusted(certificates: Certificates) -> None:
    """The same result as without a request."""
    async with listener(certificates.server_context()) as remote_side:
        result = await checked(hook(f"https://localhost:{remote_side.port}"), send=True)
    assert result.status == "failed"
    assert "tls_ca" in result.fix


# MQTT


def broker_settings(broker: Broker | int, **settings: Any) -> mqtt.Settings:
    port = broker if isinstance(broker, int) else broker.port
    return mqtt.Settings(**{"url": f"mqtt://127.0.0.1:{port}", "timeout_s": 5, **settings})


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Broker]:
    """mosquitto that requires a login."""
    passwords = tmp_path / "passwords"
    # `callcast` and the password above, as mosquitto_passwd writes it.
    passwords.write_text(f"callcast:{mosquitto_hash(PASSWORD)}\n")
    passwords.chmod(0o600)
    with mosquitto(tmp_path, f"password_file {passwords}", anonymous=False) as broker:
        yield broker


def mosquitto_hash(password: str) -> str:
    import base64
    import hashlib

    salt = b"twelve bytes"
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, 101)
    return f"$7$101${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"


LOGINS: list[tuple[Mapping[str, Any], str]] = [
    ({"username": "callcast", "password": Secret(PASSWORD)}, "good"),
    ({"username": "callcast", "password": Secret("wrong")}, "failed"),
    ({}, "failed"),
]


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
async def test_the_login_is_tried(locked: Broker, protocol: str) -> None:
    """The right password is accepted; a wrong one, and none, fail with the keys to check."""
    for login, verdict in LOGINS:
        result = await checked(broker_settings(locked, protocol=protocol, **login))
        assert result.status == verdict, result
        if verdict == "failed":
            assert "check username and password" in result.fix


@pytest.mark.parametrize("client_id", ["", "wallboard-1"])
async def test_a_check_leaves_no_trace(tmp_path: Path, client_id: str) -> None:
    """Nothing is published, no will is left, and the service's own connection stays, whatever its client id."""
    with mosquitto(tmp_path) as broker:
        settings = broker_settings(broker, client_id=client_id)
        async with settings.open(context()) as sink:
            assert await sink.send(delivery()) == Delivered()
            watcher = Watcher(broker.port, "5", "#")
            try:
                await until(watcher.ready)
                seen = {topic for topic in watcher.latest() if topic.endswith("/status")}
                before = len([one for one in watcher.seen if not one.retain])
                assert (await checked(settings)).status == "good"
                assert await sink.send(delivery(1)) == Delivered()
                await until(lambda: len([one for one in watcher.seen if not one.retain]) > before)
                after = [one for one in watcher.seen[-1:] if not one.retain]
                assert json.loads(after[0].payload)["id"] == delivery(1).event.id
                assert {topic for topic in watcher.latest() if topic.endswith("/status")} >= seen
                assert json.loads(watcher.latest()["callcast/status"])["state"] == "online"
            finally:
                watcher.close()


async def test_no_broker_there() -> None:
    """The result has the system's own words, without an address."""
    result = await checked(broker_settings(free_port()))
    assert (result.status, result.detail) == ("failed", "mqtt://127.0.0.1: connection refused")
    assert "the service there is running" in result.fix


async def test_a_broker_that_is_not_trusted(tmp_path: Path, certificates: Certificates) -> None:
    """The fix names tls_ca; with it, the check is good."""
    lines = (f"certfile {certificates.server}", f"keyfile {certificates.server_key}")
    with mosquitto(tmp_path, *lines) as broker:
        url = f"mqtts://localhost:{broker.port}"
        distrusted = await checked(broker_settings(broker, url=url))
        trusted = await checked(broker_settings(broker, url=url, tls_ca=certificates.ca))
        plain = await checked(broker_settings(broker, timeout_s=2))
    assert (distrusted.status, trusted.status) == ("failed", "good")
    assert "tls_ca" in distrusted.fix
    assert plain.status == "failed"
    assert "mqtts" in plain.fix


async def test_a_broker_of_another_protocol(tmp_path: Path) -> None:
    """A broker for 3.1.1 only reports that or closes the connection; either way the fix names the key to set."""
    with iotcore(tmp_path, "3.1.1") as broker:
        old = await checked(broker_settings(broker, timeout_s=2))
        right = await checked(broker_settings(broker, protocol="3.1.1"))
    assert (old.status, right.status) == ("failed", "good")
    assert 'protocol = "3.1.1"' in old.fix


async def test_what_answers_is_no_broker() -> None:
    """A web server, for example."""
    app_runner = web.AppRunner(web.Application(), access_log=None)
    await app_runner.setup()
    try:
        site = web.TCPSite(app_runner, "127.0.0.1", 0)
        await site.start()
        result = await checked(broker_settings(app_runner.addresses[0][1]))
    finally:
        await app_runner.cleanup()
    assert result.status == "failed"
    assert "url" in result.fix


# Others


async def test_stdout_needs_no_connection() -> None:
    """There is nothing to check, and that is no failure."""
    assert (await checked(stdout.Settings())).status == "unasked"


async def test_a_sink_without_a_connectivity_check() -> None:
    """A third-party sink without a check is reported as skipped."""

    class Quiet(SinkSettings):
        type: str = "quiet"

        def open(self, _context: object, /) -> Any:
            raise AssertionError("a connectivity check opens no sink")

    result = await checked(Quiet())
    assert (result.status, result.detail) == ("unasked", "sinks of type quiet have no connectivity check")
