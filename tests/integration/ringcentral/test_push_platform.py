"""Push and presence against the simulated platform, with all of its faults and permissions."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from itertools import product
from typing import Any

import pytest
from aiohttp import ClientSession, DummyCookieJar

from callcast.calls.model import Target
from callcast.ports.hints import STEPS, Via
from callcast.ringcentral import push_connection
from callcast.settings.secret import Secret
from callcast.simulator import Credential, Limits, Platform, SimulatedClock
from callcast.simulator.faults import Fault
from callcast.simulator.scenarios import played
from callcast.simulator.script import Call, Script
from callcast.simulator.story import Story
from tests.clock import TurnedClock
from tests.integration.ringcentral.push_server import Noted
from tests.integration.simulator.conftest import START
from tests.integration.simulator.plots import ACCOUNT
from tests.unit.ringcentral.recording import make_client

OWN, OTHER = "400200001", "400200002"
TARGETS = [Target(source="acme", extension_id=one) for one in (OWN, OTHER)]
WHOLE = [Target(source="acme")]
WHOLE_CALL = [(OWN, step) for step in STEPS]
PERMISSIONS = ("WebSocket", "CallControl", "ReadPresence")


class Stage:
    """A client with hints and the platform; `turn` moves the time of both."""

    def __init__(self, platform: Platform, clock: TurnedClock, noted: Noted, hints: Any) -> None:
        self.platform = platform
        self.clock = clock
        self.noted = noted
        self.hints = hints

    async def turn(self, seconds: float) -> None:
        assert isinstance(self.platform.clock, SimulatedClock)
        self.platform.clock.turn(seconds)
        await self.clock.turn(seconds)

    async def until(self, condition: Callable[[], object], *, turn_s: float = 0.25) -> None:
        async with asyncio.timeout(30):
            while not condition():
                await self.turn(turn_s)
                await asyncio.sleep(0.001)

    async def up(self, via: Via = "push") -> None:
        await self.until(lambda: self.noted.up.get(via))

    def place(self, *, rings_s: float = 5, talks_s: float = 10) -> None:
        story = self.platform.scenario
        assert isinstance(story, Story)
        call = Call(kind="inbound", extension="1001", number="+15550101234", rings_s=rings_s, talks_s=talks_s)
        story.place(call, self.platform.clock.now())

    def strike(self, kind: str, **more: Any) -> None:
        self.platform.strike(Fault(kind=kind, **more))  # type: ignore[arg-type]

    async def whole_call(self) -> None:
        """A call that begins now is hinted from its beginning to its end."""
        before = len(self.noted.hints)
        self.place()
        await self.until(lambda: self.noted.steps()[before:] == WHOLE_CALL)

    def wstokens(self) -> list[float]:
        return [one.at.timestamp() for one in self.platform.requests if one.path == push_connection.TOKEN_PATH]


@asynccontextmanager
async def running(
    *ways: Via, targets: Iterable[Target] = TARGETS, permissions: Iterable[str] | None = None, **settings: Any
) -> AsyncIterator[Stage]:
    credential = Credential()
    if permissions is not None:
        credential = Credential(permissions=frozenset({"ReadCallLog", *permissions}))
    clock, noted = TurnedClock(START), Noted()
    given = {"limits": Limits(), "credentials": [credential]} | settings
    platform = Platform(played(Script(account=ACCOUNT), START), clock=SimulatedClock(START, speed=0), **given)
    async with platform.serve() as url, ClientSession(cookie_jar=DummyCookieJar()) as session:
        client = make_client(
            session,
            clock,
            noted,
            server=url,
            client_id=credential.client_id,
            client_secret=Secret(credential.client_secret),
            jwt=Secret(credential.jwt),
        )
        hints = client.hints("acme", ways or ("push",), lambda: 0.5)
        task = asyncio.create_task(hints.run(list(targets), noted.report))
        try:
            yield Stage(platform, clock, noted, hints)
        finally:
            task.cancel()
            await asyncio.wait((task,))
            await client.close()
            if not task.cancelled():
                task.result()


async def test_a_call_is_hinted_for_its_extension() -> None:
    async with running() as stage:
        await stage.up()
        await stage.whole_call()
    assert {hint.target for hint in stage.noted.hints} == {TARGETS[0]}
    assert stage.noted.lost == []


async def test_a_call_is_hinted_for_the_account() -> None:
    async with running(targets=WHOLE) as stage:
        await stage.up()
        await stage.whole_call()
    assert {hint.target for hint in stage.noted.hints} == set(WHOLE)


async def test_presence_and_push_name_the_same_calls() -> None:
    async with running("push", "presence") as stage:
        await stage.up()
        await stage.up("presence")
        stage.place(rings_s=8, talks_s=20)
        await stage.until(lambda: len(stage.noted.hints) == 6)
    by_way: dict[str, list[object]] = {"push": [], "presence": []}
    for hint in stage.noted.hints:
        by_way[hint.via].append((hint.target, hint.session_id, hint.party_id, hint.step))
    assert by_way["push"] == by_way["presence"]


# Faults


async def test_a_dropped_connection_loses_no_event() -> None:
    async with running() as stage:
        await stage.up()
        stage.strike("ws_drop")
        await stage.until(lambda: stage.noted.lost)
        await stage.whole_call()
    assert stage.noted.changes == ["push up", "push lost", "push recovered"]


async def test_a_connection_that_cannot_be_continued_subscribes_again() -> None:
    async with running() as stage:
        await stage.up()
        stage.strike("ws_unrecoverable", for_s=200)
        stage.strike("ws_drop")
        await stage.until(lambda: len(stage.noted.changes) == 3)
        await stage.whole_call()
    assert stage.noted.changes == ["push up", "push lost", "push up"]


@pytest.mark.parametrize("code", ["WSG-902", "WSG-903"])
async def test_an_expired_connection_is_replaced(code: str) -> None:
    async with running() as stage:
        await stage.up()
        stage.strike("ws_expire", code=code)
        await stage.until(lambda: stage.noted.lost)
        await stage.whole_call()
    assert code in stage.noted.lost[0][1]


async def test_a_silent_connection_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push_connection, "PING_S", 0.1)
    monkeypatch.setattr(push_connection, "ANSWER_TIMEOUT_S", 0.3)
    async with running() as stage:
        await stage.up()
        stage.strike("ws_silence", for_s=30)
        await stage.until(lambda: stage.noted.lost, turn_s=0)
        await stage.turn(30)
        await stage.until(lambda: stage.noted.up["push"], turn_s=1)
        monkeypatch.setattr(push_connection, "PING_S", 20)
        assert stage.noted.lost[0][0] == "network"


async def test_a_deaf_connection_stays_up_and_hints_nothing() -> None:
    """Only polls can show that: the scheduler measures it."""
    async with running() as stage:
        await stage.up()
        stage.strike("ws_deaf", for_s=60)
        stage.place()
        await stage.turn(30)
        assert stage.hints.covers(TARGETS[0])
        await stage.turn(40)
        await stage.whole_call()
    assert stage.noted.lost == []


async def test_lost_notifications() -> None:
    async with running() as stage:
        await stage.up()
        stage.strike("ws_lose", p=0.5)
        for _ in range(10):
            stage.place(rings_s=1, talks_s=1)
            await stage.turn(5)
            await asyncio.sleep(0.01)
        await stage.until(lambda: stage.noted.hints)
    assert len(stage.noted.hints) < 30


async def test_doubled_notifications_hint_once() -> None:
    async with running() as stage:
        await stage.up()
        stage.strike("ws_duplicate")
        await stage.whole_call()
        await stage.until(lambda: stage.noted.ignored.get("duplicate", 0) >= 3)
    assert stage.noted.steps() == WHOLE_CALL


async def test_reordered_notifications_never_lead_back() -> None:
    async with running() as stage:
        await stage.up()
        stage.strike("ws_reorder", p=0.5)
        for _ in range(10):
            stage.place(rings_s=1, talks_s=1)
            await stage.turn(5)
            await asyncio.sleep(0.01)
        await stage.until(lambda: len({hint.session_id for hint in stage.noted.hints}) >= 9)
    by_session: dict[str, list[int]] = {}
    for hint in stage.noted.hints:
        by_session.setdefault(hint.session_id, []).append(STEPS.index(hint.step))
    assert all(steps == sorted(set(steps)) for steps in by_session.values())


async def test_delayed_notifications() -> None:
    async with running() as stage:
        await stage.up()
        stage.strike("ws_delay", delay_s=0.05, delay_most_s=0.1)  # of this machine
        stage.place()
        await stage.until(lambda: stage.noted.steps()[-1:] == WHOLE_CALL[-1:])


@pytest.mark.parametrize("status", [401, 403, 503, 4400, 0])
async def test_a_refused_connection_is_tried_again(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push_connection, "CONNECT_TIMEOUT_S", 0.3)
    async with running(faults=[Fault(kind="ws_refuse", status=status, for_s=60)]) as stage:
        await stage.until(lambda: stage.noted.lost)
        await stage.until(lambda: stage.noted.up.get("push"), turn_s=1)
        await stage.whole_call()
    assert stage.noted.lost[0][0] == {4400: "closed", 0: "timeout"}.get(status, "handshake")


async def test_garbage_is_left_out() -> None:
    async with running() as stage:
        await stage.up()
        stage.strike("ws_garbage")
        await stage.whole_call()


async def test_a_huge_frame_costs_the_connection() -> None:
    async with running() as stage:
        await stage.up()
        stage.strike("ws_huge", size_mb=2)
        await stage.until(lambda: stage.noted.lost)
        await stage.whole_call()
    assert stage.noted.lost[0][1] == "a frame is too large"


async def test_at_most_two_wstokens_a_minute_and_no_429(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push_connection, "CONNECT_TIMEOUT_S", 0.3)
    async with running(faults=[Fault(kind="ws_refuse", status=503)]) as stage:
        await stage.until(lambda: len(stage.noted.lost) >= 7, turn_s=2)
        at = stage.wstokens()
    assert all(later - first >= 60 for first, later in zip(at, at[2:], strict=False))
    assert [one.status for one in stage.platform.requests if one.status == 429] == []


async def test_a_penalty_of_the_auth_group_is_waited_out() -> None:
    fault = Fault(kind="status", status=429, path="*/wstoken", count=1, retry_after=60)
    async with running(faults=[fault]) as stage:
        await stage.until(lambda: stage.noted.lost)
        assert stage.noted.lost[0][0] == "rate_limited"
        assert stage.noted.lost[0][2] >= 60
        await stage.until(lambda: stage.noted.up.get("push"), turn_s=2)
    first, second = stage.wstokens()[:2]
    assert second - first >= 60


# The OAuth session ends


async def test_a_new_oauth_session_loses_no_event() -> None:
    """The subscription of an ended session stays silent without a word."""
    async with running("push", "presence", token_ttl_s=400) as stage:
        await stage.up()
        for _ in range(12):
            await stage.turn(60)  # presence uses the token, so it is renewed before it ends
            before = len(stage.noted.hints)
            stage.place(rings_s=1, talks_s=1)
            await stage.until(lambda before=before: _pushed(stage, before) == WHOLE_CALL)  # type: ignore[misc]
    assert stage.noted.connected.count("subscribed") >= 2
    assert "push lost" not in stage.noted.changes


def _pushed(stage: Stage, first: int) -> list[tuple[str | None, str]]:
    return [(hint.extension_id, hint.step) for hint in stage.noted.hints[first:] if hint.via == "push"]


# Permissions


@pytest.mark.parametrize("has", [dict(zip(PERMISSIONS, has, strict=True)) for has in product([True, False], repeat=3)])
async def test_every_combination_of_permissions(has: dict[str, bool]) -> None:
    """Hints come by what is permitted, and what is missing is named."""
    ways = {"push": has["WebSocket"] and (has["CallControl"] or has["ReadPresence"]), "presence": has["ReadPresence"]}
    async with running("push", "presence", permissions=[one for one in PERMISSIONS if has[one]]) as stage:
        for way in ways:
            refusals = stage.noted.refused if way == "push" else stage.noted.presence_refusals
            await stage.until(lambda way=way, refusals=refusals: stage.noted.up.get(way) or refusals)  # type: ignore[misc]
        assert {way for way, up in stage.noted.up.items() if up} == {way for way, up in ways.items() if up}
        assert all(stage.hints.covers(target) == any(ways.values()) for target in TARGETS)
    log = " ".join(stage.noted.refused)
    assert ("WebSocket" in log) == (not has["WebSocket"])
    assert ("CallControl" in log) == (has["WebSocket"] and not has["CallControl"] and not has["ReadPresence"])
    assert ("ReadPresence" in " ".join(stage.noted.presence_refusals)) == (not has["ReadPresence"])


async def test_without_admin_rights_only_the_own_extension_is_covered() -> None:
    async with running("push", credentials=[Credential(admin=False)]) as stage:
        await stage.up()
        assert [stage.hints.covers(target) for target in TARGETS] == [True, False]
        await stage.whole_call()
    assert set(stage.noted.subscribed[0][1]) == {OTHER}
