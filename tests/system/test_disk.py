"""The service as a process, and its disk: full, or changed by another program."""

import asyncio
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.disks import small_disk
from tests.system.test_reload import Hook, Town, hook, town
from tests.system.test_ten_faults import logged, reported
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


async def test_what_cannot_be_stored_is_not_shown_as_of_now(town: Town, tmp_path: Path) -> None:
    """Polls go on over a full disk: `as_of` stands still, page, /readyz and metrics say it, and it ends by itself."""
    with small_disk(tmp_path / "disk") as disk:
        await town.start(town.head(data_dir=str(disk.path / "data")), town.source(), '[sinks.lines]\ntype = "stdout"')
        while await shown_as_of(town) is None:  # noqa: ASYNC110 (what is waited for is another process)
            await asyncio.sleep(0.05)
        disk.fill()
        town.call()
        await logged(town, "outbox_failed")
        as_of, polls = str(await shown_as_of(town)), town.platform.requests.count
        await until(lambda: town.platform.requests.count > polls + 30, "more polls")
        assert await shown_as_of(town) == as_of
        assert (await town.get("/readyz"))[0] == 503
        assert "callcast_outbox_writable 0.0" in (await town.get("/metrics"))[1]
        assert "callcast_ready 0.0" in (await town.get("/metrics"))[1]
        assert str(disk.path) in (await first_live_calls(town))["unstored"]["detail"]
        disk.free()
        await town.ready()
        assert str(await shown_as_of(town)) > as_of
        assert (await first_live_calls(town))["unstored"] is None
        assert "callcast_outbox_writable 1.0" in (await town.get("/metrics"))[1]
        await town.service.stop()


async def shown_as_of(town: Town) -> str | None:
    (source,) = json.loads((await town.get("/api/summary"))[1])["sources"]
    as_of: str | None = source["as_of"]
    return as_of


async def first_live_calls(town: Town) -> Any:
    """What the page is given first."""
    async with town.http.get(f"{town.service.url}/api/events?board=1") as answer:
        async for line in answer.content:
            if line.startswith(b"data: ") and b'"calls"' in line:
                return json.loads(line.removeprefix(b"data: "))
    raise AssertionError("the stream ended")


@pytest.mark.parametrize("how", ["deleted", "restored"])
async def test_a_replaced_outbox_loses_nothing(town: Town, hook: Hook, how: str) -> None:
    """A clean-up or restore of the open file is reported in the log and /readyz; after kill -9 all is delivered."""
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
    warning = await reported(
        town, "warnings", str(data / "outbox.db"), "deleted or replaced", "stop the service before"
    )
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
