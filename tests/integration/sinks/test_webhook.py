"""What is special to the webhook sink: signatures, what an answer means, the wire, TLS."""

import asyncio
import base64
import json
import os
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp import web
from cloudevents.v1.http import from_http
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from pydantic import ValidationError
from standardwebhooks import Webhook, WebhookVerificationError

from callcast.calls.model import Party
from callcast.formats.cloudevents import Wire
from callcast.ports.sink import Delivered, Outcome, Rejected, Retry, Sink
from callcast.settings.secret import Secret
from callcast.sinks.webhook import Settings, outcome_of
from callcast.sinks.webhook.posting import RESPONSE_BYTES_MAX, Response
from callcast.testing import RealClock, context, delivery, event
from tests import TESTS
from tests.clock import TurnedClock
from tests.integration.sinks.certificates import Certificates
from tests.ports import free_port

OLD = "whsec_" + base64.b64encode(b"o" * 24).decode()
NEW = "whsec_" + base64.b64encode(b"n" * 64).decode()

NODE = TESTS / "node"

Handler = Callable[[web.Request], Any]


class Server:
    """Notes requests; answers as `handler` says, 200 otherwise."""

    def __init__(self) -> None:
        self.requests: list[web.Request] = []
        self.bodies: list[bytes] = []
        self.connections: set[object] = set()
        self.handler: Handler = lambda _request: web.Response()
        self.url = ""

    async def take(self, request: web.Request) -> web.StreamResponse:
        self.bodies.append(await request.read())
        self.requests.append(request)
        self.connections.add(request.transport)
        answer = self.handler(request)
        response: web.StreamResponse = await answer if asyncio.iscoroutine(answer) else answer
        return response

    def answers(self, status: int, **headers: str) -> None:
        self.handler = lambda _request: web.Response(
            status=status, headers={k.replace("_", "-"): v for k, v in headers.items()}
        )


@asynccontextmanager
async def serving(context: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    server, port = Server(), free_port()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.take)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, ssl_context=context).start()
    server.url = f"{'https' if context else 'http'}://127.0.0.1:{port}/hook"
    yield server
    await runner.cleanup()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving() as one:
        yield one


def settings(url: str, **keys: Any) -> Settings:
    return Settings.model_validate({"type": "webhook", "url": url, "timeout_s": 5, **keys})


@asynccontextmanager
async def opened(url: str, *, wire: Wire | None = None, clock: Any = None, **keys: Any) -> AsyncIterator[Sink]:
    here = structs.replace(context(), wire=wire or Wire(), clock=clock or RealClock(), version="1.2.3")
    async with settings(url, **keys).open(here) as sink:
        yield sink


async def sent(url: str, **keys: Any) -> Outcome:
    async with opened(url, **keys) as sink:
        return await sink.send(delivery())


# The wire


async def test_a_request_is_what_the_contract_says(server: Server) -> None:
    """Method, headers and body, with the attempt's number."""
    async with opened(server.url, headers={"X-Team": "support"}) as sink:
        assert await sink.send(delivery(3, attempt=7)) == Delivered()
    (request,), (body,) = server.requests, server.bodies
    assert request.method == "POST"
    assert request.headers["content-type"] == "application/cloudevents+json; charset=utf-8"
    assert request.headers["user-agent"] == "callcast/1.2.3"
    assert request.headers["x-callcast-attempt"] == "7"
    assert request.headers["webhook-id"] == event(3).id
    assert request.headers["x-team"] == "support"
    assert "webhook-signature" not in request.headers
    assert body == Wire().event(event(3))


async def test_the_official_packages_verify_and_parse(server: Server) -> None:
    """The Standard Webhooks package accepts the signature, the CloudEvents SDK the event."""
    assert await sent(server.url, secrets=[NEW]) == Delivered()
    headers = dict(server.requests[0].headers)
    parsed = from_http(headers, Webhook(NEW).verify(server.bodies[0], headers, json_parse=False) or server.bodies[0])
    assert parsed["id"] == event().id
    assert parsed["type"] == "call.ringing"
    assert parsed["subject"] == event().call.call_id
    assert parsed.data["from"]["number"] == "+16504306662"


