"""The first acceptance test: the six recorded answers, through the real service, to three sinks at once."""

import asyncio
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from callcast import app
from callcast.config import load
from tests import TESTS
from tests.system.world import World, seed_world, until

GOLDEN = TESTS / "golden" / "seed-events.json"
EVENTS_AFTER = (1, 2, 3, 4, 5, 6)  # how many events each recorded answer has brought


def timeless(event: dict[str, Any]) -> dict[str, Any]:
    """An event without what depends on when exactly the polls were."""
    data = event["data"] | {"observation": event["data"]["observation"] | {"after": ..., "before": ...}}
    if not data["observation"]["exact"]:
        event = event | {"time": ...}
    if data["answered_at"] is not None and data["ring_seconds"] is None:
        data |= {"answered_at": ..., "talk_seconds": ...}
    return event | {"data": data}


def golden() -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = json.loads(GOLDEN.read_bytes())
    return events


async def play(world: World, first: int = 0) -> None:
    for number in range(first, 6):
        world.stage.show(number)
        await world.delivered(EVENTS_AFTER[number])


@pytest.mark.parametrize("watch", ["extensions", "account"])
async def test_the_seed_reaches_all_three_sinks_as_recorded(tmp_path: Path, watch: str) -> None:
    """Both calls, ring to end, from either endpoint: the golden events with the golden ids, in order, at each sink."""
    async with seed_world(tmp_path, watch=watch) as world:
        await world.service.start()
        await world.service.ready()
        await world.stage.seen()
        await play(world)
        await world.stage.seen()
        assert await world.service.stop() == 0
        expected = [timeless(event) for event in golden()]
        assert [timeless(event) for event in world.service.lines] == expected
        assert [timeless(event) for event in world.receiver.events] == expected
        assert [timeless(event) for _, event in world.subscriber.events] == expected


async def test_the_service_in_this_process_does_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`app.run` with a stop of the test's own: the same golden events, and exit code 0."""
    with (tmp_path / "out").open("w+b", buffering=0) as out:
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, write_through=True))
        async with seed_world(tmp_path) as world:
            settings = load(world.service.config, {})
            stop = asyncio.Event()
            running = asyncio.create_task(app.run(settings, read_config=lambda: settings, stop=stop))
            await world.stage.seen()
            for number in range(6):
                world.stage.show(number)
                await until(lambda: len(world.receiver.events) == number + 1, "the webhook")  # noqa: B023
                await until(lambda: len(world.subscriber.events) == number + 1, "the broker")  # noqa: B023
            stop.set()
            assert await running == 0
        lines = [json.loads(line) for line in (tmp_path / "out").read_bytes().splitlines()]
    expected = [timeless(event) for event in golden()]
    assert [timeless(event) for event in lines] == expected
    assert [timeless(event) for event in world.receiver.events] == expected


def test_the_golden_events_say_what_happened() -> None:
    """The facts of the recording, spelled out: the direct call exact to the second, the queue call one inbound call."""
    direct, queue = golden()[:3], golden()[3:]
    assert [e["type"] for e in direct] == ["call.ringing", "call.answered", "call.ended"]
    assert [e["data"]["direction"] for e in direct] == ["inbound"] * 3
    assert direct[0]["data"]["started_at"] == "2021-01-19T23:58:57.000Z"
    assert (direct[1]["time"], direct[1]["data"]["observation"]["exact"]) == ("2021-01-19T23:59:01.000Z", True)
    ended = direct[2]["data"]
    assert (ended["disposition"], ended["ended_at"]) == ("answered", "2021-01-19T23:59:07.000Z")
    assert (ended["ring_seconds"], ended["talk_seconds"]) == (4.0, 6.0)
    assert [e["type"] for e in queue] == ["call.ringing", "call.answered", "call.ended"]
    assert [e["data"]["direction"] for e in queue] == ["inbound"] * 3
    assert len({e["subject"] for e in queue}) == 1
    assert queue[0]["data"]["from"] is None
    ended = queue[2]["data"]
    assert (ended["from"]["number"], ended["from"]["name"]) == ("+16504306662", "WIRELESS CALLER")
    assert (ended["queue"], ended["disposition"]) == ({"name": "Tyler's call queue"}, "answered")


@pytest.mark.parametrize("killed_after", range(6))
async def test_killed_in_the_middle_every_event_still_arrives_with_the_same_id(
    tmp_path: Path, killed_after: int
) -> None:
    """kill -9 as soon as an answer was shown; after the restart each sink has every golden event, and no other."""
    async with seed_world(tmp_path) as world:
        await world.service.start()
        await world.stage.seen()
        for number in range(killed_after):
            world.stage.show(number)
            await world.delivered(EVENTS_AFTER[number])
        world.stage.show(killed_after)
        await world.stage.seen(1)
        await world.service.kill()
        await world.service.start()
        await play(world, killed_after)
        await world.stage.seen()
        assert await world.service.stop() == 0
        ids = [event["id"] for event in golden()]
        for seen in (world.webhook_ids(), world.mqtt_ids(), world.stdout_ids()):
            assert list(dict.fromkeys(seen)) == ids


async def test_the_broker_shows_the_state_while_the_call_lives(tmp_path: Path) -> None:
    """Retained topics: status, the call, its extension's state, the summary; offline after a clean stop."""
    async with seed_world(tmp_path) as world:
        await world.service.start()
        await world.stage.seen()
        world.stage.show(0)
        await world.delivered(1)
        call = "callcast/acme/62264425016/calls/s-8f8125f1aeb944f486531c351a2f520e"
        state = "callcast/acme/62264425016/state"
        retained = world.subscriber.retained

        def retained_state(topic: str) -> Any:
            return json.loads(retained.get(topic, b"{}")).get("state")

        await until(lambda: retained_state(call) == "ringing", "the call as ringing")
        await until(lambda: retained_state(state) == "ringing", "the extension as ringing")
        assert retained_state("callcast/status") == "online"
        world.stage.show(1)
        await until(lambda: retained_state(state) == "connected", "the extension as connected")
        world.stage.show(2)
        await until(lambda: retained_state(state) == "idle", "the extension as idle")
        summary = json.loads(retained["callcast/acme/summary"])
        assert (summary["ringing"], summary["dialing"], summary["connected"], summary["complete"]) == (0, 0, 0, True)
        assert await world.service.stop() == 0
        await until(lambda: retained_state("callcast/status") == "offline", "offline")
