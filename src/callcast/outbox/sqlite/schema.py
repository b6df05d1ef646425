"""The outbox file: lock, tables, migrations, and errors that make it unusable."""

import errno
import fcntl
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from callcast.ports.outbox import OutboxRefused

FILE = "outbox.db"
LOCK = "outbox.lock"
BUSY_TIMEOUT_S = 2.0  # a command locks the file for milliseconds
_SQLITE_MIN = (3, 35)  # for RETURNING
WAL_KEPT_BYTES = 16 * 1024 * 1024
_UNREADABLE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_LOST_CONNECTION = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, *_UNREADABLE)

# States of a pending delivery. Only the oldest pending event of a call can be claimed, so that `claim` is one read of
# an index.
BEHIND = 0  # an older event of the same call is pending
READY = 1  # oldest of its call, due now
WAITING = 2  # oldest of its call, due later: retry delay
HELD = 3  # oldest of its call, due later: requested by the remote side (Retry-After)

# `followed`: the first event of a call that a sink got; it gets all later ones, even if the direction changes. A row
# lives as long as its call. `deliveries.pending_at`: when the event was recorded, or replayed by a command.
_TABLES = """
CREATE TABLE sinks (
  id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, removed_at INTEGER,
  pending INTEGER NOT NULL DEFAULT 0, dead INTEGER NOT NULL DEFAULT 0);
CREATE TABLE events (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, ordering_key INTEGER NOT NULL,
  recorded_at INTEGER NOT NULL, body BLOB NOT NULL);
CREATE INDEX events_by_ordering_key ON events (ordering_key, seq);
CREATE INDEX events_by_age ON events (recorded_at, seq);
CREATE TABLE deliveries (
  sink INTEGER NOT NULL, seq INTEGER NOT NULL, ordering_key INTEGER NOT NULL, state INTEGER NOT NULL,
  live INTEGER NOT NULL, fresh INTEGER NOT NULL, replayed INTEGER NOT NULL DEFAULT 0,
  pending_at INTEGER NOT NULL, due_at INTEGER NOT NULL, attempts INTEGER NOT NULL DEFAULT 0,
  first_tried_at INTEGER, reason TEXT NOT NULL DEFAULT '', detail TEXT NOT NULL DEFAULT '',
  PRIMARY KEY (sink, seq)) WITHOUT ROWID;
CREATE INDEX deliveries_ready ON deliveries (sink, replayed, seq) WHERE state = 1;
CREATE INDEX deliveries_waiting ON deliveries (sink, due_at) WHERE state > 1;
CREATE INDEX deliveries_by_ordering_key ON deliveries (sink, ordering_key, seq);
CREATE INDEX deliveries_fresh ON deliveries (sink, seq) WHERE fresh = 1;
CREATE INDEX deliveries_live ON deliveries (sink, seq) WHERE live = 1;
CREATE INDEX deliveries_tried ON deliveries (sink, seq) WHERE first_tried_at IS NOT NULL AND live = 0;
CREATE TABLE followed (
  ordering_key INTEGER NOT NULL, sink INTEGER NOT NULL, since INTEGER NOT NULL,
  PRIMARY KEY (ordering_key, sink)) WITHOUT ROWID;
CREATE TABLE dead (
  sink INTEGER NOT NULL, seq INTEGER NOT NULL, dead_at INTEGER NOT NULL, attempts INTEGER NOT NULL,
  reason TEXT NOT NULL, detail TEXT NOT NULL, PRIMARY KEY (sink, seq)) WITHOUT ROWID;
CREATE INDEX dead_by_age ON dead (dead_at);
CREATE TABLE attempts (
  seq INTEGER NOT NULL, sink INTEGER NOT NULL, n INTEGER NOT NULL, at INTEGER NOT NULL,
  word TEXT NOT NULL, detail TEXT NOT NULL, took_us INTEGER,
  PRIMARY KEY (seq, sink, n, at)) WITHOUT ROWID;
CREATE TABLE calls (
  source TEXT NOT NULL, call_id TEXT NOT NULL, session_id TEXT NOT NULL, ordering_key INTEGER NOT NULL,
  open INTEGER NOT NULL, touched_at INTEGER NOT NULL, body BLOB NOT NULL,
  PRIMARY KEY (source, call_id)) WITHOUT ROWID;
CREATE INDEX calls_by_session ON calls (source, session_id);
CREATE INDEX calls_open ON calls (source) WHERE open = 1;
CREATE INDEX calls_closed ON calls (touched_at) WHERE open = 0;
CREATE TABLE polls (
  source TEXT NOT NULL, extension_id TEXT NOT NULL, taken_at INTEGER NOT NULL,
  PRIMARY KEY (source, extension_id)) WITHOUT ROWID;
CREATE TABLE notes (
  source TEXT NOT NULL, name TEXT NOT NULL, value BLOB NOT NULL, PRIMARY KEY (source, name)) WITHOUT ROWID;
CREATE TABLE pulse (one INTEGER PRIMARY KEY CHECK (one = 1), beat INTEGER NOT NULL);
INSERT INTO pulse VALUES (1, 0);
CREATE TRIGGER delivery_added AFTER INSERT ON deliveries BEGIN
  UPDATE sinks SET pending = pending + 1 WHERE id = new.sink; END;
CREATE TRIGGER delivery_removed AFTER DELETE ON deliveries BEGIN
  UPDATE sinks SET pending = pending - 1 WHERE id = old.sink; END;
CREATE TRIGGER dead_letter_added AFTER INSERT ON dead BEGIN
  UPDATE sinks SET dead = dead + 1 WHERE id = new.sink; END;
CREATE TRIGGER dead_letter_removed AFTER DELETE ON dead BEGIN
  UPDATE sinks SET dead = dead - 1 WHERE id = old.sink; END;
CREATE TRIGGER call_followed AFTER INSERT ON deliveries WHEN new.replayed = 0 BEGIN
  INSERT OR IGNORE INTO followed VALUES (new.ordering_key, new.sink, new.seq); END;
CREATE TRIGGER call_forgotten AFTER DELETE ON calls BEGIN
  DELETE FROM followed WHERE ordering_key = old.ordering_key; END;
"""

