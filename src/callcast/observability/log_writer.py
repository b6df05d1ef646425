"""Writes log lines to a descriptor in a thread, so that the caller never blocks."""

import os
import select
import threading
from collections import deque
from collections.abc import Callable

BYTES_MAX = 256 * 1024  # of buffered lines; a reader that is slow for a moment loses none


class LogWriter:
    """Writes complete lines in order. Lines that do not fit the buffer or cannot be written are dropped and counted.

    notice: returns the line that reports dropped lines; it is written as soon as writing works again.
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
        self._torn = False  # only the beginning of a line was written

    def write(self, text: str, *, always: bool = False) -> None:
        """Buffer one line without blocking. always: even if the buffer is full."""
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
        """Wait until all lines are written, at most `timeout_s`; returns whether they are."""
        with self._changed:
            self._run()
            return self._changed.wait_for(lambda: not self._lines and not self._busy, timeout_s)

    def _run(self) -> None:
        """Start the thread with the first line; a process that logs nothing needs none."""
        if self._lines and self._thread is None:
            self._thread = threading.Thread(target=self._work, name="callcast-log", daemon=True)
            self._thread.start()

    # In the thread

    def _work(self) -> None:
        try:
            self._write_on()
        finally:  # reached on a programming error only; its traceback is written by a new thread
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
        except OSError:  # closed or full; the next line may succeed
            return False
        return True

    def _some(self, rest: bytes) -> int:
        """Write a part and return its size; waits if another program has made the descriptor non-blocking."""
        try:
            return os.write(self._descriptor, rest)
        except BlockingIOError:
            poll = select.poll()
            poll.register(self._descriptor, select.POLLOUT)
            poll.poll()
            return 0
