"""What is special to the SQLite outbox: its file, its lock, a disk in trouble, a process killed in a commit."""

import asyncio
import errno
import os
import random
import resource
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import msgspec
import pytest

from callcast.calls.model import ChangeSet
from callcast.outbox.opening import open_admin
from callcast.outbox.sqlite import calls as memory
from callcast.outbox.sqlite.codec import encode, event_of
from callcast.outbox.sqlite.deliveries import Deliveries
from callcast.outbox.sqlite.store import SqliteOutbox, open_outbox
from callcast.ports.outbox import Acked, OutboxRefused, OutboxUnavailable
from callcast.ports.sink import Filter
from tests import ROOT
from tests.builders import call, change, event
from tests.clock import TurnedClock

KILLS = int(os.environ.get("CALLCAST_TEST_KILLS", "30"))


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[SqliteOutbox]:
    async with open_outbox(path, TurnedClock(), retention_h=72, outbox_max_mb=100, dead_letter_days=30) as outbox:
        yield outbox


async def with_deliveries(outbox: SqliteOutbox) -> None:
    await outbox.subscribe({"crm": Filter()})
    await outbox.record("acme", None, change(event("a"), event("b")))


async def pending(outbox: SqliteOutbox) -> int:
    return sum(one.pending for one in (await outbox.stats()).sinks)


