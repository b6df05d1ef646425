"""Log lines and a descriptor that does not take them: a full pipe, a closed one, a full disk."""

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
    """A small pipe, whose reader the test is."""

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
        """Everything that comes until the writer has nothing left."""
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
    """More than the pipe holds, while it is read: every line, once."""
    writer = writer_to(pipe.write_end, bytes_max=1_000_000)
    written = [f"line {number} {LINE}" for number in range(1000)]
    for line in written:
        writer.write(line)
    assert pipe.lines(writer) == written
    assert writer.dropped == 0


def test_a_full_pipe_does_not_block_the_caller(pipe: Pipe) -> None:
    """What does not fit is dropped and counted; the first line after it says how many."""
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


def test_a_trace_gets_through_a_full_buffer(pipe: Pipe) -> None:
    """The last line of a process is not the one that is dropped."""
    pipe.fill()
    writer = writer_to(pipe.write_end)
    for number in range(500):
        writer.write(f"{number} {LINE}")
    writer.write("the trace", always=True)
    assert pipe.lines(writer)[-1] == "the trace"


@pytest.mark.parametrize("trouble", ["closed", "gone", "full"])
def test_lines_that_cannot_be_written_are_counted(trouble: str, pipe: Pipe) -> None:
    """Each of them, and nothing is raised."""
    descriptor = pipe.write_end
    if trouble == "full":
        descriptor = os.open("/dev/full", os.O_WRONLY)
    elif trouble == "gone":
        os.close(pipe.read_end)
    else:
        os.close(pipe.write_end)
        descriptor = pipe.write_end
    writer = writer_to(descriptor)
    for number in range(5):
        writer.write(f"line {number}")
        assert writer.flush(SOON_S)
    assert writer.dropped == 5


def test_after_trouble_the_next_line_begins_a_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that was full in the middle of a line: the rest of the log can still be read."""
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
    """A terminal or pipe is shared, and so is this flag of it."""
    os.set_blocking(pipe.write_end, False)
    writer = writer_to(pipe.write_end, bytes_max=1_000_000)
    written = [f"line {number} {LINE}" for number in range(200)]
    for line in written:
        writer.write(line)
    assert pipe.lines(writer) == written
