"""The commands as a person or a pipe uses them: processes of their own, with or without a terminal."""

import asyncio
import os
import pty
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from tests.system.world import WAIT_S


class Program:
    """A running command. `out` and `err` are what it has written so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.out = ""
        self.err = ""

    async def wrote(self, text: str, *, to: str = "out") -> None:
        async with asyncio.timeout(WAIT_S):
            while text not in getattr(self, to):
                if self.process.returncode is not None and text not in getattr(self, to):
                    raise AssertionError(f"ended without {text!r}:\n{self.out}\n{self.err}")
                await asyncio.sleep(0.01)

    async def ended(self) -> int:
        async with asyncio.timeout(WAIT_S):
            return await self.process.wait()

    async def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        self.process.send_signal(number)
        return await self.ended()


@asynccontextmanager
async def program(
    *arguments: str, environ: Mapping[str, str] | None = None, terminal: bool = False
) -> AsyncIterator[Program]:
    """`callcast ARGUMENTS`, ended with the block if it has not ended by itself."""
    master, slave = pty.openpty() if terminal else (-1, -1)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "callcast", *arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=slave if terminal else asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "TERM": "xterm", **(environ or {})},
    )
    if terminal:
        os.close(slave)
    running = Program(process)
    readers = [asyncio.create_task(_read(process.stderr, running, "err"))]
    if terminal:
        asyncio.get_running_loop().add_reader(master, _read_terminal, master, running)
    else:
        readers.append(asyncio.create_task(_read(process.stdout, running, "out")))
    try:
        yield running
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await asyncio.gather(*readers)
        if terminal:
            asyncio.get_running_loop().remove_reader(master)
            os.close(master)


async def _read(stream: asyncio.StreamReader | None, running: Program, where: str) -> None:
    assert stream is not None
    async for line in stream:
        setattr(running, where, getattr(running, where) + line.decode())


def _read_terminal(master: int, running: Program) -> None:
    try:
        running.out += os.read(master, 65536).decode()
    except OSError:  # the other side is closed
        asyncio.get_running_loop().remove_reader(master)
