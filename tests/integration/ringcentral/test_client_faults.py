"""The client against a real server on this machine: what only a real connection can do wrong."""

import asyncio
import gzip
import socket

import pytest
from aiohttp import ClientSession, TCPConnector, web
from aiohttp.abc import AbstractResolver, ResolveResult

from callcast.calls.model import Target
from callcast.ports.upstream import PollFailed
from callcast.ringcentral import client as client_module
from callcast.ringcentral import http as exchange
from callcast.ringcentral.client import Client
from callcast.settings.secret import Secret
from callcast.simulator.faults import Fault
from callcast.simulator.platform import Platform
from callcast.simulator.tokens import Credential
from tests.clock import TurnedClock
from tests.integration.ringcentral.serving import serving
from tests.ports import free_port
from tests.unit.ringcentral.recording import RecordedTelemetry, make_client
from tests.unit.ringcentral.test_client import RINGING, TOKEN, record

TARGET = Target(source="acme", extension_id="62264425016")
LIST = "/restapi/v1.0/account/~/extension/{extension}/active-calls"
OWN = Credential()


def at(url: str, session: ClientSession, telemetry: RecordedTelemetry, clock: TurnedClock | None = None) -> Client:
    return make_client(
        session,
        clock or TurnedClock(by_itself=True),
        telemetry,
        server=url,
        client_id=OWN.client_id,
        client_secret=Secret(OWN.client_secret),
        jwt=Secret(OWN.jwt),
    )


FAULTS = [
    (Fault(kind="reset", path="*/active-calls", count=1), "network"),
    (Fault(kind="truncated", path="*/active-calls", count=1), "network"),
    (Fault(kind="huge", path="*/active-calls", count=1), "parse"),
    (Fault(kind="html", path="*/active-calls", count=1), "parse"),
    (Fault(kind="not_json", path="*/active-calls", count=1), "parse"),
    (Fault(kind="charset", path="*/active-calls", count=1), "parse"),
    (Fault(kind="redirect", path="*/active-calls", count=1), "server"),
    (Fault(kind="half", path="*/active-calls", count=2), "server"),
    (Fault(kind="hang", path="*/active-calls", count=1), "timeout"),
    (Fault(kind="slow", path="*/active-calls", count=1, delay_s=30), "timeout"),
    (Fault(kind="status", status=500, path="*/active-calls", count=1), "server"),
    (Fault(kind="status", status=503, path="*/active-calls", count=1, retry_after=20), "server"),
    (Fault(kind="reset", path="*/token", count=1), "network"),
    (Fault(kind="hang", path="*/token", count=1), "timeout"),
    (Fault(kind="html", path="*/token", count=1), "parse"),
    (Fault(kind="huge", path="*/token", count=1), "parse"),
]


@pytest.mark.parametrize(("fault", "reason"), FAULTS, ids=lambda x: f"{x.kind}-{x.path}" if isinstance(x, Fault) else x)
async def test_each_fault_is_a_failed_poll_and_the_next_one_is_good(
    session: ClientSession, telemetry: RecordedTelemetry, monkeypatch: pytest.MonkeyPatch, fault: Fault, reason: str
) -> None:
    """Whatever breaks, one poll fails with its reason; the next poll, with the same client, is whole again."""
    if reason == "timeout":  # of the others a busy machine may take its time
        monkeypatch.setattr(client_module, "POLL_TIMEOUT_S", 0.5)
        monkeypatch.setattr("callcast.ringcentral.token.ASK_TIMEOUT_S", 0.5)
    clock = TurnedClock(by_itself=True)
    platform = Platform(faults=[fault])
    async with platform.serve() as url:
        client = at(url, session, telemetry, clock)
        with pytest.raises(PollFailed) as failed:
            await client.poll(TARGET)
        assert failed.value.reason == reason
        await clock.turn(30)
        assert len((await client.poll(TARGET)).observations) == 1


async def test_an_answer_that_unpacks_to_more_than_the_cap_is_refused(
    session: ClientSession, telemetry: RecordedTelemetry
) -> None:
    """32 MiB are counted as they unpack: a small packed body cannot fill the memory."""
    packed = gzip.compress(b" " * (exchange.RESPONSE_BYTES_MAX + 1))

    async def bomb(_: web.Request) -> web.Response:
        return web.Response(body=packed, headers={"Content-Encoding": "gzip", "Content-Type": "application/json"})

    async with serving({LIST: bomb}) as url:
        with pytest.raises(PollFailed, match="larger than 32 MiB") as failed:
            await at(url, session, telemetry).poll(TARGET)
        assert failed.value.reason == "parse"


