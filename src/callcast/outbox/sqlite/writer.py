"""The thread that owns the connection: takes all that waits as one commit, so that many share one fsync."""

import asyncio
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
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

POLL_S = 0.4  # how often the file is asked whether a command beside the service has written to it
_TOGETHER_MAX = 512  # operations in one commit, so that the first of them need not wait long for the last
PINNED_EVERY_S = 10.0  # a large WAL is asked twice, so long after one another, whether a reader holds it
REPLACED_PAUSE_S = 5.0  # between two tries to write a replaced outbox again
_OPENINGS_MAX = 3
PATIENT_S = 0.01  # between the last commit and one for the patient alone: so many commits a second at most


class Job(Generic[T]):
    """One operation on its way to the thread and back. `after` runs in the loop, whether or not anybody waits.

    reads: it changes nothing, or what it changes may be on the disk at any time. patient: it may wait for company.
    May be run again when others of its commit failed.
    """

    __slots__ = ("after", "error", "future", "patient", "reads", "result", "run")

    def __init__(
        self,
        run: Callable[[Deliveries], T],
        future: asyncio.Future[T],
        reads: bool,
        patient: bool,
        after: Callable[[T], None] | None,
    ) -> None:
        self.run = run
        self.future = future
        self.reads = reads
        self.patient = patient
        self.after = after
        self.result: T
        self.error: BaseException | None = None

    def finish(self) -> None:
        if self.error is None and self.after is not None:
            self.after(self.result)
        if self.future.done():  # the caller was cancelled meanwhile; trouble of the disk will show itself to others
            if self.error is not None and not isinstance(self.error, OutboxRefused | OutboxUnavailable):
                raise self.error
            return
        if self.error is None:
            self.future.set_result(self.result)
        else:
            self.future.set_exception(self.error)


