"""`dead`, `replay` and `explain` beside a running service: processes of their own, on the same outbox."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from tests.system.world import World, seed_world, until


async def callcast(world: World, *arguments: str) -> list[dict[str, Any]]:
    """What a command prints."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "callcast", *arguments, "--config", str(world.service.config)),
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    return [json.loads(line) for line in out.splitlines()]


async def test_a_dead_letter_is_found_explained_retried_and_arrives(tmp_path: Path) -> None:
    """Rejected once, then mended: the same event goes out again within a moment, and so does a replay of all."""
    async with seed_world(tmp_path) as world:
        await world.service.start()
        await world.stage.seen()
        world.receiver.status = 413
        world.stage.show(0)
        await until(lambda: len(world.receiver.attempts) == 1, "the first attempt")
        world.receiver.status = 204
        world.stage.show(1)
        await until(lambda: len(world.receiver.events) == 1, "the second event")
        (dead_letter,) = await callcast(world, "dead", "list")
        assert (dead_letter["sink"], dead_letter["reason"], dead_letter["type"]) == ("crm", "http_413", "call.ringing")
        (story,) = await callcast(world, "explain", dead_letter["event_id"])
        states = {one["sink"]: one["state"] for one in story["events"][0]["sinks"]}
        assert states == {"crm": "dead", "lines": "delivered", "wall": "delivered"}
        assert await callcast(world, "dead", "retry", dead_letter["event_id"]) == [{"retried": 1}]
        await until(lambda: dead_letter["event_id"] in world.webhook_ids(), "the letter")
        assert await callcast(world, "replay", "--sink", "crm", "--since", "1h") == [{"replayed": 2}]
        await until(lambda: len(world.receiver.events) == 4, "both events again")
        assert len(set(world.webhook_ids())) == 2
        assert await world.service.stop() == 0
        assert await callcast(world, "dead", "list") == []
