"""The thread that owns the connection. It commits all waiting operations together, so that they share one fsync."""

import asyncio
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from callcast.outbox.sqlite import replaced, schema
from callcast.outbox.sqlite.codec import us_of
from callcast.outbox.sqlite.deliveries import Deliveries
from callcast.ports.clock import Clock
from callcast.ports.outbox import OutboxRefused, OutboxUnavailable
from callcast.ports.sink import Filter

T = TypeVar("T")

POLL_S = 0.4  # how often to check whether a command has written to the file
_TOGETHER_MAX = 512  # operations in one commit, which limits the wait of the first one
PINNED_EVERY_S = 10.0  # time between two checks whether a reader holds a large WAL
REPLACED_PAUSE_S = 5.0  # between two attempts to restore a replaced outbox
_OPENINGS_MAX = 3
PATIENT_S = 0.01  # minimum time between commits that hold patient operations only


@dataclass(slots=True, eq=False)
class Job(Generic[T]):
    """One operation for the thread. `after` runs on the event loop, even if the caller was cancelled.

    reads: it changes nothing that must be durable. patient: it may wait to be committed with others. An operation may
    run again when another one of its commit failed.
    """

    run: Callable[[Deliveries], T]
    future: asyncio.Future[T]
    reads: bool
    patient: bool
    after: Callable[[T], None] | None
    result: Any = None
    error: BaseException | None = None

    def finish(self) -> None:
        if self.error is None and self.after is not None:
            self.after(self.result)
        if self.future.done():  # the caller was cancelled; other callers will report a disk error
            if self.error is not None and not isinstance(self.error, OutboxRefused | OutboxUnavailable):
                raise self.error
            return
        if self.error is None:
            self.future.set_result(self.result)
        else:
            self.future.set_exception(self.error)