async def test_an_answer_without_end_is_refused_as_it_comes(
    session: ClientSession, telemetry: RecordedTelemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading stops at the cap, whether or not the remote side ever does."""
    monkeypatch.setattr(exchange, "RESPONSE_BYTES_MAX", 1_000_000)

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        while True:
            await response.write(b" " * 65_536)

    async with serving({LIST: endless}) as url:
        with pytest.raises(PollFailed, match="larger than") as failed:
            await at(url, session, telemetry).poll(TARGET)
    assert failed.value.reason == "parse"


async def test_a_large_list_is_decoded_whole(session: ClientSession, telemetry: RecordedTelemetry) -> None:
    """Above half a mebibyte decoding goes to a thread; nothing else changes."""
    many = [record(i) for i in range(1200)]

    async def large(_: web.Request) -> web.Response:
        return web.json_response({"records": many, "navigation": {}, "paging": {}})

    async with serving({LIST: large}) as url:
        client = at(url, session, telemetry)
        first, second = await client.poll(TARGET), await client.poll(TARGET)
    assert len(first.observations) == 1200
    assert second.observations[-1] is first.observations[-1]


async def test_nothing_listens(session: ClientSession, telemetry: RecordedTelemetry) -> None:
    """A refused connection is `network`, with the system's own word."""
    with pytest.raises(PollFailed) as failed:
        await at(f"http://127.0.0.1:{free_port()}", session, telemetry).poll(TARGET)
    assert failed.value.reason == "network"
    assert "refused" in failed.value.detail.lower()


class NoNames(AbstractResolver):
    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
        raise OSError(None, "no such name")

    async def close(self) -> None:
        pass


async def test_a_name_that_is_not_found(telemetry: RecordedTelemetry) -> None:
    """DNS trouble is `network`, and says so."""
    async with ClientSession(connector=TCPConnector(resolver=NoNames())) as session:
        with pytest.raises(PollFailed, match="host name") as failed:
            await at("https://platform.example.com", session, telemetry).poll(TARGET)
    assert failed.value.reason == "network"


async def test_plain_text_where_tls_is_expected(session: ClientSession, telemetry: RecordedTelemetry) -> None:
    """A TLS fault is `network`."""
    async with Platform().serve() as url:
        with pytest.raises(PollFailed) as failed:
            await at(url.replace("http:", "https:"), session, telemetry).poll(TARGET)
    assert failed.value.reason == "network"
    assert "TLS" in failed.value.detail


async def test_the_connection_is_given_up_after_its_own_time(
    session: ClientSession, telemetry: RecordedTelemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that accepts no connection is given up after the connect timeout, well before the poll's."""
    monkeypatch.setattr(exchange, "CONNECT_TIMEOUT_S", 0.2)
    monkeypatch.setattr(exchange, "_timeout", exchange._timeout.__wrapped__)  # the result for another test is cached
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        others = [socket.socket() for _ in range(4)]  # fill the backlog, so that a connection stays unanswered
        try:
            for other in others:
                other.setblocking(False)
                other.connect_ex(full.getsockname())
            with pytest.raises(PollFailed) as failed:
                await at(f"http://127.0.0.1:{full.getsockname()[1]}", session, telemetry).poll(TARGET)
        finally:
            for other in others:
                other.close()
    assert failed.value.reason == "timeout"
    assert failed.value.cause == "no connection within 0.2 s"


async def test_a_request_is_never_repeated_behind_our_back(
    session: ClientSession, telemetry: RecordedTelemetry
) -> None:
    """A kept connection that breaks under a request costs that poll; the library must not repeat it."""
    requests = 0

    async def breaks(request: web.Request) -> web.Response:
        nonlocal requests
        requests += 1
        if requests > 1 and request.transport is not None:
            request.transport.abort()
        return web.Response(body=RINGING.encode(), content_type="application/json")

    async with serving({LIST: breaks}) as url:
        client = at(url, session, telemetry)
        await client.poll(TARGET)
        with pytest.raises(PollFailed) as failed:
            await client.poll(TARGET)
    assert failed.value.reason == "network"
    assert requests == 2


async def test_polls_that_meet_a_displaced_session_share_one_new_token(
    telemetry: RecordedTelemetry, session: ClientSession
) -> None:
    """Three polls in flight meet 401 with the same old token: one token request serves them all."""
    clock = TurnedClock()
    together = asyncio.Barrier(3)
    tokens = 0

    async def active_calls(request: web.Request) -> web.Response:
        if request.headers["Authorization"] == "Bearer token-1":
            await together.wait()
            return web.json_response({"errors": [{"errorCode": "OAU-213", "message": "gone"}]}, status=401)
        return web.Response(body=RINGING.encode(), content_type="application/json")

    async def token(_: web.Request) -> web.Response:
        nonlocal tokens
        tokens += 1
        return web.json_response({**TOKEN, "access_token": f"token-{tokens}"})

    async with serving({LIST: active_calls}, token) as url:
        client = make_client(session, clock, telemetry, server=url, heavy_per_minute=6000)
        targets = [Target(source="acme", extension_id=str(i)) for i in range(3)]
        polls = asyncio.gather(*map(client.poll, targets))
        while not polls.done():
            await clock.turn(0.1)
            await asyncio.sleep(0)
        await polls
    assert tokens == 2


async def test_waiting_for_a_turn_is_not_waiting_for_an_answer(
    session: ClientSession, telemetry: RecordedTelemetry
) -> None:
    """A poll may wait longer for its turn than its own timeout, and a cancelled one leaves nothing behind."""
    clock = TurnedClock()
    async with Platform().serve() as url:
        client = at(url, session, telemetry, clock)
        await client.poll(TARGET)
        waiting = asyncio.create_task(client.poll(TARGET))
        await clock.turn(1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await clock.turn(7)
        await client.poll(TARGET)
    assert telemetry.outcomes("active_calls") == ["200", "200"]
