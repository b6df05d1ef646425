"""What to do when the outbox's file is deleted or replaced while the service has it open (a clean-up, a restore).

The open connection still has everything, in files that no name leads to any more: a process that is killed then takes
all of it along. So a whole copy is written beside, made durable, and given the outbox's name. What somebody has put
there meanwhile is kept under another name.
"""

import os
import sqlite3
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from callcast.outbox.sqlite.schema import FILE, set_aside

_TAILS = ("", "-wal", "-shm")
_PARTIAL = f"{FILE}.copying"
_COPY = f"{FILE}.copy"  # complete and durable; whoever opens the outbox next goes on with it

Identity = tuple[tuple[int, int] | None, ...]


def identity(directory: Path) -> Identity:
    """Device and inode of what the names lead to now: the file, its WAL, and the WAL's index."""
    return tuple(_identity(directory / f"{FILE}{tail}") for tail in _TAILS)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def write_copy(connection: sqlite3.Connection, directory: Path) -> None:
    """Everything that this connection sees. Raises sqlite3.Error or OSError; then there is no copy."""
    partial = directory / _PARTIAL
    with suppress(FileNotFoundError):
        partial.unlink()
    file = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        connection.execute("VACUUM INTO ?", (str(partial),))
        os.fsync(file)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise
    finally:
        os.close(file)
    partial.rename(directory / _COPY)
    _sync(directory)


def install_copy(directory: Path, at: datetime, *, ours: Identity = ()) -> Path | None:
    """Give a copy that was written the outbox's name, where there is one; no connection may be open.

    ours: what may be overwritten, because the copy has all of it. Returns where anything else is kept.
    """
    copy, path = directory / _COPY, directory / FILE
    if not copy.exists():
        return None
    kept = None
    if path.exists() and _identity(path) not in ours:
        kept = set_aside(directory, at, "replaced")
    for tail in _TAILS[1:]:  # one that belonged to another file would be played into this one
        path.with_name(f"{FILE}{tail}").unlink(missing_ok=True)
    copy.rename(path)
    _sync(directory)
    return kept


def _sync(directory: Path) -> None:
    """Renames are durable after this."""
    file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)