_WRITE = "set it to a directory that the user of callcast can write, or change its owner (chown)"
# Errors that do not go away by themselves.
_PERMANENT_ERRORS = {
    errno.EACCES: _WRITE,
    errno.EPERM: _WRITE,
    errno.EROFS: "mount it writable, or set it to a directory on another disk (systemd: StateDirectory=)",
    errno.ENOENT: "create the directory above it, or set another one",
    errno.ENOTDIR: "set it to a directory; a part of this path is a file",
    errno.EEXIST: "set it to a directory; this is a file",
    errno.EISDIR: "move that directory away; callcast needs a file there",
    errno.ELOOP: "set another directory; its symbolic links form a loop",
    errno.ENAMETOOLONG: "use a shorter path",
}

Migration = Callable[[sqlite3.Connection], None]

OLDEST = 4  # the schema of `_TABLES`; a file of an older one is refused
# The n-th brings a file from schema OLDEST + n to the next; each runs in one transaction with the new number. From here
# on a migration only adds columns, tables and indexes, so that no file is refused again.
MIGRATIONS: tuple[Migration, ...] = ()


class Lock:
    """A lock held until the process ends, so that two services never share a directory."""

    def __init__(self, directory: Path) -> None:
        """Raises OutboxRefused if another process holds the lock or it cannot be created, OSError on a disk error."""
        path = directory / LOCK
        with refusing(directory):
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(self._file, 20, 0).decode(errors="replace").strip() or "unknown"
            os.close(self._file)
            raise OutboxRefused(
                f"{directory} is in use by another callcast service (process {owner}): "
                "stop that process, or set another data_dir"
            ) from None
        with suppress(OSError):  # a full disk; the lock works without the process id
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)

    def is_at(self, directory: Path) -> bool:
        """False after the lock file was deleted or replaced: then the lock has no effect any more."""
        with suppress(FileNotFoundError, NotADirectoryError):
            return os.path.samestat(os.fstat(self._file), (directory / LOCK).stat())
        return False

    def release(self) -> None:
        os.close(self._file)


@contextmanager
def refusing(directory: Path) -> Iterator[None]:
    """Turn permanent errors into OutboxRefused; other disk errors stay an OSError."""
    try:
        yield
    except OSError as error:
        if error.errno not in _PERMANENT_ERRORS:
            raise
        fix = _PERMANENT_ERRORS[error.errno]
        at = error.filename if error.filename not in (None, str(directory)) else ""
        where = f" ({at})" if at else ""
        raise OutboxRefused(f"data_dir {directory} cannot be used: {_words(error)}{where}: {fix}") from error


def make_directory(directory: Path) -> None:
    """Create the directory for this user only. Raises OutboxRefused on a permanent error, OSError on a disk error."""
    with refusing(directory):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(PermissionError):  # a volume may belong to another user and be writable for our group
            directory.chmod(0o700)
        for file in (LOCK, FILE):  # may belong to another user who ran a command here
            with suppress(FileNotFoundError):
                os.close(os.open(directory / file, os.O_RDWR | os.O_CLOEXEC))


