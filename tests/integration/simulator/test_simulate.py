"""The command: prints what a source needs, serves until it is stopped."""

import argparse
import asyncio
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from itertools import takewhile
from typing import Any

import aiohttp
import pytest

from callcast.cli import simulate
from callcast.cli.failure import CommandFailed
from callcast.cli.main import main
from callcast.cli.parser import parse
from callcast.simulator import Platform
from tests.integration.simulator.caller import JWT_GRANT


@pytest.fixture
def served() -> Iterator[subprocess.Popen[str]]:
    """The command in a process of its own, with a fault ordered on its command line."""
    fault = '{"kind":"status","status":503,"path":"*/active-calls","skip":1,"count":1}'
    command = [
        sys.executable,
        "-m",
        "callcast",
        "simulate",
        "--port",
        "0",
        "--scenario",
        "seed",
        "--rate-limit",
        "--fault",
        fault,
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


async def test_the_printed_source_works(served: subprocess.Popen[str]) -> None:
    """The snippet is TOML; what it names opens the list; SIGTERM ends the command with 0."""
    printed = await asyncio.to_thread(lambda: "".join(takewhile(str.strip, served.stdout or ())))
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
    return parse(["simulate", *arguments])


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--scenario", "nowhere"), 2, "--scenario nowhere: there is no scenario 'nowhere'; there are seed, "),
        (("--scenario", "/nowhere.toml"), 2, "--scenario /nowhere.toml: no such file or directory"),
        (("--fault", '{"kind":"eaten"}'), 2, """--fault {"kind":"eaten"}: unknown kind 'eaten': use one of status, """),
        (
            ("--fault", '{"kind":"stats"}'),
            2,
            """--fault {"kind":"stats"}: unknown kind 'stats': did you mean 'status'?""",
        ),
        (
            ("--fault", '{"status":500}'),
            2,
            '--fault {"status":500}: the kind is missing: add "kind":"status", or another',
        ),
        (("--fault", '{"kind":"slow","delay":1}'), 2, "unknown key 'delay': did you mean 'delay_s'?"),
        (("--fault", '{"kind":"slow","delay_s":"1"}'), 2, "delay_s: expected a number"),
        (("--fault", '{"kind":"slow","delay_s":1e99}'), 2, "delay_s: expected a number <= 1e+09"),
        (("--fault", '{"kind":"status","status":0}'), 2, "status: expected a number from 200 to 599"),
        (("--fault", "slow"), 2, """--fault slow: is not JSON: write it as '{"kind":"reset"}'"""),
        (("--fault", "[]"), 2, "--fault []: the fault: expected a JSON object"),
        (("--host", "192.0.2.1"), 69, "cannot listen on 192.0.2.1 port 8078: "),
    ],
)
def test_what_cannot_be_done_is_said(
    arguments: tuple[str, ...], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The option, what is wrong with it and what to write instead."""
    assert main(["simulate", *arguments]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("callcast simulate: ")
    assert words in err


def test_ranges() -> None:
    """One duration or two."""
    assert parsed("--lateness", "3s-10s").lateness == (3, 10)
    assert parsed("--log-delay", "20").log_delay == (20, 20)


@pytest.mark.parametrize(
    ("arguments", "starts", "ends"),
    [(("--lateness", "3s-10s"), (3, 10), (3, 10)), (("--lateness", "1s", "--end-lateness", "3s-10s"), (1, 1), (3, 10))],
)
def test_starts_and_ends_can_be_late_by_different_times(
    arguments: tuple[str, ...], starts: tuple[float, float], ends: tuple[float, float]
) -> None:
    """Ends are as late as starts unless they have a range of their own."""
    listing = simulate._listing(parsed(*arguments))
    assert (listing.start_lateness_s, listing.end_lateness_s) == (starts, ends)


@pytest.fixture
def platforms(monkeypatch: pytest.MonkeyPatch) -> list[Platform]:
    """The platforms that the command would serve."""
    made: list[Platform] = []

    class Made(Platform):
        def serve(self, *_: Any, **__: Any) -> Any:
            made.append(self)
            raise CommandFailed("not served in this test")

    monkeypatch.setattr(simulate, "Platform", Made)
    return made


def test_push_can_be_refused(platforms: list[Platform]) -> None:
    """With `--no-push` the credential lacks the permissions; by default it has them."""
    for arguments in ((), ("--no-push",)):
        main(["simulate", *arguments])
    granted, refused = (platform.tokens.credentials[0].permissions for platform in platforms)
    assert granted - refused == {"ReadPresence", "SubscriptionWebSocket", "WebSocket"}


def test_faults_of_the_socket_are_ordered_by_a_flag(platforms: list[Platform]) -> None:
    """`--fault` takes those of the WebSocket as any other."""
    main(["simulate", "--fault", '{"kind":"ws_delay","delay_s":1,"delay_most_s":5,"p":0.2}'])
    (fault,) = platforms[0].faults
    assert (fault["kind"], fault["delay_most_s"], fault["p"]) == ("ws_delay", 5, 0.2)