@contextmanager
def full_disk(bytes_: int) -> Iterator[None]:
    """No file may grow beyond this: as a write meets a disk that has no more room."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# The file


async def test_only_this_user_may_poll(tmp_path: Path) -> None:
    """The directory is 0700 and every file in it 0600, whatever the umask says."""
    before = os.umask(0)
    try:
        async with opened(tmp_path / "data") as outbox:
            await with_deliveries(outbox)
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "data").iterdir()}
            assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700
    finally:
        os.umask(before)
    assert set(modes) == {"outbox.db", "outbox.db-wal", "outbox.db-shm", "outbox.lock"}
    assert set(modes.values()) == {0o600}


@pytest.fixture
def group_volume() -> Iterator[Path]:
    """Belongs to root and may be written by a group, to which this process belongs as another user."""
    with tempfile.TemporaryDirectory() as name:
        volume, group = Path(name), 64242
        os.chown(volume, 0, group)
        volume.chmod(0o2775)
        os.setegid(group)
        os.seteuid(65534)
        try:
            yield volume
        finally:
            os.seteuid(0)
            os.setegid(0)
        assert stat.S_IMODE(volume.stat().st_mode) == 0o2775
        assert {stat.S_IMODE(path.stat().st_mode) for path in volume.iterdir()} == {0o600}


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user, which only root may")
async def test_a_volume_that_only_the_group_may_write(group_volume: Path) -> None:
    """As Kubernetes mounts it with fsGroup: its mode stays as it is, and the files are private all the same."""
    async with opened(group_volume) as outbox:
        await with_deliveries(outbox)


async def test_a_second_service_is_refused(tmp_path: Path) -> None:
    """The error of a second service in the directory names the first and the next step; afterwards it can start."""
    async with opened(tmp_path) as first:
        with pytest.raises(OutboxRefused, match=rf"in use .*process {os.getpid()}.*another data_dir"):
            async with opened(tmp_path):
                pass
        await with_deliveries(first)
    async with opened(tmp_path) as second:
        assert await pending(second) == 2


async def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    """A file that a newer callcast wrote is left untouched, and the message says which schema it has."""
    async with opened(tmp_path) as outbox:
        await with_deliveries(outbox)
    with sqlite3.connect(tmp_path / "outbox.db") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(OutboxRefused, match="schema 99"):
        async with opened(tmp_path):
            pass
    with sqlite3.connect(tmp_path / "outbox.db") as connection:
        assert connection.execute("SELECT count(*) FROM deliveries").fetchone() == (2,)
    connection.close()


@pytest.mark.parametrize(
    ("number", "step"),
    [
        (errno.EACCES, "chown"),
        (errno.EPERM, "chown"),
        (errno.EROFS, "mount it writable"),
        (errno.ENOENT, "create the directory above it"),
        (errno.ENOTDIR, "a part of this path is a file"),
    ],
)
@pytest.mark.parametrize("call", ["mkdir", "open"])
async def test_a_directory_of_no_use_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, step: str, call: str
) -> None:
    """The place cannot be written: an error with place, cause and next step, instead of retries without end."""
    place = tmp_path / "data"
    place.mkdir()

    def refuse(path: object, *_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), str(path))

    with monkeypatch.context() as broken:
        broken.setattr(os, call, refuse) if call == "open" else broken.setattr(Path, call, refuse)
        with pytest.raises(OutboxRefused, match=f"data_dir {place} .*{os.strerror(number).lower()}.*{step}"):
            async with opened(place):
                pass
    async with opened(place) as outbox:
        await with_deliveries(outbox)


async def test_a_path_through_a_file_is_refused(tmp_path: Path) -> None:
    """A data_dir that is a file, and one below a file."""
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "data"):
        with pytest.raises(OutboxRefused, match="set it to a directory"):
            async with opened(place):
                pass


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
async def test_a_directory_that_cannot_be_made_now_is_made_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A full or failing disk at the start is no reason to refuse: it is tried again with each operation."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as broken:
        broken.setattr(Path, "mkdir", fail)
        manager = opened(tmp_path / "data")
        outbox = await manager.__aenter__()
        with pytest.raises(OutboxUnavailable):
            await outbox.check()
    await with_deliveries(outbox)
    await manager.__aexit__(None, None, None)


@pytest.mark.parametrize("damage", ["garbage", "header", "truncated"])
async def test_an_unreadable_file_is_set_aside(tmp_path: Path, damage: str) -> None:
    """An unreadable file is kept under another name, a new one is begun, and a warning names both."""
    async with opened(tmp_path) as outbox:
        await with_deliveries(outbox)
    path = tmp_path / "outbox.db"
    whole = path.read_bytes()
    harmed = {
        "garbage": os.urandom(len(whole)),
        "header": os.urandom(100) + whole[100:],
        "truncated": whole[: 3 * 4096],
    }[damage]
    path.write_bytes(harmed)
    async with opened(tmp_path) as outbox:
        for _ in range(2):  # a file that only turns out to be unreadable in use fails that one operation
            try:
                await outbox.subscribe({"crm": Filter()})
                await outbox.known("acme")
                await outbox.record("acme", None, change(event("c")))
                break
            except OutboxUnavailable:
                continue
        assert [one.event.key for one in await outbox.claim("crm", limit=9)] == ["101/c"]
        (warning,) = [one for one in outbox.warnings() if "was unreadable" in one]
    (kept,) = tmp_path.glob("*.unreadable-2026*0Z")  # noqa: ASYNC240
    assert kept.name in warning
    assert kept.read_bytes()[: len(harmed)] == harmed


async def test_a_file_that_spoils_in_use_is_set_aside(tmp_path: Path) -> None:
    """When the file is found unreadable while the service runs, it goes on with a new one; sinks stay subscribed."""
    async with opened(tmp_path) as outbox:
        await with_deliveries(outbox)
        (flying, other) = await outbox.claim("crm", limit=9)

        def spoil(deliveries: object) -> None:
            error = sqlite3.DatabaseError("database disk image is malformed")
            error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise error

        with pytest.raises(OutboxUnavailable, match="malformed"):
            await outbox._writer.submit(spoil)
        await outbox.record("acme", None, change(event("c")))
        await outbox.ack([Acked(flying, 0)])
        await outbox.dead_letter(other, reason="413", detail="", took_s=0)
        assert [one.event.key for one in await outbox.claim("crm", limit=9)] == ["101/c"]
        assert [one.dead for one in (await outbox.stats()).sinks] == [0], "an answer to the old file's event is nothing"
        assert len(outbox.warnings()) == 1


async def test_what_a_command_writes_while_the_file_is_closed_is_seen(tmp_path: Path) -> None:
    """After an error the file is opened again: a command may have made deliveries due meanwhile."""
    async with opened(tmp_path) as outbox:
        await with_deliveries(outbox)
        for delivery in await outbox.claim("crm", limit=9):
            await outbox.dead_letter(delivery, reason="413", detail="", took_s=0)
        assert await outbox.claim("crm", limit=9) == []

        def breaks_and_a_command_follows(deliveries: Deliveries) -> None:
            deliveries.connection.execute("ROLLBACK")
            with open_admin(tmp_path) as admin:
                assert admin.retry(TurnedClock().now()) == 2
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR_READ
            raise error

        with pytest.raises(OutboxUnavailable):
            await outbox._writer.submit(breaks_and_a_command_follows)
        await outbox.check()
        assert [one.event.key for one in await outbox.claim("crm", limit=9)] == ["101/a", "101/b"]


# A disk in trouble


async def test_a_full_disk(tmp_path: Path) -> None:
    """On a full disk nothing changes and each caller gets an error; with free space everything works again."""
    async with opened(tmp_path) as outbox:
        await with_deliveries(outbox)
        (first, second) = await outbox.claim("crm", limit=9)
        with full_disk((tmp_path / "outbox.db-wal").stat().st_size):
            for _ in range(3):
                with pytest.raises(OutboxUnavailable, match="free space"):
                    await outbox.record("acme", None, change(event("c")))
            with pytest.raises(OutboxUnavailable):
                await outbox.ack([Acked(first, 0)])
            with pytest.raises(OutboxUnavailable):
                await outbox.check()
            assert await pending(outbox) == 2, "what is there can still be read"
            assert await outbox.claim("crm", limit=9) == [], "a settlement that failed leaves the event in flight"
        await outbox.check()
        await outbox.ack([Acked(first, 0)])
        await outbox.record("acme", None, change(event("c")))
        assert [one.event.key for one in await outbox.claim("crm", limit=9)] == ["101/c"]
        assert await pending(outbox) == 2
        assert second.event.key == "101/b"


async def test_a_full_disk_fails_no_reader(tmp_path: Path) -> None:
    """Of operations in one commit that meets a full disk, those that only read are answered."""
    async with opened(tmp_path) as outbox:
        await with_deliveries(outbox)
        with full_disk((tmp_path / "outbox.db-wal").stat().st_size):
            results = await asyncio.gather(
                outbox.record("acme", None, change(event("c"))),
                outbox.claim("crm", limit=9),
                outbox.record("acme", None, change(event("d"))),
                return_exceptions=True,
            )
        assert [type(one) for one in results] == [OutboxUnavailable, list, OutboxUnavailable]
        assert await pending(outbox) == 2


async def test_trouble_halfway_leaves_nothing(tmp_path: Path) -> None:
    """What an operation had written before the disk gave trouble is not there afterwards."""
    async with opened(tmp_path) as outbox:

        def half(deliveries: Deliveries) -> None:
            memory.keep_note(deliveries.connection, "acme", "half", b"done")
            raise sqlite3.OperationalError("disk I/O error")

        with pytest.raises(OutboxUnavailable):
            await outbox._writer.submit(half)
        assert not (await outbox.known("acme")).notes


async def test_two_kinds_of_trouble_in_one_commit_keep_nothing_from_a_sink(tmp_path: Path) -> None:
    """What shares a commit with a fault, and then with trouble of the disk, is done once, and its sink is woken."""
    async with opened(tmp_path) as outbox:
        await outbox.subscribe({"crm": Filter()})
        assert await outbox.claim("crm", limit=9) == [], "so it waits for what is recorded"
        tries = 0

        def fails_when_alone(_: Deliveries) -> None:
            nonlocal tries
            tries += 1
            if tries > 1:
                raise sqlite3.OperationalError("disk I/O error")

        def falls(_: Deliveries) -> None:
            raise ValueError("a fault")

        results = await asyncio.gather(
            outbox.record("acme", None, change(event("a"))),
            outbox._writer.submit(falls),
            outbox._writer.submit(fails_when_alone),
            return_exceptions=True,
        )
        assert [type(one) for one in results] == [type(None), ValueError, OutboxUnavailable]
        assert tries == 2
        assert [one.event.key for one in await outbox.claim("crm", limit=9)] == ["101/a"]


async def test_a_disk_that_is_full_from_the_start(tmp_path: Path) -> None:
    """A service that starts on a full disk starts, says so, and works as soon as there is room."""
    with full_disk(0):
        opening = opened(tmp_path)
        outbox = await opening.__aenter__()
        with pytest.raises(OutboxUnavailable):
            await outbox.known("acme")
    try:
        assert not (await outbox.known("acme")).notes
        await with_deliveries(outbox)
        assert await pending(outbox) == 2
    finally:
        await opening.__aexit__(None, None, None)


async def test_a_read_only_disk(tmp_path: Path) -> None:
    """A disk that became read-only takes nothing, and everything again when it is mended."""
    async with opened(tmp_path) as outbox:
        await with_deliveries(outbox)
        await outbox._writer.submit(
            lambda deliveries: deliveries.connection.execute("PRAGMA query_only = 1") and None, reads=True
        )
        with pytest.raises(OutboxUnavailable, match="readonly"):
            await outbox.record("acme", None, change(event("c")))
        assert await pending(outbox) == 2
        await outbox._writer.submit(
            lambda deliveries: deliveries.connection.execute("PRAGMA query_only = 0") and None, reads=True
        )
        await outbox.record("acme", None, change(event("c")))
        assert await pending(outbox) == 3


async def test_a_refused_filter_change_changes_nothing(tmp_path: Path) -> None:
    """A change of sinks that the disk refused leaves the old ones subscribed."""
    async with opened(tmp_path) as outbox:
        await with_deliveries(outbox)
        with full_disk((tmp_path / "outbox.db-wal").stat().st_size), pytest.raises(OutboxUnavailable):
            await outbox.subscribe({"new": Filter()})
        await outbox.record("acme", None, change(event("c")))
        assert [(one.sink, one.pending) for one in (await outbox.stats()).sinks] == [("crm", 3)]


async def test_an_old_sqlite_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python with a library that lacks what the outbox needs is refused with both versions and the way out."""
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))
    with pytest.raises(OutboxRefused, match=r"needs 3\.35 or newer: run callcast with a newer Python"):
        async with opened(tmp_path):
            pass


