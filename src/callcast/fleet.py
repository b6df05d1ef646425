"""Named parts that run beside one another, each with its settings: a change touches only the parts it names."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Generic, TypeVar

S = TypeVar("S")


class Fleet(Generic[S]):
    """Runs `start(name, settings)` for each wanted name until it is unwanted, changed, or the fleet stops.

    A part runs until it is cancelled; one that raises ends the task group, and with it the process.
    """

    def __init__(self, tasks: asyncio.TaskGroup, start: Callable[[str, S], Coroutine[None, None, None]]) -> None:
        self._tasks = tasks
        self._start = start
        self._running: dict[str, tuple[S, asyncio.Task[None]]] = {}

    def outdated(self, wanted: Mapping[str, S]) -> frozenset[str]:
        """The running parts that these settings change or remove."""
        return frozenset(name for name, (settings, _) in self._running.items() if wanted.get(name) != settings)

    async def apply(self, wanted: Mapping[str, S]) -> None:
        """Stop what is unwanted or changed, then start what is missing."""
        await self.stop(self.outdated(wanted))
        for name, settings in wanted.items():
            if name not in self._running:
                self._running[name] = (settings, self._tasks.create_task(self._start(name, settings), name=name))

    async def stop(self, names: frozenset[str] | None = None) -> None:
        """Stop these, or all; returns when they have put everything in order."""
        stopping = [self._running.pop(name)[1] for name in (tuple(self._running) if names is None else names)]
        for task in stopping:
            task.cancel()
        for task in stopping:
            with suppress(asyncio.CancelledError):
                await task
