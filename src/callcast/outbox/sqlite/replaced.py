"""What to do when the outbox's file is deleted or replaced while the service has it open (a clean-up, a restore).

The open connection still has everything, in files that no name leads to any more: a process that is killed then takes
all of it along. So a whole copy is written beside, made durable, and given the outbox's name. What somebody has put
there meanwhile is kept under another name.
"""

import errno
import os
import sqlite3
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from callcast.outbox.sqlite.schema import FILE, set_aside

_TAILS = ("", "-wal", "-shm")
_PIECE = 1024 * 1024
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


def identity_of(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino


def is_open(files: Identity) -> bool:
    """Whether this process has all of them open: else a name came to lead elsewhere while they were being opened."""
    opened = set()
    try:
        for number in Path("/dev/fd").iterdir():
            with suppress(OSError):  # the directory's own
                opened.add(identity_of(int(number.name)))
    except OSError:  # a system without it
        return True
    return opened.issuperset(files)


def write_copy(connection: sqlite3.Connection, directory: Path) -> int:
    """Everything that this connection sees. Raises sqlite3.Error or OSError; then there is no copy.

    Returns a descriptor of it: whoever deletes or replaces the copy before it is opened does not lose it.
    """
    partial, file = _begin(directory)
    try:
        connection.execute("VACUUM INTO ?", (str(partial),))
        _end(partial, file, directory)
    except BaseException:
        os.close(file)
        _drop(partial)
        raise
    return file


def write_again(copy: int, directory: Path) -> int:
    """The copy of this descriptor, if its names are gone: returns that of the new one, in place of this one.

    Raises OSError; then this one is still good.
    """
    if identity_of(copy) in (_identity(directory / _COPY), _identity(directory / FILE)):
        return copy
    partial, file = _begin(directory)
    try:
        at = 0
        while piece := os.pread(copy, _PIECE, at):
            at += os.write(file, piece)
        _end(partial, file, directory)
    except BaseException:
        os.close(file)
        _drop(partial)
        raise
    os.close(copy)
    return file


def _begin(directory: Path) -> tuple[Path, int]:
    partial = directory / _PARTIAL
    with suppress(FileNotFoundError):
        partial.unlink()
    return partial, os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)


def _drop(partial: Path) -> None:
    with suppress(OSError):
        partial.unlink()


def _end(partial: Path, file: int, directory: Path) -> None:
    os.fsync(file)
    if not os.path.samestat(os.fstat(file), partial.stat()):
        raise FileNotFoundError(errno.ENOENT, "it was replaced while it was written", str(partial))
    partial.rename(directory / _COPY)
    _sync(directory)


def put_away(directory: Path, at: datetime, ours: Identity) -> Path | None:
    """Whatever has the outbox's name and is not ours, before a connection is closed: that deletes the WAL by its name.

    Returns where it is kept.
    """
    path = directory / FILE
    if path.exists() and _identity(path) not in ours:
        return set_aside(directory, at, "replaced")
    return None


def install_copy(directory: Path, at: datetime, *, ours: Identity = ()) -> Path | None:
    """Give a copy that was written the outbox's name, where there is one; no connection may be open.

    ours: what may be overwritten, because the copy has all of it. Returns where anything else is kept.
    """
    copy, path = directory / _COPY, directory / FILE
    if not copy.exists():
        return None
    kept = put_away(directory, at, ours)
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
