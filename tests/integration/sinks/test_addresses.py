"""A name with several addresses of which one is unresponsive: every sink and its connectivity check connect."""

import asyncio
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from callcast.ports.connectivity import ConnectivityRequest
from callcast.ports.sink import Delivered
from callcast.settings.secret import Secret
from callcast.sinks import mqtt, webhook
from callcast.sinks.connectivity import connect
from callcast.testing import RealClock, context, delivery
from tests.integration.sinks.brokers import mosquitto
from tests.integration.sinks.certificates import Certificates
from tests.integration.sinks.remote_sides import HttpRemoteSide

HOST = "two-addresses.example"
Hole = Callable[[int], None]


@pytest.fixture
def unresponsive(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hole]:
    """Makes `HOST` resolve to 127.0.0.2, where nothing at this port is ever answered, and then for 127.0.0.1."""
    silent = socket.socket()
    waiting = [socket.socket() for _ in range(4)]

    def open_at(port: int) -> None:
        silent.bind(("127.0.0.2", port))
        silent.listen(0)
        for one in waiting:  # they fill its backlog: the next connection gets no answer
            one.setblocking(False)
            one.connect_ex(("127.0.0.2", port))
        real = socket.getaddrinfo

        def both(host: Any, *rest: Any, **more: Any) -> Any:
            hosts = ("127.0.0.2", "127.0.0.1") if host == HOST else (host,)
            return [each for one in hosts for each in real(one, *rest, **more)]

        monkeypatch.setattr(socket, "getaddrinfo", both)

    yield open_at
    for one in (silent, *waiting):
        one.close()


@pytest.mark.parametrize("scheme", ["mqtt", "mqtts"])
async def test_an_mqtt_sink_reaches_the_address_that_works(
    scheme: str, unresponsive: Hole, tmp_path: Path, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events are delivered and the connectivity check is good; a certificate is still checked against the name."""
    tls = (f"certfile {certificates.server}", f"keyfile {certificates.server_key}") if scheme == "mqtts" else ()
    with mosquitto(tmp_path, *tls) as broker:
        unresponsive(broker.port)
        keys: dict[str, Any] = {"tls_ca": certificates.ca} if tls else {"allow_plaintext": True}
        settings = mqtt.Settings(url=f"{scheme}://{HOST}:{broker.port}", timeout_s=5, **keys)
        if tls:
            result = await settings.check_connectivity(ConnectivityRequest(name="crm", version="1", clock=RealClock()))
            assert "certificate" in result.detail
            assert "mismatch" in result.detail
            return
        async with settings.open(context()) as sink:
            assert await sink.send(delivery()) == Delivered()
        result = await settings.check_connectivity(
            ConnectivityRequest(name="crm", version="1", clock=RealClock(), send=True)
        )
        assert result.status == "good", result


@pytest.mark.parametrize("send", [False, True])
async def test_a_webhook_that_works_passes_its_connectivity_check(send: bool, unresponsive: Hole) -> None:
    """`check --online` reaches what the sink reaches."""
    remote_side = HttpRemoteSide()
    await remote_side.become("accepting")
    try:
        unresponsive(remote_side.port)
        settings = webhook.Settings(url=Secret(f"http://{HOST}:{remote_side.port}/"), allow_plaintext=True, timeout_s=5)
        async with settings.open(context()) as sink:
            assert await sink.send(delivery()) == Delivered()
        result = await settings.check_connectivity(
            ConnectivityRequest(name="crm", version="1", clock=RealClock(), send=send)
        )
    finally:
        await remote_side.become("down")
    assert result.status == "good", result


async def test_if_no_address_responds_the_error_has_its_number(unresponsive: Hole) -> None:
    """Refused by each address: the reason stays a reason."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        with pytest.raises(OSError) as caught:  # noqa: PT011 (its number is looked at)
            async with asyncio.timeout(30):
                await connect("localhost", reserved.getsockname()[1])
    assert caught.value.errno == 111
