"""A third-party sink in its own package is found, configured and keeps the contract."""

import json
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from importlib.metadata import entry_points
from typing import Any

import pytest
from aiohttp import web

from callcast.sinks import SinkSettings
from callcast.testing import RemoteSide, SinkContract
from tests import ROOT, TESTS
from tests.integration.sinks.remote_sides import HttpRemoteSide

PACKAGE = TESTS / "thirdparty" / "callcast_sink_ntfy"
MODULE = PACKAGE / "src" / "callcast_sink_ntfy.py"
DOCS = ROOT / "docs" / "sinks.md"


@pytest.fixture(scope="module", autouse=True)
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The package as an installer leaves it, without the network: the module, and its metadata beside it."""
    site = tmp_path_factory.mktemp("site-packages")
    (site / MODULE.name).write_text(MODULE.read_text())
    metadata = site / "callcast_sink_ntfy-1.0.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: callcast-sink-ntfy\nVersion: 1.0.0\n")
    (metadata / "entry_points.txt").write_text("[callcast.sinks]\nntfy = callcast_sink_ntfy:Settings\n")
    sys.path.insert(0, str(site))
    yield
    sys.path.remove(str(site))
    sys.modules.pop("callcast_sink_ntfy", None)


def ntfy_settings(**values: Any) -> SinkSettings:
    (entry,) = entry_points(group="callcast.sinks", name="ntfy")
    settings: SinkSettings = entry.load().model_validate({"type": "ntfy", **values})
    return settings


class NtfyRemoteSide(HttpRemoteSide):
    """A web server in place of ntfy."""

    accepts_with = 200

    def event_id(self, request: web.Request, body: bytes) -> str:
        return str(json.loads(body)["tags"][0])


class TestNtfy(SinkContract):
    @asynccontextmanager
    async def remote_side(self) -> AsyncIterator[RemoteSide]:
        remote_side = NtfyRemoteSide()
        remote_side.settings = ntfy_settings(
            server=f"http://127.0.0.1:{remote_side.port}", topic="my-secret-topic", timeout_s=0.5
        )
        remote_side.secrets = ("my-secret-topic",)
        yield remote_side
        await remote_side.become("down")


def test_the_entry_point_is_the_one_of_its_pyproject() -> None:
    """What the test installs by hand is what an installer would."""
    assert 'ntfy = "callcast_sink_ntfy:Settings"' in (PACKAGE / "pyproject.toml").read_text()


def test_the_docs_show_the_whole_sink() -> None:
    """The example in docs/sinks.md is the file that passes the suite, and short."""
    code = MODULE.read_text()
    assert code in DOCS.read_text()
    assert (PACKAGE / "pyproject.toml").read_text() in DOCS.read_text()
    assert len(code.splitlines()) < 60
