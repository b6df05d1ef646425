"""A reload of the real process: only changed parts restart, and an invalid file or a hanging part delays nothing."""

import asyncio
import json
import os
import re
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from callcast.settings.secret import Secret
from callcast.simulator import Credential, Platform, SimulatedClock
from callcast.simulator.scenarios import busy, load
from callcast.simulator.script import Call
from callcast.simulator.story import Story
from callcast.sinks.webhook import Settings as WebhookSettings
from tests.integration.sinks.brokers import iotcore, mosquitto
from tests.integration.sinks.certificates import make_certificates
from tests.ports import free_port
from tests.system.world import SECRET, WAIT_S, Service, Subscriber, until

DESKS = {"101": "400100101", "102": "400100102"}
FAR_LONGER_THAN_A_TEST_S = 600


class Hook:
    """A webhook's remote side that counts connections; may hang, or refuse."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.connections: set[tuple[str, int]] = set()
        self.headers: list[str | None] = []
        self.hangs = False
        self.status = 204
        self.answer_headers: dict[str, str] = {}
        self.hanging = 0
        self.url = ""

    async def take(self, request: web.Request) -> web.Response:
        assert request.transport is not None
        self.connections.add(request.transport.get_extra_info("peername"))
        event = json.loads(await request.read())
        self.headers.append(request.headers.get("x-team"))
        if self.hangs:
            self.hanging += 1
            await asyncio.sleep(FAR_LONGER_THAN_A_TEST_S)
        if self.status == 204:
            self.events.append(event)
        return web.Response(status=self.status, headers=self.answer_headers)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator["Hook"]:
        app = web.Application()
        app.router.add_post("/hook", self.take)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
            yield self
        finally:
            await runner.cleanup()

    def types(self) -> list[str]:
        return [event["type"] for event in self.events]

    def sink(self, name: str, **keys: object) -> str:
        return table(f"sinks.{name}", {"type": "webhook", "url": self.url, "secrets": [SECRET], **keys})


def table(name: str, keys: dict[str, Any]) -> str:
    return f"[{name}]\n" + "".join(f"{key} = {toml(value)}\n" for key, value in keys.items())


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {toml(one)}" for key, one in value.items()) + " }"
    return json.dumps(value)


class Town:
    """A fake platform, a process, and the configuration file of both."""

    def __init__(self, folder: Path, platform: Platform, url: str) -> None:
        self.platform = platform
        self.folder = folder
        self.url = url
        self.port = free_port()
        self.config = folder / "callcast.toml"
        self.service = Service(self.config, f"http://127.0.0.1:{self.port}")
        self.http: aiohttp.ClientSession

    def head(self, **keys: object) -> str:
        always = {"data_dir": str(self.folder / "data"), "http_listen": f"127.0.0.1:{self.port}", "log_format": "json"}
        return table("service", always | keys)

    def source(self, name: str = "acme", **keys: object) -> str:
        credential = Credential()
        always = {
            "server": self.url,
            "client_id": credential.client_id,
            "client_secret": credential.client_secret,
            "jwt": credential.jwt,
            "extensions": list(DESKS.values()),
            "poll_interval_s": 0.1,
            "heavy_per_minute": 10000,
        }
        return table(f"sources.{name}", always | keys)

    def write(self, *parts: str) -> None:
        self.config.write_text("\n".join(parts))

    async def start(self, *parts: str) -> None:
        self.write(*parts)
        await self.service.start()
        await self.service.ready()
        await self.ready()

    async def ready(self) -> None:
        """Every source has had a good poll."""
        async with asyncio.timeout(WAIT_S):
            while (await self.get("/readyz"))[0] != 200:  # noqa: ASYNC110 (what is waited for is another process)
                await asyncio.sleep(0.02)

    async def reload(self, *parts: str) -> tuple[int, dict[str, Any]]:
        self.write(*parts)
        headers = {"content-type": "application/json"}
        timeout = aiohttp.ClientTimeout(total=WAIT_S)
        async with self.http.post(f"{self.service.url}/-/reload", headers=headers, timeout=timeout) as answer:
            return answer.status, await answer.json()

    async def get(self, path: str) -> tuple[int, str]:
        async with self.http.get(self.service.url + path) as answer:
            return answer.status, await answer.text()

    async def metric(self, name: str) -> float:
        _, text = await self.get("/metrics")
        found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else float("nan")

    def call(self, admin: str = "101") -> None:
        """Start a call that rings an extension."""
        story = self.platform.scenario
        assert isinstance(story, Story)
        call = Call(kind="inbound", extension=admin, number="+15550100299", rings_s=300, ends="missed")
        story.place(call, self.platform.clock.now())

    def signal(self) -> None:
        os.kill(self.service.pid, signal.SIGHUP)

    def logged(self, event: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.service.log if line.startswith("{")]
        return [line for line in lines if line["event"] == event]


@asynccontextmanager
async def town_of(folder: Path, scenario: Any = None) -> AsyncIterator[Town]:
    clock = SimulatedClock()
    platform = Platform(scenario or load("quiet", datetime.now(UTC)), clock=clock)
    async with platform.serve() as url, aiohttp.ClientSession() as http:
        town = Town(folder, platform, url)
        town.http = http
        try:
            yield town
        finally:
            if town.service._process is not None:
                await town.service.stop()


@pytest.fixture
async def town(tmp_path: Path) -> AsyncIterator[Town]:
    async with town_of(tmp_path) as town:
        yield town


@pytest.fixture
async def hook() -> AsyncIterator[Hook]:
    async with Hook().listening() as hook:
        yield hook


async def test_what_is_unchanged_keeps_its_connections(town: Town, hook: Hook) -> None:
    """A webhook's TCP connection and an MQTT session outlive a reload of another sink; a new sink starts now."""
    async with AsyncExitStack() as stack:
        other, new = [await stack.enter_async_context(Hook().listening()) for _ in range(2)]
        broker = stack.enter_context(iotcore(town.folder, "5"))
        subscriber = Subscriber(broker.port)
        stack.callback(subscriber.close)
        wall = table("sinks.wall", {"type": "mqtt", "url": f"mqtt://127.0.0.1:{broker.port}"})
        before = (town.head(), town.source(), hook.sink("crm"), wall)
        await town.start(*before, other.sink("other"))
        await until(lambda: b"online" in subscriber.retained.get("callcast/status", b""), "the broker's greeting")
        birth = subscriber.retained["callcast/status"]
        town.call()
        await until(lambda: len(hook.events) == len(other.events) == 1, "the first call")
        names = table("names", {DESKS["101"]: "Reception"})
        changed = await town.reload(*before, other.sink("other", timeout_s=3), new.sink("new"), names)
        assert changed == (200, {"reloaded": True, "faults": []})
        town.call("102")
        await until(lambda: len(hook.events) == len(other.events) == len(subscriber.events) == 2, "the second call")
        await until(lambda: len(new.events) == 1, "the second call at the new sink")
        assert (len(hook.connections), len(other.connections)) == (1, 2)
        assert subscriber.retained["callcast/status"] == birth
        assert new.events[0]["data"]["extension_id"] == DESKS["102"]
        assert town.platform.requests.count > 0
        assert sum(request.path.endswith("/token") for request in town.platform.requests) == 1
        assert '"extension_name":"Reception"' in (await town.get("/api/calls"))[1]


