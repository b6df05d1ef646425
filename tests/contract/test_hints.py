"""What every implementation of `ports.hints.Hints` keeps to: push, presence, and both together."""

import asyncio
from collections.abc import Sequence
from itertools import pairwise

import pytest

from callcast.calls.model import Target
from callcast.ports.hints import STEPS, Via
from tests.integration.ringcentral.test_push_platform import OWN, TARGETS, Stage, running

WAYS: list[Sequence[Via]] = [("push",), ("presence",), ("push", "presence")]


@pytest.fixture(params=WAYS, ids="-".join)
def ways(request: pytest.FixtureRequest) -> Sequence[Via]:
    return tuple(request.param)


async def up(stage: Stage, ways: Sequence[Via]) -> None:
    for way in ways:
        await stage.up(way)


async def test_it_covers_the_targets_and_no_others(ways: Sequence[Via]) -> None:
    async with running(*ways) as stage:
        assert not any(map(stage.hints.covers, TARGETS))
        await up(stage, ways)
        assert all(map(stage.hints.covers, TARGETS))
        assert not stage.hints.covers(Target(source="acme", extension_id="1"))
        assert stage.hints.witnessed_since(Target(source="acme", extension_id="1")) is None
        assert (stage.hints.witnessed_since(TARGETS[0]) is not None) == ("presence" in ways)


async def test_the_steps_of_a_party_come_once_by_each_way_and_in_their_order(ways: Sequence[Via]) -> None:
    async with running(*ways) as stage:
        await up(stage, ways)
        for _ in range(3):
            before = len(stage.noted.hints)
            stage.place(rings_s=8, talks_s=12)
            await stage.until(lambda before=before: len(stage.noted.hints) == before + 3 * len(ways))  # type: ignore[misc]
    for way in ways:
        hints = [hint for hint in stage.noted.hints if hint.via == way]
        assert [hint.step for hint in hints] == list(STEPS) * 3
        assert {hint.target for hint in hints} == {TARGETS[0]}
        assert {hint.extension_id for hint in hints} == {OWN}
        assert len({hint.session_id for hint in hints}) == 3
        assert all(first.at <= later.at for first, later in pairwise(hints))


async def test_each_way_says_when_it_comes(ways: Sequence[Via]) -> None:
    async with running(*ways) as stage:
        await up(stage, ways)
    assert sorted(stage.noted.changes) == sorted(f"{way} up" for way in ways)


async def test_trouble_does_not_end_it(ways: Sequence[Via]) -> None:
    async with running(*ways) as stage:
        await up(stage, ways)
        for kind in ("ws_drop", "ws_garbage"):
            stage.strike(kind)
        stage.strike("status", status=500, path="*/presence", for_s=20)
        await stage.until(lambda: sum(change.endswith("lost") for change in stage.noted.changes) == len(ways))
        await up(stage, ways)
        before = len(stage.noted.hints)
        stage.place(rings_s=8, talks_s=12)
        await stage.until(lambda: len(stage.noted.hints) >= before + 3 * len(ways))


async def test_it_can_run_again_with_other_targets(ways: Sequence[Via]) -> None:
    async with running(*ways) as stage:
        await up(stage, ways)
    async with running(*ways, targets=TARGETS[1:]) as stage:
        await up(stage, ways)
        stage.place()
        await stage.turn(20)
        await asyncio.sleep(0)
        assert stage.noted.hints == []
        assert not stage.hints.covers(TARGETS[0])