async def test_while_rotating_both_secrets_verify(server: Server) -> None:
    """Two secrets make two signatures, the first secret's first; a third secret verifies neither."""
    assert await sent(server.url, secrets=[NEW, OLD]) == Delivered()
    headers, body = dict(server.requests[0].headers), server.bodies[0]
    for secret in (NEW, OLD):
        Webhook(secret).verify(body, headers)
    first, _ = headers["webhook-signature"].split(" ")
    Webhook(NEW).verify(body, headers | {"webhook-signature": first})
    with pytest.raises(WebhookVerificationError):
        Webhook("whsec_" + base64.b64encode(b"x" * 24).decode()).verify(body, headers)


def verified_in_node(*webhooks: Mapping[str, Any]) -> list[bool]:
    """What the official package for JavaScript says; without it the test skips on a laptop and fails under CI."""
    program = shutil.which("node")
    if program is None or not (NODE / "node_modules/standardwebhooks").exists():
        missing = (
            "node is not installed" if program is None else "tests/node has no packages: npm ci --prefix tests/node"
        )
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    done = subprocess.run(
        [program, str(NODE / "verify_webhooks.mjs")],
        input=json.dumps(webhooks),
        capture_output=True,
        text=True,
        check=True,
    )
    accepted: list[bool] = json.loads(done.stdout)
    return accepted


@pytest.mark.parametrize("format_", ["cloudevents", "standard"])
async def test_the_official_package_for_javascript_verifies_too(server: Server, format_: str) -> None:
    """Both secrets of a rotation, either body, dead letters of any language; not a third secret, nor a changed body."""
    named = structs.replace(event().call, from_party=Party(number="+16504306662", name="Zoë 渡辺 🙂"))
    async with opened(server.url, secrets=[NEW, OLD], format=format_) as sink:
        await sink.send(delivery(of=structs.replace(event(), call=named)))
    headers, body = {name.lower(): text for name, text in server.requests[0].headers.items()}, server.bodies[0].decode()
    webhook = {"secret": NEW, "headers": headers, "body": body}
    third = "whsec_" + base64.b64encode(b"x" * 24).decode()
    assert verified_in_node(
        webhook,
        webhook | {"secret": OLD},
        webhook | {"secret": third},
        webhook | {"body": body.replace("Zoë", "Zoe")},
        webhook | {"headers": headers | {"webhook-id": "evt_another"}},
    ) == [True, True, False, False, False]


async def test_each_attempt_is_signed_anew(server: Server) -> None:
    """An attempt ten minutes later carries its own time, by the wall's clock, and verifies with it."""
    clock = TurnedClock(datetime.now(UTC) - timedelta(minutes=10))
    async with opened(server.url, clock=clock, secrets=[NEW]) as sink:
        await sink.send(delivery())
        clock.wall_offset = timedelta(minutes=10)
        await sink.send(delivery(attempt=2))
    early, late = (dict(request.headers) for request in server.requests)
    assert int(late["webhook-timestamp"]) - int(early["webhook-timestamp"]) == 600
    Webhook(NEW).verify(server.bodies[1], late)
    with pytest.raises(WebhookVerificationError):
        Webhook(NEW).verify(server.bodies[0], early)


async def test_numbers_are_redacted_before_signing(server: Server) -> None:
    """The signature is over what is sent, and what is sent holds no number."""
    assert await sent(server.url, secrets=[NEW], wire=Wire("last4")) == Delivered()
    Webhook(NEW).verify(server.bodies[0], dict(server.requests[0].headers))
    assert b"16504306662" not in server.bodies[0]
    assert json.loads(server.bodies[0])["data"]["from"]["number"] == "***6662"


async def test_the_standard_format_has_its_own_body_and_type(server: Server) -> None:
    """`format = "standard"`: type, timestamp and data, as plain JSON."""
    assert await sent(server.url, format="standard") == Delivered()
    assert server.requests[0].headers["content-type"] == "application/json"
    assert set(json.loads(server.bodies[0])) == {"type", "timestamp", "data"}


# What an answer means

