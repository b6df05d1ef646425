"""The outbox's file is deleted or replaced while it is open: real files, and processes that are killed."""

import asyncio
import os
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any

import pytest

from callcast.outbox.opening import open_admin
from callcast.outbox.sqlite import file, replaced, schema
from callcast.outbox.sqlite import writer as worker
from callcast.outbox.sqlite.schema import FILE, LOCK, Lock
from callcast.outbox.sqlite.store import SqliteOutbox, open_outbox
from callcast.ports.outbox import Acked, OutboxRefused, OutboxUnavailable
from callcast.ports.sink import Filter
from tests.builders import change, event
from tests.clock import TurnedClock
from tests.disks import small_disk

WAIT_S = 30.0


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[SqliteOutbox]:
    async with open_outbox(path, TurnedClock(), retention_h=72, outbox_max_mb=100, dead_letter_days=30) as outbox:
        await outbox.subscribe({"crm": Filter()})
        yield outbox


async def pending(outbox: SqliteOutbox) -> list[str]:
    """Claimed and given back."""
    found = await outbox.claim("crm", limit=99)
    for one in found:
        await outbox.release(one)
    return [one.event.key.partition("/")[2] for one in found]


async def reset(outbox: SqliteOutbox, times: int = 1) -> None:
    async with asyncio.timeout(WAIT_S):
        while outbox.resets < times:  # noqa: ASYNC110 (the outbox's thread looks at its files)
            await asyncio.sleep(0.01)


async def failing(outbox: SqliteOutbox, how: str) -> str:
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                await outbox.check()
            except OutboxUnavailable as error:
                if how in str(error):
                    return str(error)
            await asyncio.sleep(0.01)


async def working(outbox: SqliteOutbox) -> None:
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                return await outbox.check()
            except OutboxUnavailable:
                await asyncio.sleep(0.01)


def delete_all(folder: Path) -> None:
    for path in folder.glob(f"{FILE}*"):
        path.unlink()


def delete_folder(folder: Path) -> None:
    """At once: while it is emptied file by file, the service writes the outbox into it again."""
    away = folder.rename(folder.with_name("away"))
    shutil.rmtree(away)


def delete_wal(folder: Path) -> None:
    (folder / f"{FILE}-wal").unlink()


def move_away(folder: Path) -> None:
    (folder / FILE).rename(folder.with_name("elsewhere.db"))


def put_a_backup(folder: Path) -> None:
    """As `cp backup.tmp; mv` does: an older state, with its own numbers."""
    with closing(sqlite3.connect(folder / "backup")) as backup:
        backup.execute("CREATE TABLE other (x)")
        backup.commit()
    delete_all(folder)
    (folder / "backup").rename(folder / FILE)


def put_rubbish(folder: Path) -> None:
    (folder / "new").write_bytes(b"rubbish" * 1000)
    (folder / "new").rename(folder / FILE)
    (folder / "new-wal").write_bytes(b"rubbish" * 1000)
    (folder / "new-wal").rename(folder / f"{FILE}-wal")


TROUBLES = (delete_all, delete_folder, delete_wal, move_away, put_a_backup, put_rubbish)


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_everything_is_written_again(tmp_path: Path, trouble: Callable[[Path], None]) -> None:
    """Pending deliveries, dead letters, calls, notes and numbers: the next opening of the file finds all of them."""
    folder = tmp_path / "data"
    async with opened(folder) as outbox:
        await outbox.note("acme", "gaps", b"kept")
        await outbox.record("acme", None, change(*(event(name) for name in "abcd")))
        flying, dead = (await outbox.claim("crm", limit=99))[:2]
        await outbox.dead_letter(dead, reason="413", detail="", took_s=0)
        trouble(folder)
        await reset(outbox)
        await outbox.record("acme", None, change(event("later")))
        await outbox.ack([Acked(flying, 0)])
        (warning,) = outbox.warnings()
        assert "was deleted or replaced while the service ran" in warning
        assert "stop the service before" in warning
        kept = [path for path in folder.iterdir() if ".replaced-" in path.name]
        assert bool(kept) == (trouble in (put_a_backup, put_rubbish)), "what was put there is not thrown away"
        found = {path.name for path in folder.iterdir() if path not in kept}
        assert found == {FILE, f"{FILE}-wal", f"{FILE}-shm", LOCK}
        shutil.copytree(folder, tmp_path / "killed")  # as kill -9 would leave it
        with open_admin(folder) as admin:
            assert [dead_letter.event.key for dead_letter in admin.dead_letters()] == ["101/b"]
    for place in (tmp_path / "killed", folder):
        async with opened(place) as outbox:
            assert await pending(outbox) == ["c", "d", "later"]
            assert (await outbox.known("acme")).notes == {"gaps": b"kept"}
            assert outbox.resets == 0
            assert outbox.warnings() == ()


