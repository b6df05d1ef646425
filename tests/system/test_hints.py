"""Hints in the real process: over real sockets from the simulated platform to the events on standard output."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from callcast.calls.model import CallEvent
from callcast.outbox.opening import open_admin
from callcast.simulator import Credential, Limits, Platform
from callcast.simulator.faults import Fault
from callcast.simulator.push import Gateway
from callcast.simulator.scenarios import played
from callcast.simulator.script import Call, Script
from callcast.simulator.story import Story
from tests.integration.simulator.plots import ACCOUNT
from tests.ports import free_port
from tests.system.world import Service, until

CONFIG = """\
[service]
data_dir = "{data}"
http_listen = "127.0.0.1:{port}"
log_format = "json"
log_level = "debug"

[sources.acme]
server = "{server}"
client_id = "{credential.client_id}"
client_secret = "{credential.client_secret}"
jwt = "{credential.jwt}"
extensions = ["400200001", "400200002", "400200003"]
hints = "auto"
settle_s = 1

[sinks.lines]
type = "stdout"
"""


class World:
    """The service and the platform. tokens: those that the platform gave for connections."""

    def __init__(self, platform: Platform, service: Service) -> None:
        self.platform = platform
        self.service = service
        self.tokens: list[str] = []

    def place(self, *, rings_s: float = 3, talks_s: float = 2) -> None:
        story = self.platform.scenario
        assert isinstance(story, Story)
        call = Call(kind="inbound", extension="1001", number="+15550101234", rings_s=rings_s, talks_s=talks_s)
        story.place(call, self.platform.clock.now())
        self.platform.push.wake()

    def count(self, path: str) -> int:
        return sum(one.path.endswith(path) for one in self.platform.requests)

    async def hints(self) -> Any:
        async with aiohttp.ClientSession() as session, session.get(f"{self.service.url}/api/summary") as answer:
            sources = (await answer.json())["sources"]
            return sources[0]["hints"] if sources else None

    async def metric(self, name: str, **labels: str) -> float:
        wanted = ",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
        async with aiohttp.ClientSession() as session, session.get(f"{self.service.url}/metrics") as answer:
            lines = (await answer.text()).splitlines()
        return next(float(line.split()[-1]) for line in lines if line.startswith(f"callcast_{name}{{{wanted}}}"))

    async def up(self, *ways: str) -> None:
        wanted = list(ways)
        async with asyncio.timeout(30):
            while True:
                hints = await self.hints()
                if hints is not None and hints["via"] == wanted:
                    return
                await asyncio.sleep(0.05)

    async def configure(self, hints: str) -> None:
        text = self.service.config.read_text()
        before = text.partition('hints = "')[2].partition('"')[0]
        self.service.config.write_text(text.replace(f'hints = "{before}"', f'hints = "{hints}"'))
        async with aiohttp.ClientSession() as session, session.post(f"{self.service.url}/-/reload", json={}) as answer:
            assert answer.status == 200, await answer.text()


@asynccontextmanager
async def world(folder: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> AsyncIterator[World]:
    story = played(Script(account=ACCOUNT), datetime.now(UTC))
    platform = Platform(story, **{"limits": Limits(), **settings})
    async with platform.serve() as server:
        port, config = free_port(), folder / "callcast.toml"
        config.write_text(CONFIG.format(data=folder / "data", port=port, server=server, credential=Credential()))
        made = World(platform, Service(config, f"http://127.0.0.1:{port}"))
        issue = Gateway.issue

        def noted(self: Gateway, *given: Any) -> Any:
            answer = issue(self, *given)
            made.tokens.append(answer["ws_access_token"])
            return answer

        monkeypatch.setattr(Gateway, "issue", noted)
        await made.service.start()
        try:
            await made.service.ready()
            yield made
        finally:
            assert await made.service.stop() == 0
    assert not [line for line in made.service.log if "Traceback" in line]


def types(service: Service) -> list[str]:
    return [event["type"] for event in service.lines if event["type"].startswith("call.")]


async def test_a_call_is_seen_by_the_poll_that_a_hint_caused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three extensions take 22.5 s in turn; with hints a ring of three seconds is seen while it lasts."""
    async with world(tmp_path, monkeypatch) as made:
        await made.up("push", "presence")
        made.place()
        await until(lambda: "call.ended" in types(made.service), "the end of the call")
        assert types(made.service)[0] == "call.ringing"
        assert await made.metric("polls_by_cause_total", cause="hint", source="acme") >= 1
        for via in ("push", "presence"):
            assert await made.metric("hints_total", source="acme", via=via) >= 1
            assert await made.metric("hints_up", source="acme", via=via) == 1
        for group in ("medium", "light"):
            assert await made.metric("rate_limit_limit", group=group, source="acme") > 0
        assert 429 not in {one.status for one in made.platform.requests}
    assert any('"push_up"' in line for line in made.service.log)
    with open_admin(tmp_path / "data") as admin:
        (call,) = admin.find("1234")
        events = [one.stored.event for one in admin.history_of(call).events]
    assert any(event.hint for event in events if isinstance(event, CallEvent))


