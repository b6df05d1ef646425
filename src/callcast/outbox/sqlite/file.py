"""The open outbox file: opened when it is first used, again after an error, and restored when it was replaced.

Used in the writer thread only.
"""

import os
import sqlite3
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from callcast.outbox.sqlite import replaced, schema
from callcast.outbox.sqlite.codec import us_of
from callcast.outbox.sqlite.deliveries import Deliveries
from callcast.ports.clock import Clock
from callcast.ports.outbox import OutboxRefused, OutboxUnavailable
from callcast.ports.sink import Filter

PINNED_EVERY_S = 10.0  # time between two checks whether a reader holds a large WAL
REPLACED_PAUSE_S = 5.0  # between two attempts to restore a replaced outbox
_OPENINGS_MAX = 3


class OutboxFile:
    """other_file: called when the data of the file may no longer be that of before: with each opening, and with another
    file.
    """

    def __init__(self, directory: Path, clock: Clock, other_file: Callable[[], None]) -> None:
        self.warnings: dict[str, str] = {}  # by kind; the latest of each
        self.resets = 0  # how often the file was found unreadable, deleted or replaced
        self.filters: Mapping[str, Filter] = {}  # of the subscribed sinks, for a new file
        self._directory = directory
        self._clock = clock
        self._other_file = other_file
        self._lock: schema.Lock | None = None
        self._deliveries: Deliveries | None = None
        self._number_from = 0
        self._files: replaced.Identity = ()  # the files that the connection has open
        self._copy: int | None = None  # a descriptor of a restored copy, until the copy is open
        self._copy_failures = 0  # how often another file in its place was unreadable
        self._replaced: OutboxUnavailable | None = None  # why the last restore failed
        self._replaced_at = 0.0
        self._pinned = 0  # how often in a row a reader was found to hold the WAL
        self._pinned_checked_at = 0.0
        self._version = 0

    def opened(self) -> Deliveries:
        """Return the open file. Raises OutboxRefused, OutboxUnavailable, sqlite3.Error, OSError."""
        if self._replaced is not None:
            self._restore()
        if self._deliveries is None:
            if self._lock is None:
                schema.make_directory(self._directory)
                self._lock = schema.Lock(self._directory)
            else:
                self._recreate_directory()
            self._deliveries = self._open()
        return self._deliveries

    def _recreate_directory(self) -> None:
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._lock is not None and not self._lock.is_at(self._directory):
                old, self._lock = self._lock, schema.Lock(self._directory)
                old.release()
        except OutboxRefused as error:  # the service may continue once that process has ended
            raise OutboxUnavailable(str(error)) from error

    def _open(self) -> Deliveries:
        """Open the outbox file; again if it was replaced while it was being opened."""
        for _ in range(_OPENINGS_MAX):
            deliveries = self._open_once()
            files = replaced.identity(self._directory)
            if replaced.is_open(files) and (self._copy is None or replaced.identity_of(self._copy) == files[0]):
                break
            deliveries.connection.close()
        else:  # a file system with inconsistent inode numbers
            deliveries = self._open_once()
        self._files = replaced.identity(self._directory)
        self._forget_copy()
        self._other_file()  # a command may have written to it while it was closed
        return deliveries

    def _forget_copy(self) -> None:
        if self._copy is not None:
            os.close(self._copy)
            self._copy, self._copy_failures = None, 0

    def _open_once(self) -> Deliveries:
        at = self._clock.wall()
        if self._copy is not None:
            self._copy = replaced.restore_copy(self._copy, self._directory)
        replaced.install_copy(self._directory, at)
        if self._files and replaced.identity(self._directory)[0] != self._files[0]:
            replaced.set_aside_log(self._directory, at, self._files)
            self._use_new_file(at)
            self.warnings["lost"] = (
                f"the outbox {self._directory / schema.FILE} was deleted or replaced while it could not be used; "
                "its pending deliveries were not delivered: stop the service, then restore the file"
            )
        connection = schema.connect(self._directory)
        try:
            deliveries = Deliveries(connection)
            connection.execute("BEGIN IMMEDIATE")
            deliveries.number_from(self._number_from)
            now_us = us_of(self._clock.now())
            deliveries.correct_times(now_us)
            if self.filters:
                deliveries.subscribe(self.filters, now_us)
            connection.execute("COMMIT")
            self._version = deliveries.pragma("data_version")
        except sqlite3.Error:
            connection.close()
            raise
        return deliveries

    def recover(self, error: Exception) -> None:
        """Roll back. If the connection is unusable, close it, and the next operation opens the file again."""
        if self._deliveries is not None:
            with suppress(sqlite3.Error):
                if self._deliveries.connection.in_transaction:
                    self._deliveries.connection.execute("ROLLBACK")
            self._deliveries.forget(self.filters)
        if not schema.loses_connection(error):
            return
        if self._deliveries is not None and not self._check_files():
            return
        self.close()
        if schema.is_unreadable(error):
            self._start_new_file(error)

    def _start_new_file(self, error: Exception) -> None:
        with suppress(OSError):
            at = self._clock.wall()
            kept = schema.set_aside(self._directory, at, "unreadable")
            if self._copy is not None and self._copy_failures < _OPENINGS_MAX:
                self._copy_failures += 1  # another file was in the way; the copy is still there
                return
            self._forget_copy()
            self.resets += 1
            self._use_new_file(at)
            self.warnings["unreadable"] = (
                f"the outbox {self._directory / schema.FILE} was unreadable ({error}) and is kept as {kept.name}; "
                "a new one was created, and the pending deliveries of the old one were not delivered"
            )

    def _use_new_file(self, at: datetime) -> None:
        self._files = ()
        self._number_from = us_of(at) // 1000  # higher than all numbers of the old file
        self._other_file()

    def unavailable(self, error: Exception) -> OutboxUnavailable:
        return OutboxUnavailable(
            f"the outbox in {self._directory} cannot be used: {error}: "
            "check free space, permissions and the disk; the service retries automatically"
        )

    def stop(self) -> None:
        """Restore the file a last time if it was replaced, close it, and release the lock."""
        if self._deliveries is not None:
            self._replaced = None  # try now, even if the last attempt was recent
            self._check_files()
        if self._copy is not None:
            with suppress(sqlite3.Error, OSError, OutboxRefused, OutboxUnavailable):
                self.opened()
        self.close()
        if self._lock is not None:
            self._lock.release()

    def close(self) -> None:
        """Close the connection; the next operation opens the file again."""
        if self._deliveries is not None:
            with suppress(sqlite3.Error):
                self._deliveries.connection.close()
            self._deliveries = None

    # Regular checks

    def has_changed(self) -> bool:
        """Whether another process has written to the file since the last call. Also restores a replaced file."""
        if self._deliveries is None:
            return False
        self._check_files()
        before = self._version
        with suppress(sqlite3.Error):
            if self._deliveries is not None:
                self._version = self._deliveries.pragma("data_version")
        self._check_wal()
        return self._version != before

    def _check_wal(self) -> None:
        """Warn if a reader that never ends its transaction makes the WAL grow."""
        now_s = time.monotonic()
        if self._deliveries is None or now_s - self._pinned_checked_at < PINNED_EVERY_S:
            return
        self._pinned_checked_at = now_s
        wal = self._directory / f"{schema.FILE}-wal"
        self._pinned = self._pinned + 1 if self._is_pinned(self._deliveries.connection, wal) else 0
        if self._pinned >= 2:
            self.warnings["pinned"] = (
                f"{wal} is larger than {2 * schema.WAL_KEPT_BYTES / 1e6:.0f} MB and grows, because another program has "
                "kept a read transaction on the outbox open: find that program with "
                f"`fuser -v {wal}`, and stop it"
            )
        else:
            self.warnings.pop("pinned", None)

    def _is_pinned(self, connection: sqlite3.Connection, wal: Path) -> bool:
        """Whether the WAL is large and cannot be checkpointed completely."""
        if _size(wal) < 2 * schema.WAL_KEPT_BYTES:
            return False
        with suppress(sqlite3.Error):
            _, frames, moved = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            return bool(moved < frames)
        return False

    def bytes_used(self) -> int:
        """The file and its WAL."""
        return sum(_size(self._directory / f"{schema.FILE}{tail}") for tail in ("", "-wal"))

    # A file that was deleted or replaced

    def _check_files(self) -> bool:
        """Check that the names still lead to our files; if not, restore them and return false."""
        try:
            ours = replaced.identity(self._directory) == self._files
            if ours and self._lock is not None and self._lock.is_at(self._directory):
                return True
        except OSError:  # the next operation reports the error
            return True
        with suppress(OutboxUnavailable):
            self._restore()
        return ours

    def _restore(self) -> None:
        """Restore the files. Raises OutboxUnavailable while that fails, because new data would not be durable."""
        if self._replaced is not None and time.monotonic() < self._replaced_at + REPLACED_PAUSE_S:
            raise self._replaced
        self._replaced_at = time.monotonic()
        try:
            self._recreate_directory()
            if self._deliveries is not None and replaced.identity(self._directory) != self._files:
                self._write_copy(self._deliveries.connection)
        except (sqlite3.Error, OSError, OutboxUnavailable) as error:
            if schema.is_unread(error):  # the old data is lost; continue with the file that is there now
                self.close()
            self._replaced = OutboxUnavailable(
                f"the outbox {self._directory / schema.FILE} was deleted or replaced while the service runs, and "
                f"cannot be restored: {error}: fix this before you stop the service, which still has all "
                "pending deliveries; the service retries automatically"
            )
            raise self._replaced from error
        self._replaced = None

    def _write_copy(self, connection: sqlite3.Connection) -> None:
        at, ours = self._clock.wall(), self._files
        kept = replaced.set_aside_other(self._directory, at, ours)
        self._forget_copy()
        self._copy = replaced.write_copy(connection, self._directory)
        self._files = ()
        self.close()
        kept = replaced.install_copy(self._directory, at, ours=ours) or kept
        self.resets += 1
        there = f"the other file is kept as {kept.name}" if kept else "there was no other file"
        self.warnings["replaced"] = (
            f"the outbox {self._directory / schema.FILE} was deleted or replaced while the service ran, last at "
            f"{at:%Y-%m-%dT%H:%M:%SZ}, and was restored; {there}; nothing is lost: stop the service before you "
            "clean up its data_dir or restore it"
        )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
