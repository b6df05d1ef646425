"""Named tasks: which run, which are cancelled, and that two of one name never overlap."""

import asyncio
from contextlib import suppress

import pytest

from callcast.supervisor import TaskSupervisor

BRIEF_S = 0.01


class Troupe:
    """Tasks that record what happens to them. `stubborn` ones end only when they are cancelled twice."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.stubborn: set[str] = set()
        self.deaf: dict[str, asyncio.Event] = {}
        self.running: set[str] = set()

    async def run(self, name: str, settings: int) -> None:
        assert name not in self.running
        self.running.add(name)
        self.notes.append(f"{name} {settings}")
        try:
            await asyncio.Event().wait()
        finally:
            with suppress(asyncio.CancelledError):
                if name in self.stubborn:
                    await asyncio.Event().wait()
            while name in self.deaf and not self.deaf[name].is_set():
                with suppress(asyncio.CancelledError):
                    await self.deaf[name].wait()
            self.running.discard(name)
            self.notes.append(f"{name} {settings} gone")

    async def end(self, name: str) -> None:
        assert name not in self.running
        self.notes.append(f"{name} over")

    def take(self) -> list[str]:
        notes, self.notes = self.notes, []
        return notes


@pytest.fixture
def troupe() -> Troupe:
    return Troupe()


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_only_what_changed_is_touched(troupe: Troupe) -> None:
    """One stays, one changes, one goes and is ended after its last part, one comes."""
    async with asyncio.TaskGroup() as tasks:
        supervisor = TaskSupervisor(tasks, troupe.run, troupe.end)
        await supervisor.apply({"stays": 1, "changes": 1, "goes": 1}, patience_s=1)
        await settle()
        troupe.take()
        await supervisor.apply({"stays": 1, "changes": 2, "comes": 1}, patience_s=1)
        await settle()
        assert sorted(troupe.take()) == ["changes 1 gone", "changes 2", "comes 1", "goes 1 gone", "goes over"]
        await supervisor.apply({"stays": 1, "changes": 2, "comes": 1}, patience_s=1)
        await settle()
        assert troupe.take() == []
        await supervisor.stop(patience_s=1)
    assert sorted(troupe.take()) == ["changes 2 gone", "comes 1 gone", "stays 1 gone"]


async def test_a_task_that_does_not_end_is_cancelled_again(troupe: Troupe) -> None:
    """A part that finishes something for ever is broken off when patience is over."""
    troupe.stubborn = {"a"}
    async with asyncio.TaskGroup() as tasks:
        supervisor = TaskSupervisor(tasks, troupe.run, troupe.end, cancel_twice=True)
        await supervisor.apply({"a": 1}, patience_s=BRIEF_S)
        await settle()
        await supervisor.apply({"a": 2}, patience_s=BRIEF_S)
        await settle()
        assert troupe.take() == ["a 1", "a 1 gone", "a 2"]
        await supervisor.stop(patience_s=BRIEF_S)


async def test_a_restart_neither_waits_nor_overlaps(troupe: Troupe) -> None:
    """A part that will not go is left behind; its successor begins when it has gone, whatever was wanted between."""
    troupe.deaf = {"a": asyncio.Event()}
    async with asyncio.TaskGroup() as tasks:
        supervisor = TaskSupervisor(tasks, troupe.run, troupe.end, cancel_twice=True)
        await supervisor.apply({"a": 1, "b": 1}, patience_s=BRIEF_S)
        await settle()
        for number in (2, 3):
            await supervisor.apply({"a": number, "b": number}, patience_s=BRIEF_S)
            await settle()
        await supervisor.apply({"b": 3}, patience_s=BRIEF_S)
        await supervisor.apply({"a": 4, "b": 3}, patience_s=BRIEF_S)
        await settle()
        before = troupe.take()
        troupe.deaf["a"].set()
        await settle()
        after = troupe.take()
        await supervisor.stop(patience_s=BRIEF_S)
    assert before == ["a 1", "b 1", "b 1 gone", "b 2", "b 2 gone", "b 3"]
    assert after == ["a 1 gone", "a over", "a 4"]


async def test_a_part_that_breaks_ends_everything(troupe: Troupe) -> None:
    """A fault of the program is no trouble to live with: it reaches the task group."""

    async def broken(name: str, settings: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(ExceptionGroup):
        async with asyncio.TaskGroup() as tasks:
            await TaskSupervisor(tasks, broken, troupe.end).apply({"a": 1}, patience_s=BRIEF_S)


async def test_anew_starts_what_is_unchanged_again(troupe: Troupe) -> None:
    """For a part that was refused something that is free now."""
    async with asyncio.TaskGroup() as tasks:
        supervisor = TaskSupervisor(tasks, troupe.run, troupe.end)
        await supervisor.apply({"a": 1, "b": 1}, patience_s=1)
        await settle()
        troupe.take()
        await supervisor.apply({"a": 1, "b": 1}, patience_s=1, restart=["b", "unknown"])
        await settle()
        assert troupe.take() == ["b 1 gone", "b 1"]
        await supervisor.stop(patience_s=1)