@pytest.mark.parametrize(
    "fault",
    [
        Fault(kind="ws_refuse", status=503, count=1),
        Fault(kind="ws_refuse", status=4400, count=1),
        Fault(kind="ws_drop", from_s=1, for_s=30),
        Fault(kind="status", status=500, path="*/wstoken", count=1),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.status}",
)
async def test_no_token_of_a_connection_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    """Not even on the level debug."""
    async with world(tmp_path, monkeypatch, faults=[fault]) as made:
        await until(lambda: any('"push_lost"' in line for line in made.service.log), "a lost connection")
    log = "".join(made.service.log)
    assert made.tokens or fault.kind == "status"
    for token in made.tokens:
        assert token not in log
    assert "access_token" not in log
    assert "wsc=" not in log


async def test_a_kill_with_hints_pending_loses_no_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hints are not stored: after the next start all targets are polled."""
    async with world(tmp_path, monkeypatch) as made:
        await made.up("push", "presence")
        made.place(rings_s=2, talks_s=4)
        await asyncio.sleep(0.3)  # the hint has come or comes; the list does not show the call yet
        await made.service.kill()
        await made.service.start()
        await made.service.ready()
        await until(lambda: "call.ended" in types(made.service), "the end of the call")
        await made.up("push", "presence")
    ids = [event["id"] for event in made.service.lines]
    assert len(set(ids)) == len(ids)
    assert types(made.service).count("call.ended") == 1


async def test_off_sends_nothing_but_polls_and_a_reload_changes_only_the_ways(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, monkeypatch) as made:
        await made.up("push", "presence")
        await made.configure("off")
        await until(
            lambda: all(one.lost_at is not None for one in made.platform.push.connections), "the connection is closed"
        )
        sent = made.count("/wstoken"), made.count("/presence"), made.count("/subscription")
        polls = made.count("/active-calls")
        await until(lambda: made.count("/active-calls") >= polls + 2, "polls")
        assert await made.hints() is None
        assert (made.count("/wstoken"), made.count("/presence"), made.count("/subscription")) == sent
        await made.configure("presence")
        await made.up("presence")
        assert made.count("/wstoken") == sent[0]
        assert made.count("/oauth/token") == 1  # the client goes on
        assert await made.metric("hints_up", source="acme", via="push") == 0


@pytest.mark.parametrize(
    ("permissions", "ways"),
    [
        ({"WebSocket", "CallControl"}, ["push"]),
        ({"WebSocket", "ReadPresence"}, ["push", "presence"]),
        ({"CallControl"}, []),
    ],
)
async def test_what_is_not_permitted_is_logged_once_and_calls_are_polled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, permissions: set[str], ways: list[str]
) -> None:
    credential = Credential(permissions=frozenset({"ReadCallLog", *permissions}))
    async with world(tmp_path, monkeypatch, credentials=[credential]) as made:
        await made.up(*ways)
        if "ReadPresence" not in permissions:
            await until(lambda: any('"presence_refused"' in line for line in made.service.log), "presence_refused")
        if "WebSocket" not in permissions:
            await until(lambda: any('"push_refused"' in line for line in made.service.log), "push_refused")
        polls = made.count("/active-calls")
        await until(lambda: made.count("/active-calls") > polls, "a poll")
    refused = [line for line in made.service.log if "_refused" in line]
    assert all('"level": "info"' in line or '"level":"info"' in line for line in refused)  # auto permits both
    assert len(refused) == ("ReadPresence" not in permissions) + ("WebSocket" not in permissions)
