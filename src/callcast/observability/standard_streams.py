"""Standard input, output and error as the process finds them: closed, full, or with a reader that leaves."""

import io
import os
import sys
from typing import NoReturn, TextIO

EXIT_DONE, EXIT_UNAVAILABLE = 0, 69
STANDARD_OUTPUT = 1
NAMES = {0: "standard input", 1: "standard output", 2: "standard error"}

closed_at_start: set[int] = set()


def prepare() -> None:
    """Before anything opens a file: it would get the number of a descriptor that is closed, and be written to."""
    for number in NAMES:
        try:
            os.fstat(number)
        except OSError:
            closed_at_start.add(number)
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
    sys.stdin = sys.stdin or io.TextIOWrapper(io.FileIO(0, closefd=False), encoding="utf-8")
    sys.stdout = _text(_Output(1, "w", closefd=False), sys.__stdout__, "strict")
    sys.stderr = _text(_Complaints(2, "w", closefd=False), sys.__stderr__, "backslashreplace")


def _text(file: io.FileIO, before: TextIO | None, errors: str) -> io.TextIOWrapper:
    """A text file as Python makes it for a standard stream."""
    return io.TextIOWrapper(
        io.BufferedWriter(file),
        encoding=before.encoding if before else "utf-8",
        errors=before.errors if before else errors,
        line_buffering=not isinstance(before, io.TextIOWrapper) or before.line_buffering or before.write_through,
    )


class _Output(io.FileIO):
    """Ends the command when its output cannot be written, wherever that is noticed: never an error of something else.

    A reader that leaves has had enough, and that is no error at all.
    """

    def write(self, data: "memoryview | bytes", /) -> int | None:  # type: ignore[override]
        try:
            return super().write(data)
        except BrokenPipeError:
            self._leave(EXIT_DONE)
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            print(f"callcast: standard output cannot be written: {why}", file=sys.stderr)  # noqa: T201
            self._leave(EXIT_UNAVAILABLE)

    def _leave(self, code: int) -> NoReturn:
        """The interpreter must not try to write the rest at its end."""
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self.fileno())
        os.close(null)
        raise SystemExit(code)


class _Complaints(io.FileIO):
    """Loses what cannot be written: that must not change what a command does, nor its exit code."""

    def write(self, data: "memoryview | bytes", /) -> int | None:  # type: ignore[override]
        try:
            return super().write(data)
        except OSError:
            return len(data)
