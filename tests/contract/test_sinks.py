"""Every sink that comes with callcast keeps the contract, against real remote sides. Found by their entry points."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from importlib import import_module
from importlib.metadata import distribution
from pathlib import Path

import pytest

from callcast.testing import RemoteSide, SinkContract
from tests import ROOT

TYPES = [entry.name for entry in distribution("callcast").entry_points.select(group="callcast.sinks")]
MAKERS = {
    f"{type_}-{name}": maker
    for type_ in TYPES
    for name, maker in import_module(f"tests.contract.sinks.{type_}").REMOTE_SIDES.items()
}


class TestSink(SinkContract):
    maker: Callable[[Path], AbstractAsyncContextManager[RemoteSide]]
    folder: Path

    @pytest.fixture(autouse=True, params=MAKERS.values(), ids=MAKERS)
    def _remote_side(self, request: pytest.FixtureRequest, tmp_path: Path) -> None:
        self.maker, self.folder = request.param, tmp_path

    def remote_side(self) -> AbstractAsyncContextManager[RemoteSide]:
        return self.maker(self.folder)


def test_every_sink_is_documented() -> None:
    """A section of docs/sinks.md, and its keys in docs/configuration.md and config.example.toml."""
    sections = [line.removeprefix("## ").lower() for line in (ROOT / "docs" / "sinks.md").read_text().splitlines()]
    for page in ("docs/configuration.md", "config.example.toml"):
        text = (ROOT / page).read_text()
        assert [type_ for type_ in TYPES if f'type = "{type_}"' not in text] == []
    assert [type_ for type_ in TYPES if type_ not in sections] == []
    assert len(TYPES) >= 3
