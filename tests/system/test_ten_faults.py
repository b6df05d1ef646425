"""Ten faults as an operator meets them at night: one command or one poll names the place, the cause and the next step.

The real process and the real commands; the polls are those of docs/operating.md: `/readyz`, `callcast check --online`
(or `--send`), `callcast check`.
"""

import asyncio
import json
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from callcast.calls.model import Snapshot, Target
from callcast.live.live_calls import InMemoryLiveCalls
from callcast.observability.logs import bound
from callcast.observability.metrics import Metrics
from callcast.observability.outbox_health import OutboxHealth
from callcast.polling.telemetry import SourceTelemetry
from callcast.ports.upstream import PollFailed
from callcast.simulator import Credential, Fault, Platform, SimulatedClock
from callcast.simulator.scenarios import load
from tests.clock import TurnedClock
from tests.integration.cli.test_check_online import checked
from tests.integration.sinks.brokers import mosquitto
from tests.system.test_reload import DESKS, Hook, Town, hook, table, town
from tests.system.world import SECRET, WAIT_S, until

__all__ = ["hook", "town"]  # fixtures

LINES = table("sinks.lines", {"type": "stdout"})
DEAD = table("sinks.crm", {"type": "webhook", "url": "http://127.0.0.1:9/hook", "secrets": [SECRET]})


@asynccontextmanager
async def seen(platform: Platform, folder: Path) -> AsyncIterator[Town]:
    """A service before a platform that has trouble."""
    async with platform.serve() as url, aiohttp.ClientSession() as http:
        town = Town(folder, platform, url)
        town.http = http
        town.write(town.head(), town.source(), LINES)
        await town.service.start()
        await town.service.ready()
        try:
            yield town
        finally:
            await town.service.stop()


async def reported(town: Town, where: str, *words: str) -> str:
    """The one sentence of /readyz, in `where`, that says all these words; waits for it."""
    async with asyncio.timeout(WAIT_S):
        while True:
            sentences: list[str] = json.loads((await town.get("/readyz"))[1])[where]
            for sentence in sentences:
                if all(word in sentence for word in words):
                    return sentence
            await asyncio.sleep(0.05)


async def logged(town: Town, event: str) -> dict[str, Any]:
    """The log's first line of this name."""
    await until(lambda: bool(town.logged(event)), f"{event} in the log")
    return town.logged(event)[0]


async def check_output(town: Town, *options: str) -> str:
    """What `callcast check` says on the screen, after the plan."""
    done = await checked(*options, "--config", str(town.config))
    assert done.returncode == 69, done.stdout + done.stderr
    return done.stdout.split("\n\n", 2)[2]


def platform_of(**more: object) -> Platform:
    return Platform(load("quiet", datetime.now(UTC)), **more)  # type: ignore[arg-type]


async def test_1_a_wrong_jwt(tmp_path: Path) -> None:
    """/readyz and the check name the source, the platform's word for it, and the key to mend."""
    other = Credential(jwt="the-right-assertion")
    async with seen(platform_of(credentials=[other]), tmp_path) as town:
        await reported(town, "reasons", "source acme", "JWT is not valid", "check jwt")
        checked = await check_output(town, "--online")
    assert "failed   source acme: token  the token endpoint answered 400" in checked
    assert "fix: check jwt" in checked


async def test_2_a_missing_permission(tmp_path: Path) -> None:
    """They name the source, the permission, and who gives it."""
    poor = Credential(permissions=frozenset())
    async with seen(platform_of(credentials=[poor]), tmp_path) as town:
        await reported(town, "reasons", "source acme", "403", "lacks the permission ReadCallLog", "developer console")
        checked = await check_output(town, "--online")
    assert "failed   source acme: permission" in checked
    assert "fix: the app lacks the permission ReadCallLog: add it to the app" in checked


async def test_one_extension_that_is_refused(tmp_path: Path) -> None:
    """Ready all the same: a warning names it and what to do, until it is shown again."""
    refused = next(iter(DESKS.values()))
    fault = Fault(kind="status", status=403, code="CMN-404", path=f"*/{refused}/*")
    async with seen(platform_of(faults=[fault]), tmp_path) as town:
        await reported(town, "warnings", "source acme", f"extension {refused} is refused", "administrator's credential")
        await town.ready()


async def test_3_the_rate_limit(tmp_path: Path) -> None:
    """They name the source, the limit, and the likely rival; the log says how long nothing is sent."""
    fault = Fault(kind="status", status=429, path="*active-calls")
    async with seen(platform_of(faults=[fault]), tmp_path) as town:
        await reported(town, "reasons", "source acme", "429", "Request rate exceeded", "another program uses the same")
        line = await logged(town, "rate_limited")
        checked = await check_output(town, "--online")
    assert line["detail"].startswith("requests are paused for ")
    assert "another program" in line["fix"]
    assert "failed   source acme: rate limit  429" in checked


async def test_4_a_dead_receiver(town: Town) -> None:
    """Ready all the same: the warning and the log name the sink, the cause and the key to check; so does `check`."""
    await town.start(town.head(), town.source(), DEAD)
    for _ in range(5):  # five attempts make a sink failing
        town.call()
    fix = "check host and port in url, and that the service there is running"
    await reported(town, "warnings", "sink crm is failing since", "connection refused", fix)
    line = await logged(town, "sink_failed")
    assert (line["sink"], line["reason"], line["fix"]) == ("crm", "connect", fix)
    checked = await check_output(town, "--online")
    assert "failed   sink crm" in checked
    assert "connection refused\n    fix: check host and port in url, and that the service there is running" in checked


