"""TLS towards the platform, as the commands really speak it: verified, and 1.2 at least."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from tests.integration.cli.test_check_online import checked
from tests.integration.sinks.certificates import Certificates, make_certificates

CONFIG = """\
[sources.acme]
server = "https://localhost:{port}"
client_id = "app"
client_secret = "a-secret"
jwt = "an-assertion"
watch = "account"
[sinks.lines]
type = "stdout"
"""


@asynccontextmanager
async def serving(context: ssl.SSLContext, received: list[str]) -> AsyncIterator[int]:
    async def answer(request: web.Request) -> web.Response:
        received.append(request.path)
        return web.Response(status=503)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize(
    ("newest", "trusted", "message"),
    [
        (ssl.TLSVersion.TLSv1_2, True, "the token endpoint answered 503"),
        (ssl.TLSVersion.TLSv1_1, True, "failed   source acme: token  no "),  # TLS connection, or none at all
        (ssl.TLSVersion.TLSv1_2, False, "the host's certificate is not trusted"),
    ],
)
async def test_the_platform_hears_nothing_over_a_weak_connection(
    tmp_path: Path, certificates: Certificates, newest: ssl.TLSVersion, trusted: bool, message: str
) -> None:
    """A valid certificate and TLS 1.2 are accepted; TLS 1.1 or an untrusted authority get no request."""
    received: list[str] = []
    environ = {"SSL_CERT_FILE": certificates.ca if trusted else str(tmp_path / "none.pem")}
    async with serving(certificates.server_context(newest=newest), received) as port:
        config = tmp_path / "callcast.toml"
        config.write_text(CONFIG.format(port=port))
        done = await checked("--online", "--config", str(config), environ=environ)
    assert message in done.stdout, done.stdout
    assert bool(received) == message.endswith("503")
