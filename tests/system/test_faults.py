"""A fault of the program, wherever it is raised, ends the process with a trace and exit code 1: nothing hangs on."""

import asyncio
import json
import re
import signal
import sys
from contextlib import suppress
from pathlib import Path

import pytest

import callcast
from tests.system.faulty import PARTS
from tests.system.world import MOMENTS, WAIT_S, World, seed_world


async def ends(world: World, part: str) -> tuple[int, list[str]]:
    """The exit code of a service with this fault, and its log. Calls come, and reloads are requested, until then."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.system.faulty", part, "run", "--config", str(world.service.config)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        limit=1024 * 1024,
    )
    log = asyncio.create_task(process.communicate())
    try:
        async with asyncio.timeout(WAIT_S):
            while not log.done():
                await asyncio.wait([log], timeout=0.3)
                if world.stage.shown < len(MOMENTS) - 1 and world.stage.polls:
                    world.stage.show(world.stage.shown + 1)
                with suppress(ProcessLookupError):
                    if part == "reload" and world.stage.polls:
                        process.send_signal(signal.SIGHUP)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
    _, stderr = await log
    assert process.returncode is not None
    return process.returncode, stderr.decode().splitlines()


@pytest.mark.parametrize("part", PARTS)
async def test_a_fault_ends_the_process_with_a_trace(part: str, tmp_path: Path) -> None:
    """In a callback, a task that is not awaited, a thread, whichever part it is in. The trace is in the log, once."""
    async with seed_world(tmp_path) as world:
        if part == "budget":  # so that a request has to wait
            config = world.service.config
            slow = 'heavy_per_minute = 30\nhints = "off"'
            config.write_text(config.read_text().replace("heavy_per_minute = 10000", slow))
        if part == "alarm":  # so that something has to be tried again
            world.receiver.status = 500
        code, log = await ends(world, part)
    assert code == 1, log[-5:]
    (trace,) = [line for line in map(json.loads, log) if line["event"] == "program_failed"]
    assert "Injected" in trace["exception"]


# Where a task is begun that the same function awaits, or checks when it is done.
AWAITED = {"polling/poller.py", "polling/recorder.py", "ringcentral/push.py", "sinks/mqtt/sink.py", "testing.py"}


def test_no_task_is_begun_that_is_not_looked_at() -> None:
    """In a task group, `observed`, or awaited where it is begun: another one could fail unnoticed."""
    root = Path(callcast.__file__).parent
    bare = re.compile(r"(?<!observed\()asyncio\.(create_task|ensure_future)\(|loop\(\)\.create_task\(")
    found = {str(path.relative_to(root)) for path in root.rglob("*.py") if bare.search(path.read_text())}
    assert found == AWAITED