ANSWERS: Sequence[tuple[int, Outcome]] = [
    *((status, Delivered()) for status in (200, 201, 202, 204, 299)),
    *((status, Rejected(f"http_{status}", f"answered {status}")) for status in (413, 415)),
    *((status, Rejected(f"http_{status}", f"answered {status}", unless_alone=True)) for status in (400, 422)),
    (410, Retry("gone", "answered 410", gone=True)),
    *((status, Retry("redirect", f"answered {status}")) for status in (300, 301, 302, 303, 304, 307, 308)),
    *(
        (s, Retry(f"http_{s}", f"answered {s}"))
        for s in (401, 403, 404, 405, 408, 425, 429, 451, 500, 502, 503, 504, 599)
    ),
]


@pytest.mark.parametrize(("status", "outcome"), ANSWERS)
async def test_the_status_decides(server: Server, status: int, outcome: Outcome) -> None:
    """Each status, over a real connection, has its outcome; the status is kept for `explain`, also of a success."""
    server.answers(status)
    found = await sent(server.url)
    assert found == outcome
    assert (found != outcome) is False  # a struct does not derive one from the other
    assert found.detail == f"answered {status}"


async def test_a_redirect_is_not_followed(server: Server) -> None:
    """Where a redirect points to gets nothing."""
    server.answers(307, location=f"{server.url}/elsewhere")
    assert isinstance(await sent(server.url), Retry)
    assert [request.path for request in server.requests] == ["/hook"]


NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
WISHES = [
    ("120", 120.0),
    (" 120 ", 120.0),
    ("7200", 3600.0),
    ("99999999999999999999", None),
    ("0", None),
    ("-5", None),
    ("1.5", None),
    ("soon", None),
    ("", None),
    ("Mon, 02 Mar 2026 09:02:00 GMT", 120.0),
    ("Mon, 02 Mar 2026 23:00:00 GMT", 3600.0),
    ("Mon, 02 Mar 2026 08:00:00 GMT", None),
    ("Mon, 02 Mar 2026 09:02:00 -0000", 120.0),
    ("٣٠", None),
]


@pytest.mark.parametrize(("value", "after_s"), WISHES)
def test_retry_after_is_seconds_or_a_date_and_an_hour_at_most(value: str, after_s: float | None) -> None:
    """What makes no sense, or is over, is no wish."""
    assert outcome_of(Response(503, value), TurnedClock(NOW)) == Retry(
        "http_503", "answered 503", after_s=after_s, holds_sink=after_s is not None
    )


@given(st.integers(100, 999), st.none() | st.text(max_size=40))
def test_any_answer_means_something(status: int, retry_after: str | None) -> None:
    """No status and no header makes the sink stumble, and a wish is never longer than an hour."""
    outcome = outcome_of(Response(status, retry_after), TurnedClock(NOW))
    if isinstance(outcome, Retry) and outcome.after_s is not None:
        assert 0 < outcome.after_s <= 3600


@pytest.mark.parametrize(("status", "holds_sink"), [(429, True), (503, True), (500, False), (404, False), (301, False)])
async def test_retry_after_holds_the_sink_only_for_429_and_503(server: Server, status: int, holds_sink: bool) -> None:
    """429 and 503 speak of the endpoint, anything else of the one event."""
    server.answers(status, retry_after="30")
    outcome = await sent(server.url)
    assert isinstance(outcome, Retry)
    assert (outcome.after_s, outcome.holds_sink) == (30.0, holds_sink)


# Connections


async def test_connections_are_kept(server: Server) -> None:
    """One after another they need one connection, whatever the answer was."""
    async with opened(server.url) as sink:
        for status in (200, 500, 404, 204):
            server.answers(status)
            await sink.send(delivery())
    assert len(server.requests) == 4
    assert len(server.connections) == 1


