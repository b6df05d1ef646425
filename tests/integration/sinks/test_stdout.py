"""What is special to the stdout sink: whole lines, whatever the reader does."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cloudevents.v1.http import from_json
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from msgspec import structs

from callcast.calls.model import Party
from callcast.formats.cloudevents import Wire
from callcast.ports.sink import Delivered, Delivery, Retry
from callcast.sinks.stdout import Settings, _WholeLines
from callcast.testing import context, delivery, event, until
from tests.integration.sinks.remote_sides import FifoReader, fifo_remote_side


@pytest.fixture
async def pipe(tmp_path: Path) -> AsyncIterator[FifoReader]:
    async with fifo_remote_side(tmp_path) as remote_side:
        yield remote_side


def long_delivery(number: int = 0, size: int = 100_000) -> Delivery:
    """More than a pipe takes at once."""
    one = event(number)
    return delivery(number, of=structs.replace(one, call=structs.replace(one.call, from_party=Party(name="x" * size))))


async def test_a_line_is_the_event(pipe: FifoReader) -> None:
    """One line of JSON that the CloudEvents SDK can read, and nothing else."""
    await pipe.become("accepting")
    async with pipe.open(context()) as sink:
        assert await sink.send(delivery()) == Delivered()
    await until(lambda: bool(pipe.lines()))
    (line,) = pipe.lines()
    assert line == Wire().event(event())
    assert from_json(line)["type"] == "call.ringing"


async def test_a_file_gets_each_line_at_once(tmp_path: Path) -> None:
    """Nothing stays in a buffer: when the sink has answered, the line is in the file."""
    path = tmp_path / "events.jsonl"
    with path.open("wb") as file:
        file.write(b"before\n")
        async with Settings().open_on(file, context()) as sink:
            await sink.send(delivery())
            assert path.read_bytes() == b"before\n" + Wire().event(event()) + b"\n"


async def test_a_line_longer_than_the_pipe_arrives_whole(pipe: FifoReader) -> None:
    """Lines longer than a pipe's buffer are written while the reader reads."""
    await pipe.become("accepting")
    async with pipe.open(context()) as sink:
        assert await sink.send(long_delivery()) == Delivered()
        await until(lambda: len(pipe.received()) == 1)


async def test_a_cancelled_attempt_leaves_nothing_in_a_full_pipe(pipe: FifoReader) -> None:
    """What had not begun when it was cancelled never appears."""
    await pipe.become("holding")
    async with pipe.open(context()) as sink:
        sending = asyncio.create_task(sink.send(delivery(1)))
        await asyncio.sleep(0)
        sending.cancel()
        await asyncio.wait([sending])
        await pipe.become("accepting")
        assert await sink.send(delivery(2)) == Delivered()
        await until(lambda: bool(pipe.received()))
    assert pipe.received() == [event(2).id]


async def test_a_line_that_was_begun_is_finished_before_the_next(pipe: FifoReader) -> None:
    """Half a line is in the pipe when the time is up; the other half comes before anything else."""
    await pipe.become("holding")
    pipe.fill(leave=4096 * 4)
    async with pipe.open(context()) as sink:
        assert isinstance(await sink.send(long_delivery(1)), Retry)
        await pipe.become("accepting")
        assert await sink.send(delivery(2)) == Delivered()
        await until(lambda: len(pipe.received()) == 2)
    assert pipe.received() == [event(1).id, event(2).id]


async def test_a_pipe_that_is_read_needs_no_thread(pipe: FifoReader, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that fits goes out without a detour; one that does not, and every line to another file, through it."""
    detours: list[bytes] = []
    write = _WholeLines.write
    monkeypatch.setattr(_WholeLines, "write", lambda self, line, end: (detours.append(line), write(self, line, end))[1])
    await pipe.become("accepting")
    async with pipe.open(context()) as sink:
        assert await sink.send(delivery(1)) == Delivered()
        assert detours == []
        assert await sink.send(long_delivery(2)) == Delivered()
        assert len(detours) == 1
    await until(lambda: pipe.received() == [event(1).id, event(2).id])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
async def test_a_full_disk_is_retried() -> None:
    """No space left: `Retry`, and the process continues."""
    with Path("/dev/full").open("wb", buffering=0) as file:  # noqa: ASYNC230
        async with Settings().open_on(file, context()) as sink:
            outcome = await sink.send(delivery())
    assert isinstance(outcome, Retry)
    assert outcome.reason == "write_failed"
    assert outcome.detail == f"standard output: {os.strerror(28)}"


async def test_the_event_loop_is_free_without_a_reader(pipe: FifoReader) -> None:
    """A stalled reader blocks nothing else."""
    await pipe.become("holding")
    async with pipe.open(context()) as sink:
        sending = asyncio.create_task(sink.send(delivery()))
        for _ in range(100):
            await asyncio.sleep(0)
        assert not sending.done()
        assert isinstance(await sending, Retry)


async def test_standard_output_is_the_default(capfd: pytest.CaptureFixture[str]) -> None:
    """Without more ado the lines go to standard output, and standard error stays empty."""
    async with Settings().open(context()) as sink:
        await sink.send(delivery())
    out, err = capfd.readouterr()
    assert out == Wire().event(event()).decode() + "\n"
    assert err == ""


@hypothesis_settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.sampled_from(["send", "send long", "hold", "read", "cancel"]), max_size=12))
def test_there_are_only_ever_whole_lines(tmp_path_factory: pytest.TempPathFactory, steps: list[str]) -> None:
    """Whatever is sent, held up and cancelled in whatever order: whole lines, and what was delivered is there."""

    async def play() -> None:
        async with fifo_remote_side(tmp_path_factory.mktemp("pipe")) as pipe:
            pipe.settings = Settings(timeout_s=0.02)
            await pipe.become("accepting")
            delivered = []
            async with pipe.open(context()) as sink:
                for number, step in enumerate([*steps, "read", "send"]):
                    one = long_delivery(number) if step == "send long" else delivery(number)
                    if step in ("hold", "read"):
                        await pipe.become("holding" if step == "hold" else "accepting")
                    elif step == "cancel":
                        sending = asyncio.create_task(sink.send(one))
                        await asyncio.sleep(0.001)
                        sending.cancel()
                        await asyncio.wait([sending])
                    elif await sink.send(one) == Delivered():
                        delivered.append(one.event.id)
                while await sink.send(delivery(999)) != Delivered():
                    pass
            await until(lambda: event(999).id in pipe.received())
            assert [one for one in pipe.received() if one in delivered] == delivered

    asyncio.run(play())
