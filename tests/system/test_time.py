"""The service as a process, and the time: a wall clock that is wrong or put right, a machine that is suspended."""

import asyncio
from pathlib import Path

import pytest

from tests.faketime import WallClock
from tests.system.test_reload import DESKS, Hook, Town, hook, town
from tests.system.world import WAIT_S, until

__all__ = ["hook", "town"]  # fixtures

HOUR_S = 3600
DAY_S = 24 * HOUR_S
RINGING, ENDED = (f'callcast_events_total{{type="call.{what}"}}' for what in ("ringing", "ended"))


@pytest.fixture
def wall(tmp_path: Path) -> WallClock:
    return WallClock(tmp_path)


async def failing(town: Town, hook: Hook, **keys: object) -> tuple[str, ...]:
    """Ring both extensions while the receiver is down, until that is stored. Returns the configuration."""
    parts = (town.head(), town.source(), hook.sink("crm", **keys))
    hook.status = 500
    await town.start(*parts)
    for admin in ("101", "102"):
        town.call(admin)
    await until(lambda: len(hook.headers) >= 2, "two attempts")
    return parts


async def counted(town: Town, metric: str, count: float) -> None:
    await town.service.ready()
    async with asyncio.timeout(WAIT_S):
        while await town.metric(metric) != count:  # noqa: ASYNC110 (another process counts)
            await asyncio.sleep(0.05)


async def test_a_clock_that_was_ahead_delays_nothing(town: Town, hook: Hook, wall: WallClock) -> None:
    """Two hours ahead, receiver down, kill -9, clock right: what waits is delivered within its delay."""
    town.service.environ = wall.environ()
    wall.set(2 * HOUR_S)
    await failing(town, hook)
    await town.service.kill()
    hook.status = 204
    wall.set(0)
    await town.service.start()
    await until(lambda: len(hook.events) == 2, "what waited")


async def test_a_clock_that_was_ahead_lets_live_events_expire(town: Town, hook: Hook, wall: WallClock) -> None:
    """Their age starts at zero at the restart, and they live no longer than ever."""
    town.service.environ = wall.environ()
    wall.set(2 * HOUR_S)
    await failing(town, hook, live_ttl_s=5)
    await town.service.kill()
    wall.set(0)
    await town.service.start()
    await counted(town, 'callcast_expired_total{sink="crm"}', 2)


@pytest.mark.parametrize("running", [False, True])
async def test_a_clock_that_was_behind_kills_no_end(town: Town, hook: Hook, wall: WallClock, running: bool) -> None:
    """Ten days behind, and put right at the restart or before it: no end becomes a dead letter untried."""
    town.service.environ = wall.environ()
    wall.set(-10 * DAY_S)
    await failing(town, hook)
    town.platform.clock.turn(301)
    await counted(town, ENDED, 2)
    if running:
        wall.set(0)
        for admin in ("101", "102"):
            town.call(admin)
        await counted(town, RINGING, 4)
        town.platform.clock.turn(301)
        await counted(town, ENDED, 4)
    await town.service.kill()
    wall.set(0)
    hook.status = 204
    await town.service.start()
    ends = 4 if running else 2
    await until(lambda: hook.types().count("call.ended") == ends, "the ends")
    assert await town.metric('callcast_dead_lettered_total{sink="crm"}') == 0


async def test_nothing_live_is_delivered_after_a_suspend(town: Town, hook: Hook, tmp_path: Path) -> None:
    """A call rings while the sink is held, and the machine is suspended for eight hours: it is not delivered after."""
    suspended = tmp_path / "suspended"
    suspended.write_text("0")
    town.service.module = "tests.system.suspended"
    town.service.environ = {"CALLCAST_TEST_SUSPENDED": str(suspended)}
    hook.status = 503
    hook.answer_headers = {"retry-after": "30"}
    await town.start(town.head(), town.source(), hook.sink("crm"))
    town.call("101")
    await until(lambda: len(hook.headers) == 1, "a refusal")
    # Not before the service has read the answer, or its 30 s would begin after the suspend.
    await counted(town, 'callcast_delivery_seconds_count{sink="crm"}', 1)
    hook.status = 204
    suspended.write_text(str(8 * HOUR_S))
    town.call("102")
    await until(lambda: "call.ringing" in hook.types(), "the second call")
    (rings,) = [event for event in hook.events if event["type"] == "call.ringing"]
    assert rings["data"]["extension_id"] == DESKS["102"]
    await counted(town, 'callcast_expired_total{sink="crm"}', 1)
