"""Signals while the service cannot start yet: another program holds its file."""

import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.ports import free_port
from tests.system.world import Service, until

CONFIG = """
[service]
data_dir = "{data}"
http_listen = "127.0.0.1:{port}"
[sources.acme]
server = "http://127.0.0.1:9"
client_id = "x"
client_secret = "y"
jwt = "z"
[sinks.lines]
type = "stdout"
"""


@pytest.fixture
def held(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """An exclusive lock on the outbox file until `rollback`."""
    data = tmp_path / "data"
    data.mkdir()
    with closing(sqlite3.connect(data / "outbox.db", isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield connection


async def started(folder: Path) -> Service:
    """A service that answers, and cannot use its outbox."""
    port = free_port()
    config = folder / "callcast.toml"
    config.write_text(CONFIG.format(data=folder / "data", port=port))
    service = Service(config, f"http://127.0.0.1:{port}")
    await service.start()
    await until(lambda: any("outbox_failed" in line for line in service.log), "the trouble")
    return service


async def test_a_stop_during_a_start_that_lasts_is_a_clean_one(tmp_path: Path, held: sqlite3.Connection) -> None:
    """SIGTERM while the disk gives trouble: exit 0, without waiting for the disk."""
    service = await started(tmp_path)
    assert await service.stop() == 0
    assert not any("Traceback" in line for line in service.log)


async def test_a_reload_during_a_start_that_lasts_waits_for_it(tmp_path: Path, held: sqlite3.Connection) -> None:
    """SIGHUP never kills: the reload comes when the disk is mended and the service has started."""
    service = await started(tmp_path)
    os.kill(service.pid, signal.SIGHUP)
    held.rollback()
    await until(lambda: any("configuration_reloaded" in line for line in service.log), "the reload")
    assert await service.stop() == 0
