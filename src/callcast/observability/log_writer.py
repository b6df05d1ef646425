"""Log lines on their way to a descriptor. Writing never waits: a thread of its own does that."""

import os
import select
import threading
from collections import deque
from collections.abc import Callable

BYTES_MAX = 256 * 1024  # of lines that wait; a reader that is slow for a moment loses none


class LogWriter:
    """Puts whole lines on a descriptor, in order. A line that does not fit or cannot be written is dropped and counted.

    notice: makes the line that says how many were dropped; it is written as soon as lines can be written again.
    """

    def __init__(self, descriptor: int, notice: Callable[[int], str], bytes_max: int = BYTES_MAX) -> None:
        self.dropped = 0
        self._descriptor = descriptor
        self._notice = notice
        self._bytes_max = bytes_max
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self._busy = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._announced = 0  # of `dropped`
        self._torn = False  # the descriptor has the beginning of a line only

    def write(self, text: str, *, always: bool = False) -> None:
        """Take one line, without waiting for the descriptor. always: however full the buffer is."""
        line = text.encode("utf-8", "backslashreplace") + b"\n"
        with self._changed:
            if self._lines and self._bytes + len(line) > self._bytes_max and not always:
                self.dropped += 1
                return
            self._lines.append(line)
            self._bytes += len(line)
            self._run()
            self._changed.notify_all()

    def flush(self, timeout_s: float) -> bool:
        """Whether all lines are written, after at most so long."""
        with self._changed:
            self._run()
            return self._changed.wait_for(lambda: not self._lines and not self._busy, timeout_s)

    def _run(self) -> None:
        """Only when there is something to write: a process that logs nothing needs no thread."""
        if self._lines and self._thread is None:
            self._thread = threading.Thread(target=self._work, name="callcast-log", daemon=True)
            self._thread.start()

    # In the thread

    def _work(self) -> None:
        try:
            self._write_on()
        finally:  # only a fault of the program leads here; its trace finds a new thread
            with self._changed:
                self._thread, self._busy = None, False

    def _write_on(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines)
                line = self._lines.popleft()
                self._bytes -= len(line)
                self._busy = True
            written = self._put(line)
            unannounced = self.dropped - self._announced
            if written and unannounced and self._put(self._notice(unannounced).encode() + b"\n"):
                self._announced += unannounced
            with self._changed:
                self._busy = False
                if not written:
                    self.dropped += 1
                self._changed.notify_all()

    def _put(self, line: bytes) -> bool:
        rest = b"\n" + line if self._torn else line
        try:
            while rest:
                rest = rest[self._some(rest) :]
                self._torn = bool(rest)
        except OSError:  # closed, full, gone: the next line may have more luck
            return False
        return True

    def _some(self, rest: bytes) -> int:
        """How much of it was written; waits for a descriptor that another program has made non-blocking."""
        try:
            return os.write(self._descriptor, rest)
        except BlockingIOError:
            poll = select.poll()
            poll.register(self._descriptor, select.POLLOUT)
            poll.poll()
            return 0
