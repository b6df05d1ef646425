"""Presence against a real server on this machine whose every answer the test sets."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from aiohttp import web

from callcast.calls.model import Target
from callcast.ringcentral import presence
from callcast.ringcentral.settings import PRESENCE_MAX_S, presence_interval_s
from tests.integration.ringcentral.push_server import TARGETS, World, presence_answer, world
from tests.unit.ringcentral.test_frames import call


@pytest.fixture
async def stage() -> AsyncIterator[World]:
    async with world() as made:
        yield made


def targets(count: int) -> list[Target]:
    return [Target(source="acme", extension_id=str(n)) for n in range(1, count + 1)]


def on_call(status: str = "Ringing", **more: Any) -> dict[str, Any]:
    return {"telephonyStatus": status, "activeCalls": [call(status, **more)], "totalActiveCalls": 1}


IDLE = {"telephonyStatus": "NoCall", "activeCalls": [], "totalActiveCalls": 0}


async def readings(stage: World, count: int, *, turn_s: float = 1.0) -> None:
    await stage.until(lambda: len(stage.server.presences) >= count, turn_s=turn_s)


async def test_a_call_is_hinted_step_by_step(stage: World) -> None:
    shown = {"7": on_call(), "8": IDLE}
    stage.server.presence = lambda _: presence_answer(shown)
    async with stage.running("presence"):
        await stage.until(lambda: len(stage.noted.hints) == 1, turn_s=1)
        shown["7"] = on_call("CallConnected")
        await stage.until(lambda: len(stage.noted.hints) == 2, turn_s=1)
        shown["7"] = IDLE
        await stage.until(lambda: len(stage.noted.hints) == 3, turn_s=1)
        assert all(map(stage.hints.covers, TARGETS))
    assert stage.noted.steps() == [("7", "started"), ("7", "answered"), ("7", "ended")]
    first = stage.noted.hints[0]
    assert (first.target, first.session_id, first.party_id, first.via) == (TARGETS[0], "s-1", "p-1", "presence")
    assert stage.noted.changes == ["presence up"]
    assert stage.server.presences[0] == ["7", "8"]
    assert ("light", 50, 40, 0.0) in stage.noted.limits
    assert stage.server.wstokens == 0


async def test_readings_keep_to_a_grid(stage: World) -> None:
    async with stage.running("presence"):
        await readings(stage, 4, turn_s=0.5)
        assert 15 <= stage.clock.monotonic() < 17


async def test_one_extension_is_read_as_such(stage: World) -> None:
    stage.targets = TARGETS[:1]
    stage.server.presence = lambda _: presence_answer({"7": on_call()})
    async with stage.running("presence"):
        await stage.until(lambda: stage.noted.hints, turn_s=1)
    assert stage.server.presences[0] == ["7"]


async def test_extensions_are_read_thirty_at_a_time(stage: World) -> None:
    stage.targets = targets(70)
    async with stage.running("presence"):
        await stage.until(lambda: stage.noted.changes, turn_s=0.5)
        await readings(stage, 6, turn_s=0.5)
    assert [len(ids) for ids in stage.server.presences[:6]] == [30, 30, 10] * 2
    assert stage.noted.changes == ["presence up"]


def test_interval() -> None:
    assert [presence_interval_s(n) for n in (1, 60)] == [5, 5]
    assert presence_interval_s(90) == pytest.approx(7.2)
    assert presence_interval_s(360) < PRESENCE_MAX_S < presence_interval_s(361)


async def test_at_most_half_of_the_light_group_is_used(stage: World) -> None:
    stage.targets = targets(90)
    async with stage.running("presence"):
        while stage.clock.monotonic() < 300:
            await stage.clock.turn(0.5)
            await stage.until(lambda: True)
    assert 100 < len(stage.server.presences) <= 5 * 25 + 1


async def test_too_many_extensions_are_not_read(stage: World) -> None:
    stage.targets = targets(400)
    async with stage.running("presence"):
        await stage.until(lambda: stage.noted.presence_refusals, turn_s=1)
        await stage.clock.turn(600)
        assert not stage.hints.covers(stage.targets[0])
    assert stage.server.presences == []
    (refusal,) = stage.noted.presence_refusals
    assert refusal.startswith("presence of 400 extensions could be read only every 34 s: watch the account, or fewer")


async def test_a_whole_account_has_no_presence(stage: World) -> None:
    stage.targets = [Target(source="acme")]
    async with stage.running("presence"):
        await stage.clock.turn(60)
    assert stage.server.presences == []


class ChargedPerExtension:
    """Each extension of a request costs one place."""

    def __init__(self, stage: World) -> None:
        self._clock = stage.clock
        self._items: list[float] = []
        self.refused = 0

    def __call__(self, ids: Sequence[str]) -> web.Response:
        now = self._clock.monotonic()
        self._items = [at for at in self._items if at > now - 60] + [now] * len(ids)
        self.refused += len(self._items) > 50
        return presence_answer(dict.fromkeys(ids, IDLE), remaining=max(0, 50 - len(self._items)))


async def test_a_charge_per_extension_makes_readings_rarer(stage: World) -> None:
    stage.targets = targets(10)
    stage.server.presence = charged = ChargedPerExtension(stage)
    async with stage.running("presence"):
        while stage.clock.monotonic() < 600:
            await stage.clock.turn(0.5)
            await stage.until(lambda: True)
        assert all(map(stage.hints.covers, stage.targets))
        assert stage.hints.witnessed_since(stage.targets[0]) is None  # too rare to be a witness
    assert 24 <= len(stage.server.presences) <= 27
    assert charged.refused == 0


async def test_a_charge_per_extension_can_make_it_not_worth_while(stage: World) -> None:
    stage.targets = targets(30)
    stage.server.presence = charged = ChargedPerExtension(stage)
    async with stage.running("presence"):
        await stage.until(lambda: stage.noted.presence_refusals, turn_s=1)
        await stage.clock.turn(600)
    assert len(stage.server.presences) == 1
    assert charged.refused == 0
    assert stage.noted.changes == []


async def test_hidden_presence_covers_nothing(stage: World) -> None:
    shown: dict[str, dict[str, Any]] = {"7": IDLE, "8": {"presenceStatus": "Offline"}}
    stage.server.presence = lambda _: presence_answer(shown)
    async with stage.running("presence"):
        await stage.until(lambda: stage.noted.changes, turn_s=1)
        assert [stage.hints.covers(one) for one in TARGETS] == [True, False]
        assert stage.hints.witnessed_since(TARGETS[1]) is None
        shown["7"] = {"presenceStatus": "Offline"}  # its user has hidden it
        await stage.until(lambda: not stage.hints.covers(TARGETS[0]), turn_s=1)


async def test_witness(stage: World) -> None:
    async with stage.running("presence"):
        await stage.until(lambda: stage.noted.changes, turn_s=1)
        since = stage.hints.witnessed_since(TARGETS[0])
        await readings(stage, 5)
        assert stage.hints.witnessed_since(TARGETS[0]) == since
        stage.server.presence = lambda _: web.Response(status=500)
        count = len(stage.server.presences)
        await readings(stage, count + 4)
        await stage.until(lambda: stage.hints.witnessed_since(TARGETS[0]) is None, turn_s=1)
        stage.server.presence = stage.server.all_idle
        await stage.until(lambda: stage.hints.witnessed_since(TARGETS[0]), turn_s=1)
        assert stage.hints.witnessed_since(TARGETS[0]) != since


async def test_two_failed_readings_in_a_row_lose_presence(stage: World) -> None:
    fails = iter([False, True, False, True, True, True, False, False])

    def answer(ids: Sequence[str]) -> web.Response:
        return web.Response(status=503) if next(fails, False) else stage.server.all_idle(ids)

    stage.server.presence = answer
    async with stage.running("presence"):
        await readings(stage, 8)
        await stage.until(lambda: len(stage.noted.changes) == 3)
    assert stage.noted.changes == ["presence up", "presence lost", "presence up"]


async def test_without_permission_it_is_asked_again_after_an_hour(stage: World) -> None:
    body = {"errorCode": "CMN-401", "message": "In order to call this API, the application needs [ReadPresence]"}
    stage.server.presence = lambda _: web.json_response(body, status=403)
    async with stage.running("presence"):
        await stage.until(lambda: stage.noted.presence_refusals, turn_s=1)
        await stage.clock.turn(presence.REFUSED_EVERY_S - 1)
        assert len(stage.server.presences) == 1
        stage.server.presence = stage.server.all_idle
        await stage.until(lambda: stage.noted.changes, turn_s=1)
    assert "add it to the app" in stage.noted.presence_refusals[0]
    assert "ReadPresence" in stage.noted.presence_refusals[0]


async def test_an_answer_that_cannot_be_read_is_a_failed_reading(stage: World) -> None:
    stage.server.presence = lambda _: web.Response(text="--B\r\n\r\n{}", content_type="multipart/mixed")
    async with stage.running("presence"):
        await readings(stage, 3)
        assert not any(map(stage.hints.covers, TARGETS))
    assert stage.noted.hints == []


async def test_both_ways_at_once(stage: World) -> None:
    stage.server.presence = lambda _: presence_answer({"7": on_call(), "8": IDLE})
    async with stage.running("push", "presence"):
        await stage.until(lambda: set(stage.noted.changes) == {"push up", "presence up"}, turn_s=0.5)
        await stage.until(lambda: stage.noted.hints)
        stage.server.wstoken_status = 503
        await stage.server.drop()
        await stage.until(lambda: "push lost" in stage.noted.changes)
        assert all(map(stage.hints.covers, TARGETS))  # by presence


@pytest.mark.parametrize("push", [True, False])
@pytest.mark.parametrize("call_control", [True, False])
@pytest.mark.parametrize("read_presence", [True, False])
async def test_every_combination_of_permissions(
    stage: World, push: bool, call_control: bool, read_presence: bool
) -> None:
    stage.server.wstoken_status = 200 if push else 403

    def subscription(filters: Sequence[str]) -> tuple[int, Any]:
        permitted = call_control if "telephony" in filters[0] else read_presence
        return stage.server.accept(filters) if permitted else (403, {"message": "no"})

    stage.server.subscription = subscription
    if not read_presence:
        stage.server.presence = lambda _: web.json_response({"message": "no"}, status=403)
    expected = {
        "push": push and (call_control or read_presence),
        "presence": read_presence,
    }
    async with stage.running("push", "presence"):
        await stage.until(
            lambda: (
                (stage.noted.refused or "push up" in stage.noted.changes)
                and (stage.noted.presence_refusals or "presence up" in stage.noted.changes)
            ),
            turn_s=0.5,
        )
        assert all(stage.hints.covers(one) == any(expected.values()) for one in TARGETS)
    assert {way for way in expected if f"{way} up" in stage.noted.changes} == {w for w, up in expected.items() if up}
    log = " ".join(stage.noted.refused + stage.noted.presence_refusals)
    assert ("WebSocket Subscriptions" in log) == (not push)
    assert ("CallControl" in log) == (push and not call_control and not read_presence)
    assert ("ReadPresence" in log) == (not read_presence)