async def test_a_wrong_file_changes_nothing_and_says_so(town: Town, hook: Hook) -> None:
    """409 with the faults, a line in the log, a metric at 0; and events flow as before. Then all is well again."""
    good = (town.head(), town.source(), hook.sink("crm"))
    await town.start(*good)
    assert await town.metric("callcast_config_last_reload_successful") == 1
    status, answer = await town.reload(town.head(log_levle="info"), *good[1:], hook.sink("two", timout_s=3))
    assert status == 409
    assert answer["reloaded"] is False
    assert any(f"{town.config}:5" in fault and "log_level" in fault for fault in answer["faults"])
    assert any("timeout_s" in fault for fault in answer["faults"])
    assert await town.metric("callcast_config_last_reload_successful") == 0
    town.write("no TOML at all [")
    town.signal()
    await until(lambda: len(town.logged("reload_refused")) == 2, "two refusals in the log")
    town.call()
    await until(lambda: len(hook.events) == 1, "the call")
    town.write(*good)
    town.signal()
    await until(lambda: len(town.logged("configuration_reloaded")) == 1, "a reload")
    assert await town.metric("callcast_config_last_reload_successful") == 1
    assert len(hook.connections) == 1


async def test_what_needs_a_restart_is_refused(town: Town, hook: Hook) -> None:
    """The outbox and the listening socket cannot move under a running service; the rest of such a file waits too."""
    rest = (town.source(), hook.sink("crm"))
    await town.start(town.head(), *rest)
    moved = {"data_dir": str(town.folder / "elsewhere"), "http_listen": "127.0.0.1:1"}
    status, answer = await town.reload(town.head(**moved), *rest, hook.sink("new"))
    assert (status, len(answer["faults"])) == (409, 2)
    assert all("restart" in fault for fault in answer["faults"])
    assert not (town.folder / "elsewhere").exists()
    assert 'sink_up{sink="new"}' not in (await town.get("/metrics"))[1]