async def test_again_and_again(tmp_path: Path) -> None:
    """Each time the file is restored; one warning gives the latest time."""
    async with opened(tmp_path / "data") as outbox:
        for number, trouble in enumerate((delete_all, put_a_backup, delete_wal, delete_folder, delete_all), 1):
            await outbox.record("acme", None, change(event(f"c{number}")))
            trouble(tmp_path / "data")
            await reset(outbox, number)
        assert await pending(outbox) == [f"c{number}" for number in range(1, 6)]
        assert len(outbox.warnings()) == 1


async def test_what_is_recorded_before_it_is_noticed_is_not_lost(tmp_path: Path) -> None:
    """It went to files without a name, and from there to the new one."""
    folder = tmp_path / "data"
    async with opened(folder) as outbox:
        await outbox.record("acme", None, change(event("before")))
        delete_all(folder)
        await asyncio.gather(*(outbox.record("acme", None, change(event(f"c{n}"))) for n in range(20)))
        await reset(outbox)
        shutil.copytree(folder, tmp_path / "killed")
    async with opened(tmp_path / "killed") as outbox:
        assert await pending(outbox) == ["before", *(f"c{n}" for n in range(20))]


async def test_a_close_writes_it_again_too(tmp_path: Path) -> None:
    """Deleted in the very last moment."""
    async with opened(tmp_path / "data") as outbox:
        await outbox.record("acme", None, change(event("a")))
        delete_all(tmp_path / "data")
    async with opened(tmp_path / "data") as outbox:
        assert await pending(outbox) == ["a"]


async def test_no_room_to_write_it_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is recorded and nothing is lost until there is room: each operation says where, why and what to do."""
    monkeypatch.setattr(file, "REPLACED_PAUSE_S", 0.01)
    with small_disk(tmp_path / "disk") as disk:
        async with opened(disk.path) as outbox:
            await outbox.record("acme", None, change(event("a")))
            delete_all(disk.path)
            disk.fill()
            warning = await failing(outbox, "deleted or replaced while the service runs, and cannot be restored")
            assert str(disk.path / FILE) in warning
            assert outbox.resets == 0
            disk.free()
            await working(outbox)
            await outbox.record("acme", None, change(event("b")))
            shutil.copytree(disk.path, tmp_path / "killed")
        async with opened(tmp_path / "killed") as outbox:
            assert await pending(outbox) == ["a", "b"]


@pytest.mark.parametrize("code", [sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_CORRUPT])
async def test_what_the_old_disk_does_not_give_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """It was unmounted for good: the service goes on with what lies there now, and says what is lost."""
    monkeypatch.setattr(file, "REPLACED_PAUSE_S", 0.01)

    def unread(*_: object) -> None:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = code
        raise error

    monkeypatch.setattr(replaced, "write_copy", unread)
    folder = tmp_path / "data"
    async with opened(folder) as outbox:
        await outbox.record("acme", None, change(event("lost")))
        (flying,) = await outbox.claim("crm", limit=9)
        delete_all(folder)
        async with asyncio.timeout(WAIT_S):
            while not outbox.warnings():
                with suppress(OutboxUnavailable):
                    await outbox.check()
        await working(outbox)
        await outbox.record("acme", None, change(event("new")))
        await outbox.ack([Acked(flying, 0)])
        assert await pending(outbox) == ["new"]
        (warning,) = outbox.warnings()
        assert "its pending deliveries were not delivered" in warning


async def test_another_service_in_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder was deleted and another service began there: this one says so, and goes on when that one ends."""
    monkeypatch.setattr(file, "REPLACED_PAUSE_S", 0.01)
    folder = tmp_path / "data"
    async with opened(folder) as outbox:
        await outbox.record("acme", None, change(event("a")))
        delete_folder(folder)
        folder.mkdir()
        other = Lock(folder)
        await failing(outbox, "in use by another callcast service")
        other.release()
        await working(outbox)
        assert await pending(outbox) == ["a"]


async def test_a_lost_lock_is_taken_again(tmp_path: Path) -> None:
    """Only the lock's file was deleted: no second service may begin here."""
    async with opened(tmp_path) as outbox:
        (tmp_path / LOCK).unlink()
        async with asyncio.timeout(WAIT_S):
            while not (tmp_path / LOCK).exists():  # noqa: ASYNC110 (the outbox's thread looks at its files)
                await asyncio.sleep(0.01)
        await outbox.check()
        with pytest.raises(OutboxRefused, match="in use by another callcast service"):
            Lock(tmp_path)
        assert outbox.resets == 0


@pytest.mark.parametrize("there", [True, False])
async def test_a_copy_that_was_not_installed(tmp_path: Path, there: bool) -> None:
    """Killed between writing the copy and giving it the name: the next start goes on with it."""
    folder = tmp_path / "data"
    async with opened(folder) as outbox:
        await outbox.record("acme", None, change(event("a")))
        await outbox._writer.submit(lambda deliveries: replaced.write_copy(deliveries.connection, folder), reads=True)
        shutil.copytree(folder, tmp_path / "killed")
    if there:
        put_rubbish(tmp_path / "killed")
    else:
        delete_all_but_the_copy(tmp_path / "killed")
    async with opened(tmp_path / "killed") as outbox:
        assert await pending(outbox) == ["a"]