async def test_5_a_receiver_with_another_secret(town: Town, hook: Hook) -> None:
    """The same, with 401; what the command says leads to secrets on both sides."""
    hook.status = 401
    await town.start(town.head(), town.source(), hook.sink("crm"))
    for _ in range(5):
        town.call()
    await reported(town, "warnings", "sink crm is failing since", "answered 401", "check secrets and headers")
    checked = await check_output(town, "--send")
    assert "failed   sink crm" in checked
    assert "fix: the receiver rejects the authentication: check secrets" in checked


async def test_6_a_broker_that_refuses_a_topic(town: Town) -> None:
    """The warning names the topic that was refused; the command what to change in the broker."""
    rules = town.folder / "rules"
    rules.write_text("topic readwrite callcast/status\ntopic read callcast/#\n")
    for path in (rules, *town.folder.parents[:3]):
        path.chmod(path.stat().st_mode | 0o055)
    with mosquitto(town.folder, f"acl_file {rules}") as broker:
        wall = table("sinks.wall", {"type": "mqtt", "url": f"mqtt://127.0.0.1:{broker.port}"})
        await town.start(town.head(), town.source(), wall)
        for _ in range(5):
            town.call()
        refused = "Not authorized (to callcast/acme/"
        await reported(
            town, "warnings", "sink wall is failing since", refused, "/events/call.", "the broker's access rules"
        )
        checked = await check_output(town, "--send")
    assert "failed   sink wall" in checked
    assert "fix: allow callcast to publish to all topics below topic in the broker's access rules" in checked


async def test_7_a_full_disk(town: Town) -> None:
    """Not ready, and /readyz and the log name the folder; with room again it goes on by itself."""
    await town.start(town.head(), town.source(), LINES)
    before = resource.prlimit(town.service.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(town.service.pid, resource.RLIMIT_FSIZE, (4096, before[1]))
    town.call()
    data = str(town.folder / "data")
    words = (f"the outbox in {data} cannot be used", "full", "check free space", "retries automatically")
    await reported(town, "reasons", *words)
    assert data in (await logged(town, "outbox_failed"))["detail"]
    resource.prlimit(town.service.pid, resource.RLIMIT_FSIZE, before)
    await town.ready()


async def test_8_a_clock_that_is_off(tmp_path: Path) -> None:
    """Ready; the warning and the check name the clock, by how much it is off, and what to do."""
    ahead = SimulatedClock(datetime.now(UTC) + timedelta(minutes=10))
    async with seen(platform_of(clock=ahead), tmp_path) as town:
        await reported(town, "warnings", "source acme: this machine is 10 minutes behind the platform", "NTP")
        checked = await check_output(town, "--online")
    assert "failed   source acme: clock       this machine is 10 minutes behind the platform" in checked
    assert "fix: synchronize this machine's clock" in checked


async def test_9_a_typo_in_a_key(town: Town) -> None:
    """`check`, and `run` in the same words, name file, line, key and the word that was meant."""
    town.write(town.head(), town.source().replace("poll_interval_s", "poll_intervall_s"), LINES)
    line = town.config.read_text().splitlines().index("poll_intervall_s = 0.1") + 1
    done = await checked("--config", str(town.config))
    message = (
        f"{town.config}:{line}: sources.acme.poll_intervall_s: unknown key\n    fix: did you mean `poll_interval_s`?"
    )
    assert (done.returncode, done.stderr) == (78, f"{message}\n1 error\n")


def test_10_a_stale_source() -> None:
    """/readyz names the source, for how long it has seen nothing, why, and what to do."""
    clock = TurnedClock()
    live_calls = InMemoryLiveCalls(clock)
    telemetry = SourceTelemetry(
        "acme", live_calls, Metrics(live_calls, clock, "1"), clock, bound(), OutboxHealth(clock, bound())
    )
    target = Target(source="acme")
    telemetry.watching(None, 7.5)
    telemetry.poll_succeeded(Snapshot(target=target, taken_at=clock.now(), observations=()), 0.1)
    assert telemetry.unready() is None
    telemetry.poll_failed(target, PollFailed("network", "no connection: Connection refused"), 0.1)
    clock._passed_s += 45
    assert telemetry.unready() == (
        "source acme: no successful poll for 45 s: no connection: Connection refused: "
        "check server, and that this machine can reach it: DNS, firewall, certificate"
    )


@pytest.mark.parametrize("reason", ["network", "timeout", "auth", "permission", "rate_limited", "server", "parse"])
def test_whatever_a_poll_failed_for_something_is_to_be_done(reason: str) -> None:
    """Where the platform's answer says nothing better, the log and /readyz still name the next step."""
    failure = PollFailed(reason, "it failed")  # type: ignore[arg-type]
    assert failure.fix
    assert failure.detail == f"it failed: {failure.fix}"
    assert PollFailed(reason, "it failed", fix="mend it").detail == "it failed: mend it"  # type: ignore[arg-type]