async def test_a_hanging_sink_does_not_delay_a_reload(town: Town, hook: Hook) -> None:
    """A webhook that never answers and a broker that froze are changed while every patience is ten minutes."""
    long = FAR_LONGER_THAN_A_TEST_S
    async with Hook().listening() as dead, Hook().listening() as healthy:
        with iotcore(town.folder, "5") as broker:
            url = f"mqtt://127.0.0.1:{broker.port}"
            dead.status = 500
            head = town.head(shutdown_s=long)
            await town.start(
                head,
                town.source(),
                hook.sink("crm", timeout_s=long),
                dead.sink("dead", timeout_s=long),
                table("sinks.wall", {"type": "mqtt", "url": url, "timeout_s": long}),
            )
            await until(lambda: len(town.logged("delivery_started")) == 3, "three sinks")
            hook.hangs = True
            broker.freeze()
            town.call()
            await until(lambda: hook.hanging == 1, "a delivery that hangs")
            status, _ = await town.reload(
                town.head(shutdown_s=0),
                town.source(),
                healthy.sink("crm"),
                healthy.sink("dead"),
                table("sinks.wall", {"type": "mqtt", "url": url, "timeout_s": 5}),
            )
            assert status == 200
            await until(lambda: len(healthy.events) == 2, "the pending deliveries of both, at the new address")
            broker.thaw()


async def test_two_quick_signals_are_both_honoured(town: Town, hook: Hook) -> None:
    """What the file says at the second one is what runs, however soon it followed the first."""
    rest = (town.head(), town.source())
    await town.start(*rest, hook.sink("crm"))
    for team in ("one", "two"):
        town.write(*rest, hook.sink("crm", headers={"X-Team": team}))
        town.signal()
    await until(lambda: bool(town.logged("configuration_reloaded")), "a reload")
    await until(lambda: len(town.logged("delivery_started")) >= 2, "the changed sink")
    for admin in DESKS:
        town.call(admin)
    await until(lambda: len(hook.events) == 2, "the calls")
    assert hook.headers[-1] == "two"


async def test_secrets_are_read_again(town: Town, hook: Hook) -> None:
    """The file of the configuration stays as it is, a secret's file has another text: the sink has the new one."""
    secret = town.folder / "team"
    secret.write_text("first")
    sink = hook.sink("crm", headers={"X-Team": {"file": str(secret)}})
    parts = (town.head(), town.source(), sink)
    await town.start(*parts)
    town.call()
    await until(lambda: hook.headers == ["first"], "the first secret")
    secret.write_text("second")
    assert (await town.reload(*parts))[0] == 200
    town.call("102")
    await until(lambda: hook.headers == ["first", "second"], "the second secret")


