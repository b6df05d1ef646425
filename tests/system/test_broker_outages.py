"""The real service while its broker is killed, comes back without a memory, or cannot be reached."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.system.proxy import Gate
from tests.system.test_seed import EVENTS_AFTER, golden
from tests.system.world import Subscriber, World, seed_world, until


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with seed_world(tmp_path) as world:
        yield world


async def through(world: World, gate: Gate) -> None:
    """The service reaches its broker through the gate only, with short time limits."""
    text = world.service.config.read_text()
    way = f'mqtt://127.0.0.1:{gate.port}"\ntimeout_s = 0.5'
    world.service.config.write_text(re.sub(r'mqtt://127\.0\.0\.1:\d+"', way, text))
    await world.service.start()
    await world.stage.seen()


async def shown(world: World, *numbers: int) -> None:
    """These answers, one after another; the webhook has each event, whatever the broker does."""
    for number in numbers:
        world.stage.show(number)
        await until(lambda number=number: len(set(world.webhook_ids())) >= EVENTS_AFTER[number], "the webhook")  # type: ignore[misc]


async def arrives(world: World) -> None:
    """At last the broker's subscribers have had every event, in order per call, each with its id."""
    ids = [event["id"] for event in golden()]
    await until(lambda: set(world.mqtt_ids()) == set(ids), f"every event at the broker, only {world.mqtt_ids()}")
    for subject in {event["subject"] for event in golden()}:
        came = dict.fromkeys(event["id"] for _, event in world.subscriber.events if event["subject"] == subject)
        assert list(came) == [event["id"] for event in golden() if event["subject"] == subject]
    assert await world.service.stop() == 0


async def test_a_broker_that_is_killed_and_comes_back_empty(world: World) -> None:
    """Events of the outage arrive, and the retained state is there again although the broker forgot all."""
    async with Gate(world.broker.port).standing() as gate:
        await through(world, gate)
        await shown(world, 0)
        await until(lambda: len(world.mqtt_ids()) == 1, "the first event at the broker")
        gate.turn("closed")
        world.subscriber.close()
        world.broker.stop()
        await shown(world, 1, 2, 3)
        world.broker.start()
        before = world.subscriber.events
        world.subscriber = Subscriber(world.broker.port)
        world.subscriber.events[:0] = before
        gate.turn("open")
        await shown(world, 4, 5)
        state = "callcast/acme/62264425016/state"
        await until(lambda: json.loads(world.subscriber.retained.get(state, b"{}")).get("state") == "idle", "the state")
        await arrives(world)
    world.subscriber.close()


async def test_a_route_that_leads_nowhere(world: World) -> None:
    """Connections stand and nothing passes: what was on its way is sent again on a new one, and nothing is missed."""
    async with Gate(world.broker.port).standing() as gate:
        await through(world, gate)
        await shown(world, 0)
        gate.turn("nowhere")
        await shown(world, 1, 2, 3)
        await asyncio.sleep(0.6)  # longer than the sink waits for an acknowledgement
        gate.turn("open")
        await shown(world, 4, 5)
        await arrives(world)


async def test_a_frozen_broker(world: World) -> None:
    """The broker's process stands still with its connections, then goes on: nothing is missed."""
    async with Gate(world.broker.port).standing() as gate:
        await through(world, gate)
        await shown(world, 0)
        world.broker.freeze()
        await shown(world, 1, 2, 3)
        world.broker.thaw()
        await shown(world, 4, 5)
        await arrives(world)