async def test_an_answer_of_allowed_size_keeps_its_connection(server: Server) -> None:
    """It is read to its end, although it is not used and arrives in pieces."""

    async def in_pieces(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-length": str(RESPONSE_BYTES_MAX)})
        await response.prepare(request)
        for _ in range(4):
            await response.write(b"x" * (RESPONSE_BYTES_MAX // 4))
            await asyncio.sleep(0.005)
        return response

    server.handler = in_pieces
    async with opened(server.url) as sink:
        for number in range(3):
            assert await sink.send(delivery(number)) == Delivered()
    assert len(server.connections) == 1


async def test_a_large_answer_costs_its_connection_only(server: Server) -> None:
    """An answer without end is broken off soon; the status stands, and the next request works."""
    written = 0

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        nonlocal written
        with suppress(ConnectionError):
            while True:
                await response.write(b"x" * RESPONSE_BYTES_MAX)
                written += RESPONSE_BYTES_MAX
        return response

    server.handler = endless
    async with opened(server.url) as sink:
        assert await sink.send(delivery()) == Delivered()
        server.answers(200)
        assert await sink.send(delivery()) == Delivered()
    assert len(server.connections) == 2
    assert written < 500 * RESPONSE_BYTES_MAX  # what the buffers on the way hold


async def test_the_status_stands_when_the_body_never_comes(server: Server) -> None:
    """2xx and then silence: the event is delivered."""
    silence = asyncio.Event()

    async def only_head(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-length": "10"})
        await response.prepare(request)
        await silence.wait()
        return response

    server.handler = only_head
    assert await sent(server.url, timeout_s=0.2) == Delivered()
    silence.set()


async def test_a_connection_that_was_closed_meanwhile_costs_nothing() -> None:
    """A receiver may close what stands idle: the next event goes out on a new connection at once, and once."""
    requests, closed = [], asyncio.Event()

    async def answer_and_hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0]))
        requests.append(head)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        writer.write_eof()
        await reader.read()  # until the sink has seen it, and closed its side too
        writer.close()
        closed.set()

    listener = await asyncio.start_server(answer_and_hang_up, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    async with listener, opened(f"http://127.0.0.1:{port}/") as sink:
        for number in range(3):
            assert await sink.send(delivery(number)) == Delivered()
            await closed.wait()
            closed.clear()
    assert len(requests) == 3


async def test_an_answer_that_is_not_http_is_a_reason_of_its_own() -> None:
    """Something else listens there."""

    async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"220 mail.example.com ESMTP\r\n\r\n")
        await writer.drain()
        writer.close()

    listener = await asyncio.start_server(nonsense, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    async with listener:
        outcome = await sent(f"http://127.0.0.1:{port}/")
    assert isinstance(outcome, Retry)
    assert outcome.reason == "bad_answer"


async def test_each_kind_of_failure_has_its_reason(certificates: Certificates) -> None:
    """Name, connection, TLS and time are different reasons; the detail has the host and nothing else of the URL."""
    async with serving(certificates.server_context()) as tls:
        troubles = {
            "dns": await sent("https://no-such-host.invalid/secret-path"),
            "connect": await sent(f"http://127.0.0.1:{free_port()}/secret-path"),
            "tls": await sent(f"{tls.url}/secret-path"),
        }
    for reason, outcome in troubles.items():
        assert isinstance(outcome, Retry)
        assert outcome.reason == reason
        assert "secret-path" not in outcome.detail
        assert "://" in outcome.detail


# TLS


async def test_own_authority_and_client_certificate(certificates: Certificates) -> None:
    """With `tls_ca`, `tls_cert` and `tls_key` both sides know each other; without the certificate they do not."""
    async with serving(certificates.server_context(ask_for_client=True)) as server:
        keys = {"tls_ca": certificates.ca, "tls_cert": certificates.client, "tls_key": certificates.client_key}
        assert await sent(server.url, **keys) == Delivered()
        stranger = await sent(server.url, tls_ca=certificates.ca)
    assert isinstance(stranger, Retry)
    assert len(server.requests) == 1


async def test_a_certificate_for_another_name_is_refused(certificates: Certificates) -> None:
    """The host's name is verified, not only the signature."""
    async with serving(certificates.of_another().server_context()) as server:
        outcome = await sent(server.url, tls_ca=certificates.ca)
    assert isinstance(outcome, Retry)
    assert outcome.reason == "tls"
    assert not server.requests


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
async def test_old_tls_is_refused(certificates: Certificates) -> None:
    """A server that supports TLS 1.1 at most gets nothing."""
    async with serving(certificates.server_context(newest=ssl.TLSVersion.TLSv1_1)) as server:
        outcome = await sent(server.url, tls_ca=certificates.ca)
    assert isinstance(outcome, Retry)
    assert outcome.reason in ("tls", "connect")  # not every server says why
    assert not server.requests


# The environment's proxy


async def test_the_environments_proxy_is_used_only_when_asked_for(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`trust_env` sends through the proxy that the environment names; without it the environment says nothing."""
    async with serving() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        assert await sent(server.url) == Delivered()
        assert (len(server.requests), len(proxy.requests)) == (1, 0)
        assert await sent(server.url, trust_env=True) == Delivered()
        assert (len(server.requests), len(proxy.requests)) == (1, 1)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert await sent(server.url, trust_env=True) == Delivered()
        assert (len(server.requests), len(proxy.requests)) == (2, 1)


async def test_the_proxys_login_goes_to_the_proxy_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A login in the proxy's URL is offered to it when asking for the tunnel; a proxy that says no is a reason."""
    heads = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    listener = await asyncio.start_server(refuse, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    monkeypatch.setenv("https_proxy", f"http://user:password@127.0.0.1:{port}")
    async with listener:
        outcome = await sent("https://callcast.invalid/", trust_env=True)
    assert isinstance(outcome, Retry)
    assert outcome.reason == "proxy"
    assert b"CONNECT callcast.invalid:443" in heads[0]
    assert base64.b64encode(b"user:password") in heads[0]


# Settings

FAULTS = [
    ({"url": "hooks.example.com"}, "https://HOST/PATH"),
    ({"url": "ftp://example.com/"}, "https://HOST/PATH"),
    ({"url": "http://[::1"}, "is not a URL"),
    ({"url": "http://example.com/"}, "is not encrypted"),
    ({"url": "http://localhost.example.com/"}, "is not encrypted"),
    ({"secrets": ["wrong"]}, "whsec_"),
    ({"secrets": ["whsec_" + base64.b64encode(b"x" * 23).decode()]}, "24 to 64"),
    ({"secrets": ["whsec_" + base64.b64encode(b"x" * 65).decode()]}, "24 to 64"),
    ({"secrets": ["whsec_!!!!" + "A" * 32]}, "whsec_"),
    ({"headers": {"webhook-id": "x"}}, "callcast itself"),
    ({"headers": {"Content-Length": "1"}}, "callcast itself"),
    ({"headers": {"x-a": "1", "X-A": "2"}}, "twice"),
    ({"headers": {"x a": "1"}}, "is not a header name"),
    ({"headers": {"x-a": "1\r\nx-b: 2"}}, "characters"),
    ({"tls_ca": "/no/such/file"}, "/no/such/file cannot be read: no such file"),
    ({"tls_key": "/dev/null"}, "no effect without tls_cert"),
    ({"format": "xml"}, "cloudevents"),
    ({"timeout_s": "15"}, "number"),
    ({"events": ["call.rung"]}, "matches no event type"),
    ({"colour": "red"}, "not permitted"),
]


@pytest.mark.parametrize(("keys", "says"), FAULTS)
def test_a_fault_in_the_settings_is_found_at_once(keys: dict[str, Any], says: str) -> None:
    """It is found when the configuration is read, with a message that helps."""
    with pytest.raises(ValidationError, match=says):
        settings(**({"url": "https://example.com/"} | keys))


def test_a_fault_does_not_show_the_secret() -> None:
    """Neither a wrong signing secret nor a wrong URL is quoted back."""
    with pytest.raises(ValidationError) as error:
        settings("ftp://token-in-url@example.com/", secrets=["whsec_almost-right"])
    assert "token-in-url" not in str(error.value)
    assert "almost-right" not in str(error.value)


@pytest.mark.parametrize(
    "url", ["http://localhost/", "http://127.9.9.9:80/", "http://[::1]:8080/", "https://example.com"]
)
def test_loopback_needs_no_encryption(url: str) -> None:
    """Towards this machine http is fine."""
    assert settings(url).url == Secret(url)


def test_equal_settings_are_equal() -> None:
    """A reload compares settings to see whether a sink has changed."""
    keys: dict[str, Any] = {"url": "https://example.com/", "secrets": [NEW], "headers": {"x-a": "1"}}
    assert settings(**keys) == settings(**keys)
    assert settings(**keys) != settings(**keys | {"secrets": [OLD]})