async def test_a_changed_secret_file_is_taken_up_without_a_reload(town: Town, hook: Hook) -> None:
    """The sink gets the new secret, an edited configuration has to wait, and of a broken file the old text stays."""
    secret = town.folder / "team"
    secret.write_text("first")
    sink = hook.sink("crm", headers={"X-Team": {"file": str(secret)}})
    await town.start(town.head(), town.source(), sink)
    town.call()
    await until(lambda: hook.headers == ["first"], "the first secret")
    town.write("half of an edited file")
    secret.write_text("second")
    await until(lambda: bool(town.logged("configuration_reloaded")), "the new secret")
    secret.write_text("")
    await until(lambda: bool(town.logged("reload_refused")), "the broken file in the log")
    assert "is empty" in town.logged("reload_refused")[0]["detail"]
    town.call("102")
    await until(lambda: hook.headers == ["first", "second"], "the second secret")
    assert [line["files"] for line in town.logged("files_changed")] == [[str(secret)]] * 2


async def test_a_credential_of_systemd_that_is_the_same_is_named(town: Town, hook: Hook) -> None:
    """Who has replaced one learns from the log that only a restart brings it; no word of one that did change."""
    for name in ("team", "stable"):
        (town.folder / name).write_text(name)
    headers = {"X-Team": {"credential": "team"}, "X-Stable": {"credential": "stable"}}
    parts = (town.head(), town.source(), hook.sink("crm", headers=headers))
    town.write(*parts)
    await town.service.start({"CREDENTIALS_DIRECTORY": str(town.folder)})
    await town.service.ready()
    await town.ready()
    assert (await town.reload(*parts))[0] == 200
    await until(lambda: len(town.logged("credentials_unchanged")) == 1, "the line")
    (line,) = town.logged("credentials_unchanged")
    assert line["credentials"] == ["stable", "team"]
    assert "systemctl restart callcast" in line["fix"]
    (town.folder / "team").write_text("another")
    assert (await town.reload(*parts))[0] == 200
    await until(lambda: len(town.logged("credentials_unchanged")) == 2, "the second line")
    assert town.logged("credentials_unchanged")[-1]["credentials"] == ["stable"]


async def test_a_new_hash_key_concerns_only_who_hashes(town: Town, hook: Hook) -> None:
    """`service.hash_key` is a secret too: the sink that hashes has new hashes, the other one keeps its connection."""
    async with Hook().listening() as other:
        rest = (town.source(), hook.sink("crm", numbers="hash"), other.sink("other"))
        await town.start(town.head(hash_key="one"), *rest)
        town.call()
        await until(lambda: len(hook.events) == len(other.events) == 1, "the first call")
        assert (await town.reload(town.head(hash_key="two"), *rest))[0] == 200
        town.call("102")
        await until(lambda: len(hook.events) == len(other.events) == 2, "the second call")
        before, after = (event["data"]["from"]["number"] for event in hook.events)
        assert before.startswith("h:")
        assert before != after
        assert (len(hook.connections), len(other.connections)) == (2, 1)


def test_a_renewed_certificate_is_a_change(tmp_path: Path) -> None:
    """The path stays, the file is another one: the sink is opened again with it, and only then."""
    old, new = (make_certificates(tmp_path / name) for name in ("old", "new"))
    ca = tmp_path / "ca.pem"
    ca.write_bytes(Path(old.ca).read_bytes())

    def settings() -> WebhookSettings:
        return WebhookSettings(url=Secret("https://crm.example.com/hook"), tls_ca=str(ca))

    before = settings()
    assert settings() == before
    ca.write_bytes(Path(new.ca).read_bytes())
    assert settings() != before


