"""The command: prints what a source needs, serves until it is told to stop."""

import argparse
import asyncio
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator

import aiohttp
import pytest

from callcast.cli import simulate
from tests.integration.simulator.caller import JWT_GRANT

PROGRAM = """
import argparse, asyncio, sys
from callcast.cli import simulate
parser = argparse.ArgumentParser()
simulate.add_arguments(parser)
arguments = parser.parse_args()
assert "aiohttp" not in sys.modules
sys.exit(asyncio.run(simulate.run(arguments)))
"""


@pytest.fixture
def served() -> Iterator[subprocess.Popen[str]]:
    """The command in a process of its own, with a fault ordered on its command line."""
    fault = '{"kind":"status","status":503,"path":"*/active-calls","skip":1,"count":1}'
    command = [sys.executable, "-c", PROGRAM, "--port", "0", "--scenario", "seed", "--rate-limit", "--fault", fault]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


async def test_the_printed_source_works(served: subprocess.Popen[str]) -> None:
    """The snippet is TOML; what it names opens the list; SIGTERM ends the command with 0."""
    assert served.stdout is not None
    lines = iter(served.stdout.readline, "\n")
    printed = "".join(await asyncio.to_thread(lambda: list(lines)))
    source = tomllib.loads(printed)["sources"]["simulated"]
    login = aiohttp.encode_basic_auth(source["client_id"], source["client_secret"])
    async with aiohttp.ClientSession(source["server"]) as http:
        form = {"grant_type": JWT_GRANT, "assertion": source["jwt"]}
        async with http.post("/restapi/oauth/token", data=form, headers={"Authorization": login}) as response:
            token = (await response.json())["access_token"]
        for status in (200, 503, 200):
            path = f"/restapi/v1.0/account/~/extension/{source['extensions'][0]}/active-calls"
            async with http.get(path, headers={"Authorization": f"Bearer {token}"}) as response:
                assert response.status == status
                assert response.headers["RCRequestId"]
    served.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(served.wait, 10) == 0


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    simulate.add_arguments(parser)
    return parser.parse_args(arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--scenario", "nowhere"),
        ("--scenario", "/nowhere.toml"),
        ("--fault", '{"kind":"eaten"}'),
        ("--host", "192.0.2.1"),
    ],
)
async def test_what_cannot_be_done_is_said(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown scenario, a missing file, a wrong fault and a foreign address end with 2 and a sentence."""
    assert await simulate.run(parsed(*arguments)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("callcast simulate: ")


@pytest.mark.parametrize("arguments", [("--speed", "0"), ("--lateness", "9-3"), ("--log-delay", "soon")])
def test_wrong_arguments_are_refused(arguments: tuple[str, ...]) -> None:
    """Numbers that make no sense are wrong usage."""
    with pytest.raises(SystemExit):
        parsed(*arguments)


def test_spans() -> None:
    """One number or two."""
    assert parsed("--lateness", "3-10").lateness == (3, 10)
    assert parsed("--log-delay", "20").log_delay == (20, 20)
