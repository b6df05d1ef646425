"""The outbox's write-ahead log: counted, and reported when a reader keeps it from shrinking."""

import asyncio
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from callcast.outbox.sqlite import file, schema
from callcast.outbox.sqlite.schema import FILE
from tests.integration.outbox.test_replaced import WAIT_S, opened

_PIECE = 1_000_000


async def test_the_wal_is_counted(tmp_path: Path) -> None:
    """What is not moved to the file yet takes room on the disk too."""
    async with opened(tmp_path) as outbox:
        await outbox.note("acme", "big", os.urandom(_PIECE))
        wal = (tmp_path / f"{FILE}-wal").stat().st_size
        assert wal > _PIECE
        assert (await outbox.stats()).bytes_used == (tmp_path / FILE).stat().st_size + wal


async def test_a_reader_that_pins_the_wal_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its size, why it grows and what to do; and no longer once the reader has ended. Growth alone is nothing."""
    monkeypatch.setattr(file, "PINNED_EVERY_S", 0.0)
    wal = tmp_path / f"{FILE}-wal"

    async def write_much() -> None:
        for _ in range(3 * schema.WAL_KEPT_BYTES // _PIECE):
            await outbox.note("acme", "big", os.urandom(_PIECE))

    async with opened(tmp_path) as outbox:
        await write_much()
        assert outbox.warnings() == ()
        with closing(sqlite3.connect(tmp_path / FILE, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM pulse").fetchall()
            await write_much()
            async with asyncio.timeout(WAIT_S):
                while not outbox.warnings():
                    await outbox.check()
            (warning,) = outbox.warnings()
            assert warning.startswith(f"{wal} is larger than 34 MB and grows, because another program has kept")
            assert f"fuser -v {wal}" in warning
            assert (await outbox.stats()).bytes_used > 2 * schema.WAL_KEPT_BYTES
        async with asyncio.timeout(WAIT_S):
            while outbox.warnings() or wal.stat().st_size > schema.WAL_KEPT_BYTES:
                await outbox.check()