async def test_sources_come_and_go(town: Town, hook: Hook) -> None:
    """A removed source's calls end as unwatched, and a new one takes its extension over."""
    one = town.source("acme", extensions=[DESKS["101"]])
    two = town.source("branch", extensions=[DESKS["102"]])
    await town.start(town.head(), one, two, hook.sink("crm"))
    for admin in DESKS:
        town.call(admin)
    await until(lambda: len(hook.events) == 2, "both calls")
    assert (await town.reload(town.head(), one, hook.sink("crm")))[0] == 200
    await until(lambda: len(hook.events) == 3, "the end")
    ended = hook.events[-1]
    assert (ended["type"], ended["source"]) == ("call.ended", "/callcast/branch")
    assert (ended["data"]["disposition"], ended["data"]["observation"]["evidence"]) == ("unknown", "unwatched")
    calls = json.loads((await town.get("/api/calls"))[1])["calls"]
    assert [call["source"] for call in calls] == ["acme"]
    assert 'source="branch"' not in (await town.get("/metrics"))[1]
    third = town.source("third", extensions=[DESKS["102"]])
    assert (await town.reload(town.head(), one, third, hook.sink("crm")))[0] == 200
    await town.ready()
    town.call("102")
    await until(lambda: len(hook.events) == 4, "a call as the new source sees it")
    assert (hook.events[-1]["source"], hook.events[-1]["type"]) == ("/callcast/third", "call.ringing")


@pytest.mark.parametrize("revoke", [True, False])
@pytest.mark.parametrize("change", ["removed", "new jwt"])
async def test_a_credential_that_is_used_no_longer_gives_its_token_back(
    town: Town, hook: Hook, change: str, revoke: bool
) -> None:
    """Removed or changed: its token is revoked where `revoke_on_exit` is set, and in no case stays in the file."""
    town.platform.tokens.credentials += [Credential(jwt="old"), Credential(jwt="new")]
    # Without push: its tokens would take the places that the sign-ins leave, and a clean stop waits for none.
    keys: dict[str, Any] = {"revoke_on_exit": revoke, "hints": "off"}
    rest = (town.head(), hook.sink("crm"), town.source("acme", extensions=[DESKS["101"]], **keys))
    keys["extensions"] = [DESKS["102"]]
    await town.start(*rest, town.source("branch", jwt="old", **keys))
    kept = town.folder / "data" / "tokens.json"
    await until(lambda: kept.exists() and len(json.loads(kept.read_text())["tokens"]) == 2, "both tokens in the file")
    before = json.loads(kept.read_text())["tokens"].keys()
    after = [town.source("branch", jwt="new", **keys)] if change == "new jwt" else []
    assert (await town.reload(*rest, *after))[0] == 200

    def revoked() -> int:
        return sum(request.path.endswith("/revoke") for request in town.platform.requests)

    await until(
        lambda: len(before & json.loads(kept.read_text())["tokens"].keys()) == 1 and revoked() >= revoke,
        "the token is deleted, and revoked",
    )
    await town.ready()
    assert revoked() == revoke


async def test_an_account_and_an_extension_of_it_do_not_swallow_each_others_events(town: Town, hook: Hook) -> None:
    """The extension's own source reports it, the account's source all others, until the extension's is removed."""
    whole = town.source("whole", watch="account")
    one = town.source("one", extensions=[DESKS["101"]], account=town.platform.scenario.account_id)
    await town.start(town.head(), whole, one, hook.sink("crm"))
    for admin in DESKS:
        town.call(admin)
    await until(lambda: len(hook.events) == 2, "both calls")
    watched_by = {event["data"]["extension_id"]: event["source"] for event in hook.events}
    assert watched_by == {DESKS["101"]: "/callcast/one", DESKS["102"]: "/callcast/whole"}
    assert [line["source"] for line in town.logged("extension_watched_twice")] == ["whole"]
    assert (await town.reload(town.head(), whole, hook.sink("crm")))[0] == 200
    await until(lambda: len(hook.events) == 3, "the end of the first call")
    town.call("101")
    await until(lambda: len(hook.events) > 3 and hook.events[-1]["type"] == "call.ringing", "the next call")
    assert hook.events[-1]["source"] == "/callcast/whole"


