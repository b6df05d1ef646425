"""A process of the bench that takes commands as JSON lines, each with one answer. It ends when its parent does."""

import asyncio
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import uvloop

_PR_SET_PDEATHSIG = 1
Answers = Callable[[dict[str, Any]], Any]


class BenchFailed(Exception):
    """The run cannot continue; the text has the cause in one line."""


class Child:
    """The parent's side of `python -m MODULE ARGUMENTS`. `hello` is what it prints once it is ready."""

    def __init__(self, module: str, *arguments: str, pass_fds: tuple[int, ...] = ()) -> None:
        self._name = module
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=pass_fds,
            start_new_session=True,  # the parent handles ^C
        )
        self._left = b""
        self.hello = json.loads(self._line(30.0))

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, do: str, *, timeout_s: float = 30.0, **facts: Any) -> Any:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **facts}).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise BenchFailed(f"{self._name} has ended") from None
        return json.loads(self._line(timeout_s))

    def _line(self, timeout_s: float) -> bytes:
        assert self._process.stdout is not None
        file, until = self._process.stdout.fileno(), time.monotonic() + timeout_s
        while b"\n" not in self._left:
            left_s = until - time.monotonic()
            if left_s <= 0 or not select.select([file], [], [], left_s)[0]:
                raise BenchFailed(f"{self._name} did not answer within {timeout_s:.0f} s")
            data = os.read(file, 1 << 20)
            if not data:
                raise BenchFailed(f"{self._name} has ended")
            self._left += data
        line, _, self._left = self._left.partition(b"\n")
        return line

    def close(self) -> None:
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()
        end(self._process, gently_s=2.0)


def die_with_parent() -> None:
    """In a child, before it runs its program: Linux ends it when the bench has ended, for any reason."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def end(process: subprocess.Popen[bytes], *, gently_s: float) -> None:
    """Ask it to end, wait, and kill it if it does not."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(gently_s)
    if process.poll() is None:
        process.kill()
        process.wait()


async def answer(hello: dict[str, Any], answers: Answers) -> None:
    """The child's side: print `hello`, then answer until the parent closes the pipe."""
    reader = asyncio.StreamReader()
    print(json.dumps(hello), flush=True)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        result = answers(json.loads(line))
        print(json.dumps(result), flush=True)


def run(work: Coroutine[Any, Any, None]) -> None:
    """On the event loop that the service uses: the measuring program must not be the slow part."""
    uvloop.run(work)