def try_directory(directory: Path) -> None:
    """Raises OSError when nothing can be made in it, or it is no directory and cannot be made one.

    Leaves nothing behind. A full or failing disk is no reason: that may be over at the start.
    """
    with suppress(FileNotFoundError):
        directory.lstat()  # reports errors of the path itself
    existing = next(one for one in (directory, *directory.parents) if os.path.lexists(one))
    if not existing.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    try:
        os.rmdir(tempfile.mkdtemp(prefix=".callcast-", dir=existing))  # noqa: PTH106
    except OSError as error:
        if error.errno in _PERMANENT_ERRORS:
            raise


def _words(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def connect(directory: Path) -> sqlite3.Connection:
    """Open the file and migrate it to the newest schema.

    Raises sqlite3.Error or OSError; OutboxRefused if the schema is too new or too old.
    """
    path = directory / FILE
    if sqlite3.sqlite_version_info < _SQLITE_MIN:
        raise OutboxRefused(
            f"this Python has SQLite {sqlite3.sqlite_version}, but the outbox needs {_SQLITE_MIN[0]}.{_SQLITE_MIN[1]}"
            " or newer: run callcast with a newer Python"
        )
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, cached_statements=256)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA journal_size_limit = {WAL_KEPT_BYTES}")
        _migrate(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def newest() -> int:
    """The schema that this version writes."""
    return OLDEST + len(MIGRATIONS)


def check_version(connection: sqlite3.Connection, path: Path, found: int) -> None:
    """Raises OutboxRefused for a file that this version cannot read: `found` is its schema, 0 for a new file."""
    if found > newest():
        raise OutboxRefused(
            f"{path} was written by a newer callcast (schema {found}, this one knows {newest()}): "
            "run that version, or set another data_dir"
        )
    if 0 < found < OLDEST:
        pending, dead = connection.execute("SELECT sum(owed), sum(dead) FROM sinks").fetchone()
        raise OutboxRefused(
            f"{path} was written by an older callcast (schema {found}, this one reads {OLDEST} and later) and holds"
            f" {pending or 0} pending deliveries and {dead or 0} dead letters: run that version until they are"
            " delivered, then move the file away; this version starts a new one"
        )


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    found: int = connection.execute("PRAGMA user_version").fetchone()[0]
    check_version(connection, path, found)
    if not found:
        connection.execute("BEGIN IMMEDIATE")
        for statement in _statements(_TABLES):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {OLDEST}")
        connection.execute("COMMIT")
        found = OLDEST
    for number in range(found, newest()):
        connection.execute("BEGIN IMMEDIATE")
        MIGRATIONS[number - OLDEST](connection)
        connection.execute(f"PRAGMA user_version = {number + 1}")
        connection.execute("COMMIT")


def set_aside(directory: Path, at: datetime, why: str) -> Path:
    """Rename an outbox so that a new one can take its place; nothing is deleted. Returns the new name."""
    kept = directory / f"{FILE}.{why}-{at:%Y%m%dT%H%M%S%fZ}"
    (directory / FILE).rename(kept)
    for tail in ("-wal", "-shm"):
        part = directory / f"{FILE}{tail}"
        if part.exists():
            part.rename(kept.with_name(kept.name + tail))
    return kept


def is_unreadable(error: Exception) -> bool:
    return _primary_code(error) in _UNREADABLE


def is_unread(error: Exception) -> bool:
    """Whether the disk returned an error or wrong data on reading."""
    unread = (sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ)
    return is_unreadable(error) or getattr(error, "sqlite_errorcode", None) in unread


def loses_connection(error: Exception) -> bool:
    """Whether the connection must be closed and the file opened again after this error.

    False after a failed write: that is another form of a full disk, and reading still works.
    """
    failed_write = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_IOERR_WRITE
    return _primary_code(error) in _LOST_CONNECTION and not failed_write


def _primary_code(error: Exception) -> int:
    code = getattr(error, "sqlite_errorcode", None)
    return code & 0xFF if isinstance(code, int) else -1


def _statements(script: str) -> list[str]:
    """Split a script into statements. `executescript` cannot be used: it would commit the transaction."""
    statements, pending = [], ""
    for piece in script.split(";"):
        pending += piece + ";"
        if sqlite3.complete_statement(pending):
            statements.append(pending)
            pending = ""
    return statements