async def test_a_changed_source_keeps_its_calls_and_its_token(town: Town, hook: Hook) -> None:
    """An extension more, then `watch = "account"`, then one extension less: only the last one's call ends."""
    rest = (town.head(), hook.sink("crm"))
    await town.start(town.source(extensions=[DESKS["101"]]), *rest)
    town.call("101")
    town.call("102")
    await until(lambda: len(hook.events) == 1, "the first call")
    assert (await town.reload(town.source(), *rest))[0] == 200
    await until(lambda: len(hook.events) == 2, "the second call, whose extension is watched now")
    assert sum(request.path.endswith("/token") for request in town.platform.requests) == 1
    assert (await town.reload(town.source(watch="account"), *rest))[0] == 200
    await town.ready()
    assert (await town.reload(town.source(extensions=[DESKS["102"]]), *rest))[0] == 200
    await until(lambda: len(hook.events) == 3, "the end of the first call")
    ended = hook.events[-1]
    assert (ended["type"], ended["data"]["extension_id"]) == ("call.ended", DESKS["101"])
    assert ended["data"]["observation"]["evidence"] == "unwatched"


async def test_a_source_that_went_while_nothing_ran_ends_its_calls_at_the_start(town: Town, hook: Hook) -> None:
    """Stopped, edited, started: as with a reload."""
    await town.start(town.head(), town.source("branch"), hook.sink("crm"))
    town.call()
    await until(lambda: len(hook.events) == 1, "the call")
    await town.service.stop()
    await town.start(town.head(), town.source("acme", extensions=[DESKS["102"]]), hook.sink("crm"))
    await until(lambda: len(hook.events) == 2, "the end")
    assert hook.events[-1]["data"]["observation"]["evidence"] == "unwatched"


async def test_a_removed_sink_keeps_its_deliveries_until_its_name_comes_back(town: Town, hook: Hook) -> None:
    """Its pending deliveries stay visible, it gets no new ones, and they are delivered as soon as it is there
    again.
    """
    async with Hook().listening() as other:
        hook.status = 500
        rest = (town.head(), town.source(), other.sink("other"))
        await town.start(*rest, hook.sink("crm", live_ttl_s=3600))
        town.call()
        await until(lambda: bool(hook.connections) and len(other.events) == 1, "a refused delivery")
        assert (await town.reload(*rest))[0] == 200
        assert 'callcast_sink_up{sink="crm"}' not in (await town.get("/metrics"))[1]
        town.call("102")
        await until(lambda: len(other.events) == 2, "the second call elsewhere")
        async with asyncio.timeout(WAIT_S):
            while await town.metric('callcast_outbox_events{sink="crm"}') != 1:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        hook.status = 204
        assert (await town.reload(*rest, hook.sink("crm", live_ttl_s=3600)))[0] == 200
        await until(lambda: len(hook.events) == 1, "the pending delivery")
        assert hook.events[0]["data"]["extension_id"] == DESKS["101"]


