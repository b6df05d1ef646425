"""Writes each event as one line to standard output, or to another file."""

import asyncio
import os
import select
import stat
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from threading import Event
from typing import BinaryIO, ClassVar, Literal

from pydantic import Field

from callcast.formats.cloudevents import Wire
from callcast.observability.standard_streams import STANDARD_OUTPUT, closed_at_start
from callcast.ports.connectivity import ConnectivityRequest, ConnectivityResult
from callcast.ports.sink import Delivered, Delivery, Outcome, Rejected, Retry, Sink, SinkContext
from callcast.sinks import SinkSettings

_PIECE = select.PIPE_BUF  # a pipe that polls as writable accepts this much without blocking
_RETRY_MS = 50  # how often the writing thread checks whether it was cancelled

_STALLED = Retry("timeout", "the reader of standard output has stopped reading")


class Settings(SinkSettings):
    """One line of JSON per event on standard output."""

    example_name: ClassVar[str] = "lines"

    type: Literal["stdout"] = "stdout"
    concurrency: int = Field(default=1, ge=1, le=1, description="always 1: lines are written one at a time")

    def open(self, context: SinkContext, /) -> AbstractAsyncContextManager[Sink]:
        if STANDARD_OUTPUT in closed_at_start:
            return nullcontext(_Closed())
        return self.open_on(sys.stdout.buffer, context)

    async def check_connectivity(self, _request: ConnectivityRequest, /) -> ConnectivityResult:
        return ConnectivityResult("unasked", "standard output needs no connection")

    @asynccontextmanager
    async def open_on(self, file: BinaryIO, context: SinkContext) -> AsyncIterator[Sink]:
        """The sink on another file. It must have a descriptor, and stays open."""
        file.flush()
        thread = ThreadPoolExecutor(1, f"sink-{context.name}")
        lines = _WholeLines(file.fileno())
        try:
            yield _Lines(lines, thread, context.wire, self.timeout_s)
        finally:
            thread.shutdown(wait=False, cancel_futures=True)
            lines.close()


_FIXES = {
    "closed": "restart callcast together with the program that reads its standard output",
    "timeout": "check why the program that reads standard output has stopped, or restart it together with callcast",
    "write_failed": "check the file that standard output is redirected to: its disk may be full",
}


class _Closed:
    """Used when standard output was closed at the start. No event counts as delivered."""

    async def send(self, _delivery: Delivery, /) -> Outcome:
        return Retry("closed", "standard output was closed when callcast started")

    def fix(self, _outcome: Retry | Rejected, /) -> str:
        return "start callcast with standard output open, or remove this sink"


class _Lines:
    def __init__(self, file: "_WholeLines", thread: ThreadPoolExecutor, wire: Wire, timeout_s: float) -> None:
        self._file = file
        self._thread = thread
        self._wire = wire
        self._timeout_s = timeout_s
        self._lock = asyncio.Lock()

    async def send(self, delivery: Delivery, /) -> Outcome:
        line = self._wire.event(delivery.event) + b"\n"
        if not self._lock.locked() and self._file.write_at_once(line):
            return Delivered()
        try:
            async with asyncio.timeout(self._timeout_s), self._lock:
                return await self._write(line)
        except TimeoutError:
            return _STALLED

    async def _write(self, line: bytes) -> Outcome:
        """Write in the thread; a cancellation returns only after the thread has stopped using the file."""
        cancelled = Event()
        job = asyncio.get_running_loop().run_in_executor(self._thread, self._file.write, line, cancelled)
        try:
            return await asyncio.shield(job)
        except asyncio.CancelledError:
            cancelled.set()
            await asyncio.wait([job])
            job.result()  # raises only programming errors
            raise

    def fix(self, outcome: Retry | Rejected, /) -> str:
        return _FIXES.get(outcome.reason, "")


class _WholeLines:
    """A file that gets complete lines only: an unfinished line is completed before the next one."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._nonblocking = _nonblocking(descriptor)
        self._rest = b""
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)

    def write_at_once(self, line: bytes) -> bool:
        """Write without blocking, if the file is a pipe with room for the whole line; returns whether it did."""
        if self._nonblocking is None or self._rest or len(line) > _PIECE:
            return False
        try:
            return os.write(self._nonblocking, line) == len(line)
        except OSError:  # no room, or an error that the thread will report
            return False

    def close(self) -> None:
        if self._nonblocking is not None:
            os.close(self._nonblocking)

    def write(self, line: bytes, cancelled: Event) -> Outcome:
        try:
            self._push(cancelled)
            if not self._rest:
                self._rest = line
                self._push(cancelled)
                if not self._rest:
                    return Delivered()
            return _STALLED
        except BrokenPipeError:
            return Retry("closed", "the reader of standard output has closed it")
        except OSError as error:
            return Retry("write_failed", f"standard output: {os.strerror(error.errno or 0)}")
        finally:
            if self._rest is line:  # none of it was written
                self._rest = b""

    def _push(self, cancelled: Event) -> None:
        while self._rest and not cancelled.is_set():
            if self._poll.poll(_RETRY_MS):
                with suppress(BlockingIOError):
                    self._rest = self._rest[os.write(self._descriptor, self._rest[:_PIECE]) :]


def _nonblocking(descriptor: int) -> int | None:
    """Open the pipe again in non-blocking mode; the shared file description must stay blocking for other processes."""
    if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        return None
    try:
        return os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:  # not possible on every system or for every user
        return None