# Others beside the service


async def test_what_a_command_writes_is_noticed(tmp_path: Path) -> None:
    """When another process makes something due, a waiting sink is woken within a second."""
    async with opened(tmp_path) as outbox:
        await with_deliveries(outbox)
        for delivery in await outbox.claim("crm", limit=9):
            at = TurnedClock().now().replace(year=2030)
            await outbox.retry(delivery, at=at, reason="503", detail="", took_s=0)
        waiting = asyncio.ensure_future(outbox.wait("crm", timeout_s=3600))
        write = "c.execute('UPDATE deliveries SET due_at = 0'); c.commit()"
        script = f"import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); {write}"
        command = await asyncio.create_subprocess_exec(sys.executable, "-c", script, str(tmp_path / "outbox.db"))
        assert await command.wait() == 0
        await asyncio.wait_for(waiting, 30)
        assert len(await outbox.claim("crm", limit=9)) == 2


async def test_the_loop_is_never_blocked(tmp_path: Path) -> None:
    """While another process holds the file, operations wait in the thread and the loop turns."""
    async with opened(tmp_path) as outbox:
        await with_deliveries(outbox)
        other = sqlite3.connect(tmp_path / "outbox.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        recording = asyncio.ensure_future(outbox.record("acme", None, change(event("c"))))
        for _ in range(50):
            await asyncio.sleep(0.001)
        assert not recording.done()
        other.execute("COMMIT")
        await recording
        other.close()


async def test_many_share_one_commit(tmp_path: Path) -> None:
    """Operations that wait together are committed together; one alone does not wait for company."""
    async with opened(tmp_path) as outbox:
        await with_deliveries(outbox)
        commits: list[str] = []
        await outbox._writer.submit(
            lambda deliveries: deliveries.connection.set_trace_callback(commits.append), reads=True
        )
        await asyncio.gather(*(outbox.record("acme", None, change(event(f"c{n}"))) for n in range(100)))
        assert 1 <= commits.count("COMMIT") <= 3
        commits.clear()
        await outbox.record("acme", None, change(event("alone")))
        assert commits.count("COMMIT") == 1


async def test_sessions_of_any_name_and_number_are_recalled(tmp_path: Path) -> None:
    """More than one statement takes, and names that JSON or SQL could trip over."""
    calls = [call(name) for name in ("a\0b", 'x"\\', "'", "é", *(f"s-{n}" for n in range(100)))]
    async with opened(tmp_path) as outbox:
        await outbox.record("acme", None, ChangeSet(calls=tuple(calls)))
        found = await outbox.recall("acme", [one.session_id for one in calls])
        assert sorted(one.call_id for one in found) == sorted(one.call_id for one in calls)
        assert await outbox.recall("acme", ["a"]) == []
        assert await outbox.recall("other", ["s-1"]) == []


async def test_every_read_is_by_an_index(tmp_path: Path) -> None:
    """No statement of a call's life scans a table, so that a million stored events cost no more than a thousand."""
    async with opened(tmp_path) as outbox:
        await with_deliveries(outbox)
        statements: set[str] = set()
        await outbox._writer.submit(
            lambda deliveries: deliveries.connection.set_trace_callback(statements.add), reads=True
        )
        await outbox.record("acme", None, change(event("a", "call.answered", 2)))
        first, second = await outbox.claim("crm", limit=2)
        now = TurnedClock().now()
        await outbox.retry(first, at=now, reason="503", detail="", took_s=0)
        await outbox.ack([Acked(second, 0)])
        claim_probe = await outbox.claim_probe("crm", after_seq=0)
        assert claim_probe is not None
        await outbox.claim_probe("crm", after_seq=0, fresh=True)
        await outbox.dead_letter(claim_probe, reason="413", detail="", took_s=0)
        await outbox.expire_overdue("crm", live_before=now, final_before=now)
        await outbox.make_due("crm")
        await outbox.wait("crm", timeout_s=0.001)
        await outbox.recall("acme", ["a"])
        await outbox.history(after_seq=0, limit=5)
        await outbox.note("acme", "x", b"y")
        await outbox.stats()
        await outbox._writer.submit(lambda deliveries: deliveries.connection.set_trace_callback(None), reads=True)
        plans = await outbox._writer.submit(
            lambda deliveries: {
                sql: [row[3] for row in deliveries.connection.execute(f"EXPLAIN QUERY PLAN {sql}")]
                for sql in statements
                if sql.lstrip().startswith(("SELECT", "INSERT", "UPDATE", "DELETE"))
            },
            reads=True,
        )
    # Tables of a few rows, what the statement itself was given, and what it has found already.
    small = ("sinks", "json_each", "CONSTANT ROW", "(subquery-")
    scans = {sql: step for sql, plan in plans.items() for step in plan if "SCAN" in step and not _about(step, small)}
    scans = {sql: step for sql, step in scans.items() if "sqlite_sequence" not in sql}
    assert len(plans) > 20
    assert scans == {}
    whole_source = [sql for sql, plan in plans.items() for step in plan if "calls" in step and "(source=?)" in step]
    assert whole_source == [], "by the source alone all its calls are gone through"
    assert not [sql for sql, plan in plans.items() for step in plan if "TEMP B-TREE" in step and "sinks" not in sql]


def _about(step: str, names: tuple[str, ...]) -> bool:
    return any(name in step for name in names)


# Killed


def test_killed_at_any_instant(tmp_path: Path) -> None:
    """kill -9 in the middle of commits: every event is pending or was sent, in order per call, with equal ids."""
    directory, promises = tmp_path / "data", tmp_path / "promises"
    zygote = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.outbox.killed", str(directory), str(promises)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert zygote.stdin is not None
    assert zygote.stdout is not None
    chance = random.Random(7)
    promises.touch()
    for life in range(KILLS):
        size = promises.stat().st_size
        zygote.stdin.write(f"{life}\n")
        zygote.stdin.flush()
        child = int(zygote.stdout.readline())
        wanted = size + chance.randint(1, 6000)
        deadline = time.monotonic() + 30
        while promises.stat().st_size < wanted:
            assert time.monotonic() < deadline, "the child does nothing"
            time.sleep(0.001)
        time.sleep(chance.random() * 0.003)
        os.kill(child, signal.SIGKILL)
    zygote.stdin.close()
    zygote.wait(10)
    zygote.stdout.close()
    asyncio.run(check_promises(directory, promises.read_text().splitlines()))


async def check_promises(directory: Path, promises: list[str]) -> None:
    recorded, sent, done = set(), defaultdict(list), defaultdict(set)
    for line in promises:
        match line.split():
            case ["recorded", id_]:
                recorded.add(id_)
            case ["sent", sink, seq, key, id_]:
                sent[sink].append((int(seq), key, id_))
            case ["done", sink, id_]:
                done[sink].add(id_)
    assert len(recorded) > KILLS
    async with opened(directory) as outbox:
        stored = {one.event.id: one.event for one in await outbox.history(after_seq=0, limit=1_000_000)}
        assert recorded <= set(stored)
        for sink, wanted in (("one", set(stored)), ("two", {i for i, e in stored.items() if e.type == "call.ended"})):
            await outbox.subscribe({"one": Filter(), "two": Filter(events=("call.ended",))})
            left = set()
            while deliveries := await outbox.claim(sink, limit=500):
                left |= {one.event.id for one in deliveries}
                await asyncio.gather(*(outbox.ack([Acked(one, 0)]) for one in deliveries))
            was_sent = {id_ for _, _, id_ in sent[sink]}
            assert left | was_sent >= wanted, "an event is lost"
            assert not left & done[sink], "an acknowledged event is pending again"
            assert was_sent <= wanted
            in_order(sent[sink])
    connection = sqlite3.connect(directory / "outbox.db")
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def in_order(sent: list[tuple[int, str, str]]) -> None:
    last: dict[str, int] = {}
    for seq, key, _ in sent:
        assert seq >= last.get(key, 0), "an event went out after a later one of its call"
        last[key] = seq


def test_an_event_that_was_stored_without_its_hint_is_read() -> None:
    stored = msgspec.msgpack.decode(encode(event()))
    del stored["hint"]
    assert event_of(msgspec.msgpack.encode(stored)) == event()
