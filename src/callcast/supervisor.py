"""Runs named tasks, each with its settings. A reload restarts only the tasks whose settings changed."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Coroutine, Mapping
from typing import Any, Generic, TypeVar

S = TypeVar("S")
Work = Coroutine[Any, Any, None]
Tasks = Collection[asyncio.Task[None]]


class TaskSupervisor(Generic[S]):
    """Runs `run(name, settings)` for each wanted name until it is removed or changed, or the supervisor stops.

    A task runs until it is cancelled, and may then finish its current work. An exception ends the task group, and so
    the process. `end(name)` runs after the last task of a removed name. Tasks of one name never overlap: two would
    poll or deliver twice.
    cancel_twice: a task that has not ended in time is cancelled again, and must then end at once.
    """

    def __init__(
        self,
        tasks: asyncio.TaskGroup,
        run: Callable[[str, S], Work],
        end: Callable[[str], Work],
        *,
        cancel_twice: bool = False,
    ) -> None:
        self._tasks = tasks
        self._run = run
        self._end = end
        self._cancel_twice = cancel_twice
        self._running: dict[str, tuple[S, asyncio.Task[None]]] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def outdated(self, wanted: Mapping[str, S]) -> frozenset[str]:
        """The running tasks that these settings change or remove."""
        return frozenset(name for name, (settings, _) in self._running.items() if wanted.get(name) != settings)

    async def apply(self, wanted: Mapping[str, S], *, patience_s: float, restart: Collection[str] = ()) -> None:
        """Stop tasks that are removed, changed or named in `restart`, then start what is missing.

        Waits up to twice `patience_s` seconds for a task to end. After that its successor starts once it has ended.
        """
        ending = self._cancel(self.outdated(wanted) | (self._running.keys() & set(restart)))
        ends = [self._task(name, self._end, name) for name in ending if name not in wanted]
        await self._await_end(ending.values(), ends, patience_s)
        for name, settings in wanted.items():
            if name not in self._running:
                self._running[name] = (settings, self._task(name, self._run, name, settings))

    async def stop(self, *, patience_s: float) -> None:
        """Cancel all tasks, and return when they have ended."""
        ending = self._cancel(tuple(self._running)).values()
        await self._await_end(ending, (), patience_s)
        if ending:
            await asyncio.wait(ending)

    def _task(self, name: str, work: Callable[..., Work], *args: Any) -> asyncio.Task[None]:
        return self._tasks.create_task(self._one_at_a_time(name, work, *args), name=name)

    async def _one_at_a_time(self, name: str, work: Callable[..., Work], *args: Any) -> None:
        async with self._locks[name]:
            await work(*args)

    def _cancel(self, names: Collection[str]) -> dict[str, asyncio.Task[None]]:
        ending = {name: self._running.pop(name)[1] for name in names}
        for task in ending.values():
            task.cancel()
        return ending

    async def _await_end(self, ending: Tasks, ends: Tasks, patience_s: float) -> None:
        tasks = [*ending, *ends]
        if not tasks:
            return
        _, slow = await asyncio.wait(tasks, timeout=patience_s)
        if slow and self._cancel_twice:
            for task in slow.intersection(ending):
                task.cancel()
            await asyncio.wait(slow, timeout=patience_s)
