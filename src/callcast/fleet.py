"""Named parts that run beside one another, each with its settings: a change touches only the parts it names."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Coroutine, Mapping
from typing import Generic, TypeVar

S = TypeVar("S")


class Fleet(Generic[S]):
    """Runs `start(name, settings)` for each wanted name until it is unwanted, changed, or the fleet stops.

    A part runs until it is cancelled, and may then finish what it has begun; one that raises ends the task group,
    and with it the process. insists: a part is cancelled again when patience is over, and that means: at once.
    """

    def __init__(
        self, tasks: asyncio.TaskGroup, start: Callable[[str, S], Coroutine[None, None, None]], *, insists: bool
    ) -> None:
        self._tasks = tasks
        self._start = start
        self._insists = insists
        self._running: dict[str, tuple[S, asyncio.Task[None]]] = {}
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def outdated(self, wanted: Mapping[str, S]) -> frozenset[str]:
        """The running parts that these settings change or remove."""
        return frozenset(name for name, (settings, _) in self._running.items() if wanted.get(name) != settings)

    async def apply(self, wanted: Mapping[str, S], *, patience_s: float, anew: Collection[str] = ()) -> None:
        """Stop what is unwanted, changed or to be started `anew`, then start what is missing.

        A part that does not stop within twice the patience is left to do so by itself: its successor starts then.
        """
        await self._see_out(self._dismiss(self.outdated(wanted) | (self._running.keys() & set(anew))), patience_s)
        for name, settings in wanted.items():
            if name not in self._running:
                self._running[name] = (settings, self._tasks.create_task(self._in_turn(name, settings), name=name))

    async def stop(self, *, patience_s: float) -> None:
        """Stop all; returns when they have put everything in order."""
        leaving = self._dismiss(tuple(self._running))
        await self._see_out(leaving, patience_s)
        if leaving:
            await asyncio.wait(leaving)

    async def _in_turn(self, name: str, settings: S) -> None:
        async with self._turns[name]:  # two of one name would deliver twice, or poll twice
            await self._start(name, settings)

    def _dismiss(self, names: Collection[str]) -> list[asyncio.Task[None]]:
        leaving = [self._running.pop(name)[1] for name in names]
        for task in leaving:
            task.cancel()
        return leaving

    async def _see_out(self, leaving: list[asyncio.Task[None]], patience_s: float) -> None:
        if not leaving:
            return
        _, slow = await asyncio.wait(leaving, timeout=patience_s)
        if slow and self._insists:
            for task in slow:
                task.cancel()
            await asyncio.wait(slow, timeout=patience_s)
