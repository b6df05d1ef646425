"""Restores the outbox file when it was deleted or replaced while the service has it open (a clean-up, a restore).

The open connection still has all data, but in files without a name, which are lost when the process ends. So a complete
copy is written, synced to disk, and given the name of the outbox. A file that was put there meanwhile is kept under
another name.
"""

import errno
import os
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from callcast.outbox.sqlite.schema import FILE, set_aside

_TAILS = ("", "-wal", "-shm")
_PIECE = 1024 * 1024
_PARTIAL = f"{FILE}.copying"
_COPY = f"{FILE}.copy"  # complete and durable; the next opening of the outbox uses it

Identity = tuple[tuple[int, int] | None, ...]


def identity(directory: Path) -> Identity:
    """Device and inode of the current file, its WAL, and the WAL's index."""
    return tuple(_identity(directory / f"{FILE}{tail}") for tail in _TAILS)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def identity_of(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino


def is_open(files: Identity) -> bool:
    """Whether this process has all these files open. If not, a file was replaced while it was being opened."""
    opened = set()
    try:
        for number in Path("/dev/fd").iterdir():
            with suppress(OSError):  # the descriptor of the directory listing
                opened.add(identity_of(int(number.name)))
    except OSError:  # a system without /dev/fd
        return True
    return opened.issuperset(files)


def write_copy(connection: sqlite3.Connection, directory: Path) -> int:
    """Write a copy of all data of this connection. Raises sqlite3.Error or OSError; then there is no copy.

    Returns a descriptor, so that the data survives if the copy is deleted or replaced before it is opened.
    """
    return _written(directory, lambda partial, _: connection.execute("VACUUM INTO ?", (str(partial),)))


def restore_copy(copy: int, directory: Path) -> int:
    """Write the copy of this descriptor again if its file is gone. Returns the descriptor of the file to use.

    Raises OSError; then the given descriptor is still valid.
    """
    if identity_of(copy) in (_identity(directory / _COPY), _identity(directory / FILE)):
        return copy

    def fill(_: Path, file: int) -> None:
        at = 0
        while piece := os.pread(copy, _PIECE, at):
            at += os.write(file, piece)

    file = _written(directory, fill)
    os.close(copy)
    return file


def _written(directory: Path, fill: Callable[[Path, int], object]) -> int:
    """Write a complete and durable copy, and return its descriptor; or none, and raise."""
    partial = directory / _PARTIAL
    with suppress(FileNotFoundError):
        partial.unlink()
    file = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        fill(partial, file)
        os.fsync(file)
        if not os.path.samestat(os.fstat(file), partial.stat()):
            raise FileNotFoundError(errno.ENOENT, "the copy was replaced while it was written", str(partial))
        partial.rename(directory / _COPY)
        _sync(directory)
    except BaseException:
        os.close(file)
        with suppress(OSError):
            partial.unlink()
        raise
    return file


def set_aside_other(directory: Path, at: datetime, ours: Identity) -> Path | None:
    """Rename a file that replaced ours. Call before closing a connection, which deletes the WAL by name.

    Returns the new name of that file.
    """
    path = directory / FILE
    if path.exists() and _identity(path) not in ours:
        return set_aside(directory, at, "replaced")
    return None


def set_aside_log(directory: Path, at: datetime, ours: Identity) -> None:
    """Rename the WAL of a file that was replaced while it was closed: SQLite would apply it to the new file."""
    for tail in _TAILS[1:]:
        path = directory / f"{FILE}{tail}"
        if _identity(path) in set(ours) - {None}:
            path.rename(directory / f"{FILE}.replaced-{at:%Y%m%dT%H%M%S%fZ}{tail}")


def install_copy(directory: Path, at: datetime, *, ours: Identity = ()) -> Path | None:
    """Rename a written copy, if there is one, to the name of the outbox. No connection may be open.

    ours: files that may be overwritten, because the copy contains their data. Returns the new name of any other file.
    """
    copy, path = directory / _COPY, directory / FILE
    if not copy.exists():
        return None
    kept = set_aside_other(directory, at, ours)
    for tail in _TAILS[1:]:  # the WAL of another file would be applied to this one
        path.with_name(f"{FILE}{tail}").unlink(missing_ok=True)
    copy.rename(path)
    _sync(directory)
    return kept


def _sync(directory: Path) -> None:
    """Make renames durable."""
    file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)
