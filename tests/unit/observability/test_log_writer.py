"""The log writer with a descriptor that cannot be written: a full pipe, a closed one, a full disk."""

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from callcast.observability.log_writer import LogWriter

PIPE_BYTES = 4096
LINE = "x" * 99
SOON_S = 10.0


class Pipe:
    """A small pipe that the test reads."""

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe()
        fcntl.fcntl(self.write_end, fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    def fill(self) -> None:
        os.set_blocking(self.write_end, False)
        with suppress(BlockingIOError):
            while os.write(self.write_end, b"\n"):
                pass
        os.set_blocking(self.write_end, True)

    def lines(self, writer: LogWriter) -> list[str]:
        """Read until the writer has written everything."""
        done, text = threading.Event(), b""

        def close_at_the_end() -> None:
            writer.flush(SOON_S)
            done.set()
            os.close(self.write_end)

        threading.Thread(target=close_at_the_end).start()
        while piece := os.read(self.read_end, 65536):
            text += piece
        assert done.is_set()
        return text.decode().lstrip("\n").splitlines()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    one = Pipe()
    yield one
    for end in (one.read_end, one.write_end):
        with suppress(OSError):
            os.close(end)


def writer_to(descriptor: int, bytes_max: int = 1000) -> LogWriter:
    return LogWriter(descriptor, lambda count: f"dropped {count}", bytes_max)


def test_lines_come_in_order_and_whole(pipe: Pipe) -> None:
    """More than the pipe can hold, while the test reads: every line once."""
    writer = writer_to(pipe.write_end, bytes_max=1_000_000)
    written = [f"line {number} {LINE}" for number in range(1000)]
    for line in written:
        writer.write(line)
    assert pipe.lines(writer) == written
    assert writer.dropped == 0


def test_a_full_pipe_does_not_block_the_caller(pipe: Pipe) -> None:
    """Lines that do not fit are dropped and counted; the next line reports how many."""
    pipe.fill()
    writer = writer_to(pipe.write_end)
    for number in range(500):
        writer.write(f"{number} {LINE}")
    assert not writer.flush(0.01)
    dropped = writer.dropped
    assert dropped > 400
    lines = pipe.lines(writer)
    assert f"dropped {dropped}" in lines
    assert len(lines) == 500 - dropped + 1
    assert all(line == f"dropped {dropped}" or line.endswith(LINE) for line in lines)


def test_a_traceback_is_never_dropped(pipe: Pipe) -> None:
    """The last line of a process is written even if the buffer is full."""
    pipe.fill()
    writer = writer_to(pipe.write_end)
    for number in range(500):
        writer.write(f"{number} {LINE}")
    writer.write("the traceback", always=True)
    assert pipe.lines(writer)[-1] == "the traceback"


@pytest.mark.parametrize("failure", ["closed", "no_reader", "full"])
def test_lines_that_cannot_be_written_are_counted(failure: str, pipe: Pipe) -> None:
    """Nothing is raised."""
    descriptor = pipe.write_end
    if failure == "full":
        descriptor = os.open("/dev/full", os.O_WRONLY)
    elif failure == "no_reader":
        os.close(pipe.read_end)
    else:
        os.close(pipe.write_end)
        descriptor = pipe.write_end
    writer = writer_to(descriptor)
    for number in range(5):
        writer.write(f"line {number}")
        assert writer.flush(SOON_S)
    assert writer.dropped == 5


def test_after_a_failure_the_next_line_starts_on_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk was full in the middle of a line; the rest of the log is still readable."""
    file = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    real, room = os.write, [4]

    def write(descriptor: int, data: bytes) -> int:
        if descriptor != file or not room:
            return real(descriptor, data)
        if room[0] == 0:
            room.clear()
            raise OSError(28, "No space left on device")
        written, room[0] = real(descriptor, data[: room[0]]), 0
        return written

    monkeypatch.setattr("callcast.observability.log_writer.os.write", write)
    writer = writer_to(file)
    for line in ("first line", "second line"):
        writer.write(line)
        assert writer.flush(SOON_S)
    os.close(file)
    assert (tmp_path / "log").read_text() == "firs\nsecond line\ndropped 1\n"


def test_a_pipe_that_another_program_made_non_blocking_loses_nothing(pipe: Pipe) -> None:
    """The flag belongs to the pipe, which several programs may share."""
    os.set_blocking(pipe.write_end, False)
    writer = writer_to(pipe.write_end, bytes_max=1_000_000)
    written = [f"line {number} {LINE}" for number in range(200)]
    for line in written:
        writer.write(line)
    assert pipe.lines(writer) == written
