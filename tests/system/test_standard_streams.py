"""The service and its standard streams: full, closed, blocked. None of it stops or ends it."""

import asyncio
import fcntl
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.system.world import WAIT_S, World, seed_world, until

PIPE_BYTES = 4096


@asynccontextmanager
async def running(
    world: World, *, stderr: int, closed: Sequence[int] = ()
) -> AsyncIterator[asyncio.subprocess.Process]:
    """The world's service with this standard error, and without these descriptors."""

    def close() -> None:
        for descriptor in closed:
            os.close(descriptor)

    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "callcast", "run", "--config", str(world.service.config)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=stderr,
        preexec_fn=close if closed else None,
    )
    world.service._process, world.service._readers = process, []
    try:
        await world.service.ready()
        yield
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def metric(world: World, name: str) -> float:
    async with aiohttp.ClientSession() as session, session.get(f"{world.service.url}/metrics") as answer:
        match = re.search(rf"^callcast_{re.escape(name)} (\S+)$", await answer.text(), re.MULTILINE)
    return float(match[1]) if match else 0.0


async def refuse_reloads(world: World, times: int) -> None:
    """Each is a long line of the log, that is never held back."""
    good = world.service.config.read_text()
    unknown = "".join(f"unknown_{number} = 1\n" for number in range(200))
    world.service.config.write_text(good.replace("[service]\n", f"[service]\n{unknown}"))
    async with aiohttp.ClientSession() as session:
        for _ in range(times):
            headers = {"content-type": "application/json"}
            async with session.post(f"{world.service.url}/-/reload", headers=headers, json={}) as answer:
                assert answer.status == 409
    world.service.config.write_text(good)


async def works(world: World) -> None:
    """It polls, delivers and answers."""
    before = len(world.webhook_ids())
    world.stage.show(world.stage.shown + 1)
    await until(lambda: len(world.webhook_ids()) > before, "an event at the webhook")


@pytest.mark.parametrize("trouble", ["blocked", "gone", "full"])
async def test_standard_error_that_takes_nothing_stops_nothing(trouble: str, tmp_path: Path) -> None:
    """A full pipe, a reader that left, a full disk: it goes on, counts the lines, and stops on SIGTERM."""
    read_end, write_end = os.pipe()
    fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    stderr = os.open("/dev/full", os.O_WRONLY) if trouble == "full" else write_end
    async with seed_world(tmp_path) as world:
        if trouble == "gone":
            os.close(read_end)
        async with running(world, stderr=stderr):
            await works(world)
            await refuse_reloads(world, 40)
            await works(world)
            assert await metric(world, "log_lines_dropped_total") > 0
            assert await world.service.stop() == 0
    for descriptor in {stderr, write_end, *([] if trouble == "gone" else [read_end])}:
        os.close(descriptor)


async def test_after_a_blocked_time_the_log_says_how_many_lines_are_missing(tmp_path: Path) -> None:
    """When the pipe is read again: whole lines of JSON, the count among them, the last lines at the end."""
    read_end, write_end = os.pipe()
    fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    async with seed_world(tmp_path) as world, running(world, stderr=write_end):
        await refuse_reloads(world, 40)
        dropped = await metric(world, "log_lines_dropped_total")
        os.close(write_end)
        with os.fdopen(read_end, "rb") as reader:
            text = asyncio.create_task(asyncio.to_thread(reader.read))
            assert await world.service.stop() == 0
            async with asyncio.timeout(WAIT_S):
                lines = [json.loads(line) for line in (await text).splitlines()]
    (missing,) = [line for line in lines if line["event"] == "log_lines_dropped"]
    assert missing["count"] == dropped > 0
    assert lines[-1]["event"] == "service_stopped"


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
async def test_closed_descriptors_harm_nothing(closed: Sequence[int], tmp_path: Path) -> None:
    """The service runs; the outbox and the sockets do not get the numbers; events for stdout wait."""
    log = tmp_path / "log"
    async with seed_world(tmp_path) as world:
        with log.open("wb") as file:
            async with running(world, stderr=file.fileno(), closed=closed):
                for descriptor in closed:
                    assert os.readlink(f"/proc/{world.service.pid}/fd/{descriptor}") == "/dev/null"  # noqa: PTH115
                await works(world)
                if 1 in closed:  # nothing is delivered to /dev/null
                    await refused(world)
                assert await world.service.stop() == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    names = {line["reason"] for line in lines if line["event"] == "standard_stream_closed"}
    if 2 not in closed:
        assert len(names) == len(closed)


async def refused(world: World) -> None:
    """The stdout sink has tried, and not taken /dev/null for a reader."""
    async with asyncio.timeout(WAIT_S):
        while not await metric(world, 'delivery_failures_total{reason="closed",sink="lines"}'):  # noqa: ASYNC110 (it lives in another process)
            await asyncio.sleep(0.05)
    assert await metric(world, 'event_latency_seconds_count{sink="lines"}') == 0


@pytest.mark.parametrize("command", [("--help",), ("schema", "event"), ("check", "--config", "nowhere.toml")])
def test_a_command_without_standard_streams(command: tuple[str, ...]) -> None:
    """The same exit code as with them."""

    def close() -> None:
        os.closerange(0, 3)

    open_ = subprocess.run([sys.executable, "-m", "callcast", *command], capture_output=True, check=False)
    shut = subprocess.run([sys.executable, "-m", "callcast", *command], preexec_fn=close, check=False)
    assert shut.returncode == open_.returncode


def test_a_start_that_fails_says_why_by_its_exit_code_alone(tmp_path: Path) -> None:
    """With standard error on a full disk nothing can be printed, and 69 stays 69."""
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        for command, code in ((("run",), 78), (("check",), 78), (("tail", "--url", "ftp://x"), 2)):
            done = subprocess.run([sys.executable, "-m", "callcast", *command, "--config", "none.toml"], stderr=full)
            assert done.returncode == code