class Worker:
    """Runs operations in order, each group of waiting ones as one transaction.

    written_elsewhere: called in the loop when another process has written to the file.
    """

    def __init__(self, directory: Path, clock: Clock, written_elsewhere: Callable[[], None]) -> None:
        self.warnings: dict[str, str] = {}  # by what happened; the last time of each
        self.resets = 0  # how often the file was found unreadable, deleted or replaced
        self.queued = 0
        self._filters: Mapping[str, Filter] = {}
        self._directory = directory
        self._clock = clock
        self._written_elsewhere = written_elsewhere
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[Job[Any] | None] = SimpleQueue()
        self._lock: schema.Lock | None = None
        self._deliveries: Deliveries | None = None
        self._number_from = 0
        self._files: replaced.Identity = ()  # those that the connection has open
        self._copy: int | None = None  # a descriptor of what was written again, until it is open under its name
        self._copy_doubts = 0  # how often what was opened in its place could not be read
        self._replaced: OutboxUnavailable | None = None  # why it could not be written again yet
        self._replaced_at = 0.0
        self._pinned = 0  # how often in a row a reader was found to hold the WAL
        self._pinned_asked_at = 0.0
        self._version = 0
        self._asked_at = 0.0
        self._patient: list[Job[Any]] = []
        self._committed_at = 0.0
        self._stopped: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._work, name="callcast-outbox", daemon=True)

    def start(self) -> None:
        self._thread.start()

    async def stop(self) -> None:
        """Finish what is queued, close the file, give up the lock."""
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
        """Done when it is on the disk. Raises OutboxUnavailable, then nothing has changed.

        Cancelling the caller does not take the operation back.
        """
        job: Job[T] = Job(run, self._loop.create_future(), reads, patient, after)
        self.queued += 1
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
            self._notice_other_writers()
        if self._deliveries is not None:
            self._replaced = None  # try it now, whenever it was tried last
            self._look_at_files()
        if self._copy is not None:
            with suppress(sqlite3.Error, OSError, OutboxRefused, OutboxUnavailable):
                self._opened()
        self._close()
        if self._lock is not None:
            self._lock.release()
        self._call(self._stopped.set_result, None)

    def _gather(self) -> tuple[list[Job[Any]], bool]:
        """Wait for one operation, take all others that are there: alone it never waits for company.

        The patient come with the next write, or by themselves when the last commit was long enough ago.
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
            for job in jobs:  # find out whose fault it is: a full disk still lets others read
                self._attempt([job])

    def _commit(self, deliveries: Deliveries, jobs: Sequence[Job[Any]]) -> bool:
        """False when nothing was kept because one of several cannot be done."""
        if all(job.reads for job in jobs):
            for job in jobs:
                self._run(deliveries, job)
            return True
        deliveries.connection.execute("BEGIN IMMEDIATE")
        for job in jobs:
            self._run(deliveries, job)
        spoiled = any(job.error is not None for job in jobs)
        deliveries.connection.execute("ROLLBACK" if spoiled else "COMMIT")
        self._committed_at = time.monotonic()
        if spoiled:
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
        except Exception as error:  # noqa: BLE001 - its caller's fault or ours; the others of this commit go on
            job.error = error

    def _opened(self) -> Deliveries:
        if self._replaced is not None:
            self._write_again()
        if self._deliveries is None:
            if self._lock is None:
                schema.make_directory(self._directory)
                self._lock = schema.Lock(self._directory)
            else:
                self._folder_again()
            self._deliveries = self._open()
        return self._deliveries

    def _folder_again(self) -> None:
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock_again()
        except OutboxRefused as error:  # the service runs, and may go on when that ends
            raise OutboxUnavailable(str(error)) from error

    def _open(self) -> Deliveries:
        """What has the outbox's name; opened anew while that is replaced in this very moment."""
        for _ in range(_OPENINGS_MAX):
            deliveries = self._open_once()
            files = replaced.identity(self._directory)
            if replaced.is_open(files) and (self._copy is None or replaced.identity_of(self._copy) == files[0]):
                break
            deliveries.connection.close()
        else:  # a file system whose numbers do not agree
            deliveries = self._open_once()
        self._files = replaced.identity(self._directory)
        self._forget_copy()
        return deliveries

    def _forget_copy(self) -> None:
        if self._copy is not None:
            os.close(self._copy)
            self._copy, self._copy_doubts = None, 0

    def _open_once(self) -> Deliveries:
        at = self._clock.wall()
        if self._copy is not None:
            self._copy = replaced.write_again(self._copy, self._directory)
        replaced.install_copy(self._directory, at)
        if self._files and replaced.identity(self._directory)[0] != self._files[0]:
            self._another_file(at)
            self.warnings["lost"] = (
                f"the outbox {self._directory / schema.FILE} was deleted or replaced while it could not be used: what "
                "was still pending there was not delivered; put it back while the service is stopped"
            )
        connection = schema.connect(self._directory)
        try:
            deliveries = Deliveries(connection)
            connection.execute("BEGIN IMMEDIATE")
            deliveries.number_from(self._number_from)
            now_us = us_of(self._clock.now())
            deliveries.set_times_right(now_us)
            if self._filters:
                deliveries.subscribe(self._filters, now_us)
            connection.execute("COMMIT")
            self._version = deliveries.pragma("data_version")
        except sqlite3.Error:
            connection.close()
            raise
        return deliveries

    def _recover(self, error: Exception) -> None:
        """Roll back; where the connection cannot be trusted any more, the next operation opens the file again."""
        if self._deliveries is not None:
            with suppress(sqlite3.Error):
                if self._deliveries.connection.in_transaction:
                    self._deliveries.connection.execute("ROLLBACK")
            self._deliveries.forget(self._filters)
        if not schema.loses_connection(error):
            return
        if self._deliveries is not None and not self._look_at_files():
            return
        self._close()
        if schema.is_unreadable(error):
            self._begin_anew(error)

    def _begin_anew(self, error: Exception) -> None:
        with suppress(OSError):
            at = self._clock.wall()
            kept = schema.set_aside(self._directory, at, "unreadable")
            if self._copy is not None and self._copy_doubts < _OPENINGS_MAX:  # it came between, and the copy is there
                self._copy_doubts += 1
                return
            self._forget_copy()
            self.resets += 1
            self._another_file(at)
            self.warnings["unreadable"] = (
                f"the outbox {self._directory / schema.FILE} was unreadable ({error}) and is kept as {kept.name}; "
                "a new one was begun, and what was still pending there was not delivered"
            )

    def _another_file(self, at: datetime) -> None:
        self._files = ()
        self._number_from = us_of(at) // 1000  # beyond all numbers of the old file
        self._call(self._written_elsewhere)

    # A file that was deleted or replaced

    def _look_at_files(self) -> bool:
        """False when others have the names of ours: then everything is written again."""
        try:
            ours = replaced.identity(self._directory) == self._files
            if ours and self._lock is not None and self._lock.is_at(self._directory):
                return True
        except OSError:  # the next operation finds out what is wrong
            return True
        with suppress(OutboxUnavailable):
            self._write_again()
        return ours

    def _write_again(self) -> None:
        """Raises OutboxUnavailable while that fails: what was recorded meanwhile would be gone with the process."""
        if self._replaced is not None and time.monotonic() < self._replaced_at + REPLACED_PAUSE_S:
            raise self._replaced
        self._replaced_at = time.monotonic()
        try:
            self._folder_again()
            if self._deliveries is not None and replaced.identity(self._directory) != self._files:
                self._write_copy(self._deliveries.connection)
        except (sqlite3.Error, OSError, OutboxUnavailable) as error:
            if schema.is_unread(error):  # for ever, so that only what lies there now is left
                self._close()
            self._replaced = OutboxUnavailable(
                f"the outbox {self._directory / schema.FILE} was deleted or replaced while the service runs, and "
                f"cannot be written again: {error}: mend this before you end the service, which still holds what "
                "is not delivered; it is tried again by itself"
            )
            raise self._replaced from error
        self._replaced = None

    def _lock_again(self) -> None:
        if self._lock is not None and not self._lock.is_at(self._directory):
            old, self._lock = self._lock, schema.Lock(self._directory)
            old.release()

    def _write_copy(self, connection: sqlite3.Connection) -> None:
        at, ours = self._clock.wall(), self._files
        kept = replaced.put_away(self._directory, at, ours)
        self._forget_copy()
        self._copy = replaced.write_copy(connection, self._directory)
        self._files = ()
        self._close()
        kept = replaced.install_copy(self._directory, at, ours=ours) or kept
        self.resets += 1
        there = f"what was put there is kept as {kept.name}" if kept else "nothing else was there"
        self.warnings["replaced"] = (
            f"the outbox {self._directory / schema.FILE} was deleted or replaced while the service ran, last at "
            f"{at:%Y-%m-%dT%H:%M:%SZ}, and was written again; {there}; nothing is lost: stop the service before you "
            "clean up its data_dir or restore it"
        )

    def _unavailable(self, error: Exception) -> OutboxUnavailable:
        return OutboxUnavailable(
            f"the outbox in {self._directory} cannot be used: {error}: "
            "check free space, permissions and the disk's health; it is tried again by itself"
        )

    def _notice_other_writers(self) -> None:
        now_s = time.monotonic()
        if self._deliveries is None or now_s - self._asked_at < POLL_S / 2:
            return
        self._asked_at = now_s
        self._look_at_files()
        with suppress(sqlite3.Error):
            version = self._deliveries.pragma("data_version") if self._deliveries else self._version
            if version != self._version:
                self._version = version
                self._call(self._written_elsewhere)

        self._look_at_wal()

    def _look_at_wal(self) -> None:
        """A reader that never ends its transaction lets the WAL grow until the disk is full."""
        now_s = time.monotonic()
        if self._deliveries is None or now_s - self._pinned_asked_at < PINNED_EVERY_S:
            return
        self._pinned_asked_at = now_s
        wal = self._directory / f"{schema.FILE}-wal"
        self._pinned = self._pinned + 1 if self._is_pinned(self._deliveries.connection, wal) else 0
        if self._pinned >= 2:
            self.warnings["pinned"] = (
                f"{wal} has more than {2 * schema.WAL_KEPT_BYTES / 1e6:.0f} MB and grows, because another program has "
                "been reading the outbox for long; it shrinks when that one ends its transaction: find it with "
                f"`fuser -v {wal}`, and end it"
            )
        else:
            self.warnings.pop("pinned", None)

    def _is_pinned(self, connection: sqlite3.Connection, wal: Path) -> bool:
        """Whether what is in the WAL cannot all be moved to the file; tries it only where the WAL is large."""
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
        with suppress(RuntimeError):  # the loop is closed: nobody is there to hear it
            self._loop.call_soon_threadsafe(what, *given)

    # In the loop

    def _finish(self, jobs: Sequence[Job[Any]]) -> None:
        self.queued -= len(jobs)
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
