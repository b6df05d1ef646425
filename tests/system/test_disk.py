"""The service as a process, and its disk: full, or changed under it by somebody else."""

import asyncio
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from aiohttp import web

from tests.disks import small_disk
from tests.system.test_reload import Hook, Town, hook, town
from tests.system.test_ten_faults import logged, told
from tests.system.world import until

__all__ = ["hook", "town"]  # fixtures


class RefusingHook(Hook):
    """Answers nothing before the test says so. While `status` is a refusal, that is the answer."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = 0
        self.answers = asyncio.Event()

    async def take(self, request: web.Request) -> web.Response:
        if self.status == 204:
            return await super().take(request)
        status = self.status
        self.waiting += 1
        await self.answers.wait()
        return web.Response(status=status)


@pytest.mark.parametrize("status", [500, 413])
async def test_a_reload_on_a_full_disk_keeps_no_claim(town: Town, tmp_path: Path, status: int) -> None:
    """A refusal cannot be stored, and the sink is changed meanwhile: with room again its event arrives."""
    with small_disk(tmp_path / "disk") as disk:
        async with RefusingHook().listening() as hook:
            assert isinstance(hook, RefusingHook)
            hook.status = status
            always = (town.head(data_dir=str(disk.path / "data")), town.source())
            await town.start(*always, hook.sink("crm"))
            town.call()
            await until(lambda: hook.waiting == 1, "a delivery")
            disk.fill()
            hook.answers.set()
            failed = "an outcome that is not stored"
            await until(lambda: any(line.get("sink") == "crm" for line in town.logged("outbox_failed")), failed)
            hook.status = 204
            assert (await town.reload(*always, hook.sink("crm", timeout_s=7)))[0] == 200
            disk.free()
            await until(lambda: hook.types() == ["call.ringing"], "the event")
        await town.service.stop()


@pytest.mark.parametrize("how", ["deleted", "restored"])
async def test_a_replaced_outbox_loses_nothing(town: Town, hook: Hook, how: str) -> None:
    """Clean-up or restore under the running service is said in log and /readyz; after kill -9 all is delivered."""
    data = town.folder / "data"
    parts = (town.head(), town.source(), hook.sink("crm"))
    await town.start(*parts)
    backup = town.folder / "backup"
    with closing(sqlite3.connect(data / "outbox.db")) as source, closing(sqlite3.connect(backup)) as target:
        source.backup(target)
    hook.status = 500
    town.call("101")
    await until(lambda: len(hook.headers) == 1, "an attempt")
    for path in data.glob("outbox.db*"):
        path.unlink()
    if how == "restored":
        backup.rename(data / "outbox.db")
    warning = await told(town, "warnings", str(data / "outbox.db"), "deleted or replaced", "stop the service before")
    assert (await logged(town, "outbox_doubted"))["detail"] == warning
    town.call("102")
    await until(lambda: len(hook.headers) >= 2, "another attempt")
    await town.service.kill()
    hook.status = 204
    await town.service.start()
    await until(lambda: len({event["id"] for event in hook.events}) == 2, "both calls")
    assert await told_nothing(town)


async def told_nothing(town: Town) -> bool:
    await town.service.ready()
    return json.loads((await town.get("/readyz"))[1])["warnings"] == []