class WriterThread:
    """Runs operations in order; all that wait are committed as one transaction.

    written_elsewhere: called on the event loop when another process has written to the file.
    """

    def __init__(self, directory: Path, clock: Clock, written_elsewhere: Callable[[], None]) -> None:
        self.warnings: dict[str, str] = {}  # by kind; the latest of each
        self.resets = 0  # how often the file was found unreadable, deleted or replaced
        self._filters: Mapping[str, Filter] = {}
        self._directory = directory
        self._clock = clock
        self._written_elsewhere = written_elsewhere
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[Job[Any] | None] = SimpleQueue()
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
        self._checked_at = 0.0
        self._patient: list[Job[Any]] = []
        self._committed_at = 0.0
        self._stopped: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._work, name="callcast-outbox", daemon=True)

    def start(self) -> None:
        self._thread.start()

    async def stop(self) -> None:
        """Finish queued operations, close the file, release the lock."""
        self._queue.put(None)
        await self._stopped
        self._thread.join()

    def submit(
        self,
        run: Callable[[Deliveries], T],
        *,
        reads: bool = False,
        patient: bool = False,
        after: Callable[[T], None] | None = None,
    ) -> asyncio.Future[T]:
        """Queue an operation; the future is done when it is on disk, or raises OutboxUnavailable without a change.

        Cancelling the caller does not cancel the operation.
        """
        job: Job[T] = Job(run, self._loop.create_future(), reads, patient, after)
        self._queue.put(job)
        return job.future

    # In the thread

    def _work(self) -> None:
        open_still = True
        while open_still:
            jobs, open_still = self._gather()
            if jobs:
                self._attempt(jobs)
                self._call(self._finish, jobs)
            self._check_for_other_writers()
        if self._deliveries is not None:
            self._replaced = None  # try now, even if the last attempt was recent
            self._check_files()
        if self._copy is not None:
            with suppress(sqlite3.Error, OSError, OutboxRefused, OutboxUnavailable):
                self._opened()
        self._close()
        if self._lock is not None:
            self._lock.release()
        self._call(self._stopped.set_result, None)

    def _gather(self) -> tuple[list[Job[Any]], bool]:
        """Wait for one operation and take all others that are queued.

        Patient operations wait for the next write, or until the last commit was `PATIENT_S` ago.
        """
        fetched, open_still = self._fetch(self._patience_s())
        jobs = [job for job in fetched if not job.patient]
        self._patient += (job for job in fetched if job.patient)
        if self._patience_s() > 0 and open_still and all(job.reads for job in jobs):
            return jobs, True
        jobs, self._patient = self._patient + jobs, []
        return jobs, open_still

    def _patience_s(self) -> float:
        return max(0.0, self._committed_at + PATIENT_S - time.monotonic()) if self._patient else POLL_S

    def _fetch(self, timeout_s: float) -> tuple[list[Job[Any]], bool]:
        jobs: list[Job[Any]] = []
        with suppress(Empty):
            job = self._queue.get(timeout=timeout_s)
            while job is not None:
                jobs.append(job)
                if len(jobs) == _TOGETHER_MAX:
                    return jobs, True
                job = self._queue.get_nowait()
            return jobs, False
        return jobs, True

    def _attempt(self, jobs: Sequence[Job[Any]]) -> None:
        try:
            deliveries = self._opened()
        except (OutboxRefused, OutboxUnavailable) as refusal:
            _fail(jobs, refusal)
            return
        except (sqlite3.Error, OSError) as error:
            self._recover(error)
            _fail(jobs, self._unavailable(error))
            return
        try:
            whole = self._commit(deliveries, jobs)
        except (sqlite3.Error, OSError) as error:
            self._recover(error)
            if len(jobs) == 1 or schema.is_unreadable(error):
                _fail(jobs, self._unavailable(error))
                return
            whole = False
        if not whole:
            for job in jobs:  # run each one alone: on a full disk, reads still succeed
                self._attempt([job])

    def _commit(self, deliveries: Deliveries, jobs: Sequence[Job[Any]]) -> bool:
        """Run and commit. False if one of several failed and everything was rolled back."""
        if all(job.reads for job in jobs):
            for job in jobs:
                self._run(deliveries, job)
            return True
        deliveries.connection.execute("BEGIN IMMEDIATE")
        for job in jobs:
            self._run(deliveries, job)
        failed = any(job.error is not None for job in jobs)
        deliveries.connection.execute("ROLLBACK" if failed else "COMMIT")
        self._committed_at = time.monotonic()
        if failed:
            deliveries.forget(self._filters)
            return len(jobs) == 1
        self._filters = deliveries.filters
        return True

    def _run(self, deliveries: Deliveries, job: Job[Any]) -> None:
        job.error = None
        try:
            job.result = job.run(deliveries)
        except (sqlite3.OperationalError, OSError):
            raise
        except sqlite3.DatabaseError as error:
            if schema.is_unreadable(error):
                raise
            job.error = error
        except Exception as error:  # noqa: BLE001 - raised in the caller; the other operations go on
            job.error = error

    def _opened(self) -> Deliveries:
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
            self._lock_again()
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
            if self._filters:
                deliveries.subscribe(self._filters, now_us)
            connection.execute("COMMIT")
            self._version = deliveries.pragma("data_version")
        except sqlite3.Error:
            connection.close()
            raise
        return deliveries

    def _recover(self, error: Exception) -> None:
        """Roll back. If the connection is unusable, close it, and the next operation opens the file again."""
        if self._deliveries is not None:
            with suppress(sqlite3.Error):
                if self._deliveries.connection.in_transaction:
                    self._deliveries.connection.execute("ROLLBACK")
            self._deliveries.forget(self._filters)
        if not schema.loses_connection(error):
            return
        if self._deliveries is not None and not self._check_files():
            return
        self._close()
        if schema.is_unreadable(error):
            self._start_new_file(error)

    def _start_new_file(self, error: Exception) -> None:
        with suppress(OSError):
            at = self._clock.wall()
            kept = schema.set_aside(self._directory, at, "unreadable")
            if (
                self._copy is not None and self._copy_failures < _OPENINGS_MAX
            ):  # another file was in the way; the copy is still there
                self._copy_failures += 1
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
        self._call(self._written_elsewhere)

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
                self._close()
            self._replaced = OutboxUnavailable(
                f"the outbox {self._directory / schema.FILE} was deleted or replaced while the service runs, and "
                f"cannot be restored: {error}: fix this before you stop the service, which still has all "
                "pending deliveries; the service retries automatically"
            )
            raise self._replaced from error
        self._replaced = None

    def _lock_again(self) -> None:
        if self._lock is not None and not self._lock.is_at(self._directory):
            old, self._lock = self._lock, schema.Lock(self._directory)
            old.release()

    def _write_copy(self, connection: sqlite3.Connection) -> None:
        at, ours = self._clock.wall(), self._files
        kept = replaced.set_aside_other(self._directory, at, ours)
        self._forget_copy()
        self._copy = replaced.write_copy(connection, self._directory)
        self._files = ()
        self._close()
        kept = replaced.install_copy(self._directory, at, ours=ours) or kept
        self.resets += 1
        there = f"the other file is kept as {kept.name}" if kept else "there was no other file"
        self.warnings["replaced"] = (
            f"the outbox {self._directory / schema.FILE} was deleted or replaced while the service ran, last at "
            f"{at:%Y-%m-%dT%H:%M:%SZ}, and was restored; {there}; nothing is lost: stop the service before you "
            "clean up its data_dir or restore it"
        )

    def _unavailable(self, error: Exception) -> OutboxUnavailable:
        return OutboxUnavailable(
            f"the outbox in {self._directory} cannot be used: {error}: "
            "check free space, permissions and the disk; the service retries automatically"
        )

    def _check_for_other_writers(self) -> None:
        now_s = time.monotonic()
        if self._deliveries is None or now_s - self._checked_at < POLL_S / 2:
            return
        self._checked_at = now_s
        self._check_files()
        with suppress(sqlite3.Error):
            version = self._deliveries.pragma("data_version") if self._deliveries else self._version
            if version != self._version:
                self._version = version
                self._call(self._written_elsewhere)

        self._check_wal()

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

    def _close(self) -> None:
        if self._deliveries is not None:
            with suppress(sqlite3.Error):
                self._deliveries.connection.close()
            self._deliveries = None

    def _call(self, what: Callable[..., object], *given: object) -> None:
        with suppress(RuntimeError):  # the event loop is closed
            self._loop.call_soon_threadsafe(what, *given)

    # In the loop

    def _finish(self, jobs: Sequence[Job[Any]]) -> None:
        for job in jobs:
            job.finish()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _fail(jobs: Sequence[Job[Any]], error: Exception) -> None:
    for job in jobs:
        job.error = error