def delete_all_but_the_copy(folder: Path) -> None:
    for tail in ("", "-wal", "-shm"):
        (folder / f"{FILE}{tail}").unlink()


async def test_nothing_is_done_while_nothing_happens(tmp_path: Path) -> None:
    """Commands beside the service, checkpoints and a growing file are no replacement."""
    async with opened(tmp_path) as outbox:
        for number in range(20):
            await outbox.note("acme", "big", os.urandom(500_000))
            with open_admin(tmp_path) as admin:
                assert admin.drop() == 0
            await outbox.record("acme", None, change(event(f"c{number}")))
            await asyncio.sleep(worker.POLL_S / 10)
        await outbox.check()
        assert outbox.resets == 0
        assert outbox.warnings() == ()


def put_an_older_one(folder: Path) -> None:
    """An outbox of this service's own, as it was at its beginning."""
    with suppress(FileNotFoundError):
        shutil.copy(folder.with_name("older.db"), folder / "new")
        (folder / "new").rename(folder / FILE)


@pytest.mark.parametrize("trouble", [delete_all, put_an_older_one, put_rubbish])
async def test_replaced_again_while_it_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: Callable[[Path], None]
) -> None:
    """A restore takes its time: its next file comes when the copy has the name and is not open yet."""
    folder = tmp_path / "data"
    async with opened(folder):
        pass
    shutil.copy(folder / FILE, tmp_path / "older.db")
    install, left = replaced.install_copy, 1

    def install_and_lose(directory: Path, *given: Any, **named: Any) -> Path | None:
        nonlocal left
        kept = install(directory, *given, **named)
        if not (directory / f"{FILE}-wal").exists() and left:
            left -= 1
            trouble(directory)
        return kept

    async with opened(folder) as outbox:
        await outbox.record("acme", None, change(*(event(name) for name in "ab")))
        (flying,) = await outbox.claim("crm", limit=1)
        monkeypatch.setattr(replaced, "install_copy", install_and_lose)
        delete_all(folder)
        await reset(outbox)
        await working(outbox)
        assert left == 0
        await outbox.ack([Acked(flying, 0)])
        await outbox.record("acme", None, change(event("later")))
        assert not any("not delivered" in warning for warning in outbox.warnings())
        shutil.copytree(folder, tmp_path / "killed")  # as kill -9 would leave it
    for place in (tmp_path / "killed", folder):
        async with opened(place) as outbox:
            assert await pending(outbox) == ["b", "later"]


async def test_replaced_while_it_is_opened_as_late_as_possible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was put there is complete and open: that makes it no outbox of ours."""
    folder = tmp_path / "data"
    async with opened(folder):
        pass
    shutil.copy(folder / FILE, tmp_path / "older.db")
    connect, left = schema.connect, 0

    def lose_and_connect(directory: Path) -> sqlite3.Connection:
        nonlocal left
        if left:
            left -= 1
            put_an_older_one(directory)
        return connect(directory)

    monkeypatch.setattr(schema, "connect", lose_and_connect)
    async with opened(folder) as outbox:
        await outbox.record("acme", None, change(event("a")))
        left = 1
        delete_all(folder)
        await reset(outbox)
        await working(outbox)
        assert left == 0
        shutil.copytree(folder, tmp_path / "killed")
    async with opened(tmp_path / "killed") as outbox:
        assert await pending(outbox) == ["a"]


async def test_a_folder_that_is_deleted_while_nothing_is_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is made again: no restart is needed, and no other service may begin there."""
    monkeypatch.setattr(file, "REPLACED_PAUSE_S", 0.01)
    folder = tmp_path / "data"
    async with opened(folder) as outbox:
        await outbox._writer.submit(lambda _: outbox._writer.file.close(), reads=True)
        delete_folder(folder)
        await working(outbox)
        await outbox.record("acme", None, change(event("a")))
        assert await pending(outbox) == ["a"]
        with pytest.raises(OutboxRefused, match="in use by another callcast service"):
            Lock(folder)


async def test_a_file_put_in_place_is_not_read_with_the_log_of_ours(tmp_path: Path) -> None:
    """Our file was replaced while it was closed, and its log lay there still, because a backup program had it open."""
    folder, other = tmp_path / "data", tmp_path / "other"
    async with opened(other) as outbox:
        await outbox.record("acme", None, change(event("theirs")))
    async with opened(folder) as outbox:
        await outbox.record("acme", None, change(event("ours")))
        with closing(sqlite3.connect(folder / FILE)) as reader:
            reader.execute("BEGIN")
            assert reader.execute("SELECT count(*) FROM events").fetchone() == (1,)
            await outbox._writer.submit(lambda _: outbox._writer.file.close(), reads=True)
            shutil.copy(other / FILE, folder / "new")
            (folder / "new").rename(folder / FILE)
            assert (folder / f"{FILE}-wal").stat().st_size > 0
            await working(outbox)
            assert await pending(outbox) == ["theirs"]
            assert any("was deleted or replaced while" in warning for warning in outbox.warnings())
    assert [path.name for path in folder.iterdir() if "replaced" in path.name], "the log is kept"
