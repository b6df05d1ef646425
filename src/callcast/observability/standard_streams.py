"""Makes standard input, output and error robust: they may be closed, full, or lose their reader."""

import io
import os
import sys
from typing import NoReturn, TextIO

from callcast.exit_codes import ExitCode

STANDARD_OUTPUT = 1
NAMES = {0: "standard input", 1: "standard output", 2: "standard error"}

closed_at_start: set[int] = set()


def prepare() -> None:
    """Replace closed standard streams. Call before any file is opened, which would otherwise get their descriptor."""
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
    sys.stdout = _text(_StandardOutput(1, "w", closefd=False), sys.__stdout__, "strict")
    sys.stderr = _text(_StandardError(2, "w", closefd=False), sys.__stderr__, "backslashreplace")


def _text(file: io.FileIO, before: TextIO | None, errors: str) -> io.TextIOWrapper:
    """A text file with the settings that Python uses for a standard stream."""
    return io.TextIOWrapper(
        io.BufferedWriter(file),
        encoding=before.encoding if before else "utf-8",
        errors=before.errors if before else errors,
        line_buffering=not isinstance(before, io.TextIOWrapper) or before.line_buffering or before.write_through,
    )


class _StandardOutput(io.FileIO):
    """Ends the command when its output cannot be written, with an error message and exit code.

    A closed pipe is not an error: its reader needs no more output.
    """

    def write(self, data: "memoryview | bytes", /) -> int | None:  # type: ignore[override]
        try:
            return super().write(data)
        except BrokenPipeError:
            self._leave(ExitCode.DONE)
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            print(f"callcast: standard output cannot be written: {why}", file=sys.stderr)  # noqa: T201
            self._leave(ExitCode.UNAVAILABLE)

    def _leave(self, code: int) -> NoReturn:
        """Exit, without the interpreter writing the remaining output."""
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self.fileno())
        os.close(null)
        raise SystemExit(code)


class _StandardError(io.FileIO):
    """Discards what cannot be written, so that it does not change what a command does or its exit code."""

    def write(self, data: "memoryview | bytes", /) -> int | None:  # type: ignore[override]
        try:
            return super().write(data)
        except OSError:
            return len(data)
