"""`callcast check --online` as a person runs it: what is printed, the exit codes, and how long it takes at most."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from callcast.simulator import Credential, Fault, Limits, Platform
from tests.integration.sinks.brokers import iotcore
from tests.system.world import SECRET, Receiver, seed_world

CREDENTIAL = Credential()
SOURCE = f"""
client_id = "{CREDENTIAL.client_id}"
client_secret = "{CREDENTIAL.client_secret}"
jwt = "{CREDENTIAL.jwt}"
"""
PATIENCE_S = 30.0  # on a machine that is busy with other tests; by itself it takes eight seconds at most


def callcast(*arguments: str, environ: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """A process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "callcast", *arguments],
        env={**os.environ, **(environ or {})},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


async def checked(*arguments: str, environ: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(callcast, "check", *arguments, environ=environ)


@asynccontextmanager
async def mute() -> AsyncIterator[int]:
    """Accepts connections and sends nothing."""

    async def hold(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await over.wait()
        writer.close()

    over = asyncio.Event()
    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
        over.set()


async def test_everything_is_well(tmp_path: Path) -> None:
    """One line per result; exit code 0. The receiver gets no request without --send, and one signed request with it."""
    config = tmp_path / "callcast.toml"
    async with Platform(limits=Limits()).serve() as server, Receiver().listening() as receiver:
        with iotcore(tmp_path, "5") as broker:
            config.write_text(
                f'[sources.acme]\nserver = "{server}"{SOURCE}'
                f'[sinks.crm]\ntype = "webhook"\nurl = "{receiver.url}"\nsecrets = ["{SECRET}"]\n'
                f'[sinks.wall]\ntype = "mqtt"\nurl = "mqtt://127.0.0.1:{broker.port}"\n[sinks.lines]\ntype = "stdout"\n'
            )
            silently = await checked("--online", "--config", str(config))
            received = len(receiver.events)
            aloud = await checked("--send", "--config", str(config))
    assert (silently.returncode, silently.stderr, received) == (0, "", 0), silently.stdout
    lines = silently.stdout.split("\n\n")[-1].splitlines()
    assert [line[:7] for line in lines] == ["ok     "] * 8 + ["skipped"]
    assert (aloud.returncode, [event["type"] for event in receiver.events]) == (0, ["callcast.check"])


async def test_each_failure_is_printed_with_a_fix(tmp_path: Path) -> None:
    """Exit 69; one remote side's failure hides no other's, and no secret is shown."""
    config = tmp_path / "callcast.toml"
    credential = Credential(permissions=frozenset())
    async with Platform(credentials=[credential]).serve() as server:
        config.write_text(
            f'[sources.acme]\nserver = "{server}"{SOURCE}'
            f'[sources.east]\nserver = "{server}"{SOURCE.replace(CREDENTIAL.jwt, "forged-assertion")}'
            f'[sinks.crm]\ntype = "webhook"\nurl = "http://127.0.0.1:1/token-in-the-url"\nsecrets = ["{SECRET}"]\n'
            '[sinks.wall]\ntype = "mqtt"\nurl = "mqtt://127.0.0.1:1"\n'
        )
        done = await checked("--online", "--config", str(config))
    assert done.returncode == 69
    output = done.stdout.split("\n\n")[-2]
    failed = [line.split()[1:3] for line in output.splitlines() if line.startswith("failed")]
    assert failed == [["source", "acme:"], ["source", "east:"], ["sink", "crm"], ["sink", "wall"]]
    assert output.count("    fix: ") == 6  # the two ways of hints are skipped with one
    assert "ReadCallLog" in output
    assert done.stdout.endswith("\n4 failed\n")
    for secret in (CREDENTIAL.client_secret, CREDENTIAL.jwt, "forged-assertion", "token-in-the-url", SECRET):
        assert secret not in done.stdout + done.stderr


async def test_it_ends_whatever_hangs(tmp_path: Path) -> None:
    """Everything hangs at once: the token, a list, TLS, a broker, and a name look-up, which cannot be cancelled."""
    (tmp_path / "sitecustomize.py").write_text(
        "import socket, time\n"
        "real = socket.getaddrinfo\n"
        "def look_up(host, *rest, **more):\n"
        "    if host == 'slow.example': time.sleep(600)\n"
        "    return real(host, *rest, **more)\n"
        "socket.getaddrinfo = look_up\n"
    )
    config = tmp_path / "callcast.toml"
    async with (
        mute() as silent,
        Platform(faults=[Fault(kind="hang", path="*/token")]).serve() as tokenless,
        Platform(faults=[Fault(kind="hang", path="*/active-calls")]).serve() as listless,
    ):
        config.write_text(
            f'[sources.acme]\nserver = "{tokenless}"{SOURCE}[sources.east]\nserver = "{listless}"{SOURCE}'
            '[sources.slow]\nserver = "https://slow.example"\nclient_id = "a"\nclient_secret = "b"\njwt = "c"\n'
            f'[sinks.crm]\ntype = "webhook"\nurl = "https://127.0.0.1:{silent}/"\nsecrets = ["{SECRET}"]\n'
            f'[sinks.slow]\ntype = "webhook"\nurl = "https://slow.example/"\nsecrets = ["{SECRET}"]\n'
            f'[sinks.wall]\ntype = "mqtt"\nurl = "mqtt://127.0.0.1:{silent}"\n'
        )
        done = await checked("--send", "--config", str(config), environ={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 69, done.stderr
    assert done.stdout.endswith("\n6 failed\n")
    assert "ok       source east: token" in done.stdout, "results that arrived in time are printed"


async def test_a_running_service_does_not_notice(tmp_path: Path) -> None:
    """While a check uses the same credential and broker, the service keeps its token and its connection."""
    async with seed_world(tmp_path) as world:
        world.stage.show(0)
        await world.service.start()
        await world.service.ready()
        await world.stage.seen()
        done = await checked("--online", "--config", str(world.service.config))
        assert done.stdout.count("ok  ") == 7, done.stdout  # the clock is that of the recording, years ago
        world.stage.show(1)
        await world.delivered(1)
        assert await world.service.stop() == 0
    assert "lost" not in "".join(world.service.log)
    assert "taken_over" not in "".join(world.service.log)


async def test_an_invalid_configuration_is_not_checked_online(tmp_path: Path) -> None:
    """The file is checked first; with errors in it, no request is sent."""
    config = tmp_path / "callcast.toml"
    platform = Platform()
    async with platform.serve() as server:
        config.write_text(f'[sources.acme]\nserver = "{server}"{SOURCE}nonsense = 1\n[sinks.lines]\ntype = "stdout"\n')
        done = await checked("--online", "--config", str(config))
    assert (done.returncode, done.stdout, platform.requests.count) == (78, "", 0)