async def test_home_assistant_devices_follow_a_reload(town: Town) -> None:
    """A new name renames a device; an extension, and at last the sink, that is removed takes its devices with it."""
    first, second = (f"homeassistant/device/callcast/acme-{extension}/config" for extension in DESKS.values())
    lines = table("sinks.lines", {"type": "stdout"})
    with mosquitto(town.folder) as broker:
        subscriber = Subscriber(broker.port)
        sink = {"type": "mqtt", "url": f"mqtt://127.0.0.1:{broker.port}", "discovery": "homeassistant"}
        home = table("sinks.home", sink)

        def name(topic: str) -> str | None:
            message = subscriber.retained.get(topic)
            return json.loads(message)["device"]["name"] if message else None

        await town.start(town.head(), town.source(), lines, home)
        await until(lambda: {first, second} <= subscriber.retained.keys(), "both devices")
        town.call()
        await until(lambda: bool(subscriber.events), "the call")
        only = town.source(extensions=[DESKS["102"]])
        assert (await town.reload(town.head(), only, lines, home))[0] == 200
        await until(lambda: name(first) is None, "the removal of the device of an extension")
        names = table("names", {DESKS["102"]: "Switchboard"})
        assert (await town.reload(town.head(), only, lines, home, names))[0] == 200
        await until(lambda: name(second) == "Switchboard", "the new name")
        assert (await town.reload(town.head(), only, lines, names))[0] == 200
        await until(lambda: not subscriber.retained, "the removal of everything")
        assert not town.logged("mqtt_state_left_behind")
        subscriber.close()


async def test_a_changed_level_time_zone_and_token_take_hold(town: Town, hook: Hook) -> None:
    """Of the service, too, everything but its folder and its address follows a reload."""
    rest = (town.source(), hook.sink("crm"))
    await town.start(town.head(), *rest)
    changed = {"log_level": "debug", "timezone": "Asia/Tokyo", "http_token": "let-me-in", "retention_h": 1}
    assert (await town.reload(town.head(**changed), *rest))[0] == 200
    assert (await town.get("/api/calls"))[0] == 401
    await until(lambda: bool(town.logged("request_answered")), "a line at debug")
    town.call()
    await until(lambda: len(hook.events) == 1, "the call")


async def test_two_hundred_reloads_under_load_lose_nothing(tmp_path: Path) -> None:
    """Every other one invalid, the others changing sinks and sources: each call's events arrive in order to its end."""
    reloads = 200
    scenario = busy(datetime.now(UTC), 20, 600, talks_s=3, seed=3, speed=3)
    async with town_of(tmp_path, scenario) as town, Hook().listening() as hook:
        lines = table("sinks.lines", {"type": "stdout"})

        def parts(number: int) -> list[str]:
            source = town.source(watch="account", settle_s=30 + number // 20)
            crm = hook.sink("crm", timeout_s=5 + number % 7, live_ttl_s=3600)
            return [town.head(), source, lines, crm, "[sinks.x]" if number % 2 else ""]

        await town.start(*parts(0))
        seen_from = town.platform.clock.now()  # what was over by the first poll is history
        for number in range(1, reloads + 1):
            known = len(town.service.lines)
            assert (await town.reload(*parts(number)))[0] == (409 if number % 2 else 200)
            if number % 4 == 0:
                await until(lambda: len(town.service.lines) > known, "events between two reloads")  # noqa: B023
        stopped_at = town.platform.clock.now()
        truths = [t for t in town.platform.truth() if seen_from < t.ended_at < stopped_at]
        assert len(truths) > 20
        over = {(t.extension_id, t.session_id) for t in truths}
        await until(lambda: over <= ended(town.service.lines) and over <= ended(hook.events), "the end of each call")
        assert await town.service.stop() == 0
        assert_whole(town.service.lines)
        assert_whole(hook.events)


def ended(events: list[dict[str, Any]]) -> set[tuple[str, str]]:
    return {(e["data"]["extension_id"], e["data"]["session_id"]) for e in events if e["type"] == "call.ended"}


def assert_whole(events: list[dict[str, Any]]) -> None:
    """Each call's events came in order and without a gap; one that was sent again has its id."""
    sequences: dict[str, list[int]] = {}
    seen: set[str] = set()
    for event in events:
        if event["type"].startswith("call.") and event["id"] not in seen:
            seen.add(event["id"])
            sequences.setdefault(event["subject"], []).append(event["data"]["sequence"])
    wrong = {call: got for call, got in sequences.items() if got != list(range(1, len(got) + 1))}
    assert wrong == {}
