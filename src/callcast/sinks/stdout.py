"""One line an event on standard output, or on any other file."""

import asyncio
import os
import select
import stat
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from threading import Event
from typing import BinaryIO, Literal

from pydantic import Field

from callcast.formats.cloudevents import Wire
from callcast.observability.standard_streams import STANDARD_OUTPUT, closed_at_start
from callcast.ports.connectivity import ConnectivityRequest, ConnectivityResult
from callcast.ports.sink import Delivered, Delivery, Outcome, Rejected, Retry, Sink, SinkContext
from callcast.sinks import SinkSettings

_PIECE = select.PIPE_BUF  # a pipe that polls as writable takes this much without blocking
_RETRY_MS = 50  # how soon a thread that waits for a reader sees that nobody waits for it any more

_STALLED = Retry("timeout", "the reader of standard output has stopped reading")


class Settings(SinkSettings):
    """`[sinks.NAME] type = "stdout"`. One line at a time, since there is one file."""

    type: Literal["stdout"] = "stdout"
    concurrency: int = Field(default=1, ge=1, le=1, description="there is one file, and so one line at a time")

    def open(self, context: SinkContext, /) -> AbstractAsyncContextManager[Sink]:
        if STANDARD_OUTPUT in closed_at_start:
            return nullcontext(_Closed())
        return self.open_on(sys.stdout.buffer, context)

    async def check_connectivity(self, _request: ConnectivityRequest, /) -> ConnectivityResult:
        return ConnectivityResult("unasked", "standard output needs nobody")

    @asynccontextmanager
    async def open_on(self, file: BinaryIO, context: SinkContext) -> AsyncIterator[Sink]:
        """The sink on a file of one's own, which needs a descriptor and stays open."""
        file.flush()
        thread = ThreadPoolExecutor(1, f"sink-{context.name}")
        lines = _WholeLines(file.fileno())
        try:
            yield _Lines(lines, thread, context.wire, self.timeout_s)
        finally:
            thread.shutdown(wait=False, cancel_futures=True)
            lines.close()


_ADVICE = {
    "closed": "restart callcast together with the program that reads its standard output",
    "timeout": "let the program that reads standard output read on, or restart it together with callcast",
    "write_failed": "look at where standard output goes: its disk may be full",
}


class _Closed:
    """Standard output that was not there at the start: /dev/null stands in for it, and takes no event for anybody."""

    async def send(self, _delivery: Delivery, /) -> Outcome:
        return Retry("closed", "standard output was closed when callcast started")

    def advice(self, _outcome: Retry | Rejected, /) -> str:
        return "start callcast with standard output open, or remove this sink"


class _Lines:
    def __init__(self, file: "_WholeLines", thread: ThreadPoolExecutor, wire: Wire, timeout_s: float) -> None:
        self._file = file
        self._thread = thread
        self._wire = wire
        self._timeout_s = timeout_s
        self._turn = asyncio.Lock()

    async def send(self, delivery: Delivery, /) -> Outcome:
        line = self._wire.event(delivery.event) + b"\n"
        if not self._turn.locked() and self._file.took_at_once(line):
            return Delivered()
        try:
            async with asyncio.timeout(self._timeout_s), self._turn:
                return await self._write(line)
        except TimeoutError:
            return _STALLED

    async def _write(self, line: bytes) -> Outcome:
        """In the thread; when cancelled, only after the thread has let go of the file."""
        nobody_waits = Event()
        job = asyncio.get_running_loop().run_in_executor(self._thread, self._file.write, line, nobody_waits)
        try:
            return await asyncio.shield(job)
        except asyncio.CancelledError:
            nobody_waits.set()
            await asyncio.wait([job])
            job.result()  # raises only what is a fault of the program
            raise

    def advice(self, outcome: Retry | Rejected, /) -> str:
        return _ADVICE.get(outcome.reason, "")


class _WholeLines:
    """A file that gets whole lines only: a line that was begun and had to wait comes first the next time."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._unblocking = _unblocking(descriptor)
        self._rest = b""
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)

    def took_at_once(self, line: bytes) -> bool:
        """Never waits, so it needs no thread: a pipe with room for all of it takes it, any other file nothing."""
        if self._unblocking is None or self._rest or len(line) > _PIECE:
            return False
        try:
            return os.write(self._unblocking, line) == len(line)
        except OSError:  # no room, or trouble, which the thread finds too
            return False

    def close(self) -> None:
        if self._unblocking is not None:
            os.close(self._unblocking)

    def write(self, line: bytes, nobody_waits: Event) -> Outcome:
        try:
            self._push(nobody_waits)
            if not self._rest:
                self._rest = line
                self._push(nobody_waits)
                if not self._rest:
                    return Delivered()
            return _STALLED
        except BrokenPipeError:
            return Retry("closed", "nobody reads standard output any more")
        except OSError as error:
            return Retry("write_failed", f"standard output: {os.strerror(error.errno or 0)}")
        finally:
            if self._rest is line:  # nothing of it is in the file
                self._rest = b""

    def _push(self, nobody_waits: Event) -> None:
        while self._rest and not nobody_waits.is_set():
            if self._poll.poll(_RETRY_MS):
                with suppress(BlockingIOError):
                    self._rest = self._rest[os.write(self._descriptor, self._rest[:_PIECE]) :]


def _unblocking(descriptor: int) -> int | None:
    """A pipe once more, as a description of its own: the one that others share must go on blocking for them."""
    if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        return None
    try:
        return os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:  # not on every system, nor for every user
        return None
