"""docs/api.md agrees with the server: commands, fields and limits."""

import asyncio
import os
import re
import subprocess

import aiohttp
import pytest

from callcast.web import auth, server, sse
from tests.integration.deploy.tools import DOCS, need
from tests.integration.web.http_side import Harness

PAGE = (DOCS / "api.md").read_text()
COMMANDS = re.findall(r"^curl .*$", PAGE, re.MULTILINE)
STILL_OPEN = 28  # curl's exit code for --max-time; a stream does not end


def rows(heading: str) -> set[str]:
    """The names in the first column of the table under a heading."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return {name for row in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE) for name in re.findall(r"`(.+?)`", row)}


@pytest.mark.parametrize("command", COMMANDS)
async def test_each_command_runs(here: Harness, command: str) -> None:
    """Against a service with a call; the test ends streams."""
    here.ring("101")
    moved = command.replace("http://127.0.0.1:9469", here.url)
    script = f'curl() {{ {need("curl")} --fail --max-time 2 "$@"; }}\n{moved}'
    environ = {**os.environ, "CALLCAST_HTTP_TOKEN": "any"}
    done = await asyncio.to_thread(
        subprocess.run, ["/bin/sh", "-c", script], env=environ, stdout=subprocess.PIPE, check=False
    )
    assert done.returncode in ((0, STILL_OPEN) if "/api/events" in command else (0,))
    assert done.stdout or command.endswith("/api/events")


async def test_the_fields_of_a_call_are_documented(here: Harness, client: aiohttp.ClientSession) -> None:
    """The page lists exactly the fields that the server sends."""
    here.ring("101")
    async with client.get(here.url + "/api/calls") as answer:
        body = await answer.json()
    assert set(body) == {"now", "calls"}
    states = {"ringing", "dialing", "connected"}
    assert rows("`/api/calls`") - states == set(body["calls"][0])


async def test_the_fields_of_a_summary_are_documented(here: Harness, client: aiohttp.ClientSession) -> None:
    """The same for /api/summary."""
    async with client.get(here.url + "/api/summary") as answer:
        body = await answer.json()
    assert set(body) == {"now", "total", "queues", "sources"}
    (source,) = body["sources"]
    assert rows("`/api/summary`") == set(source)
    assert set(body["total"]) == set(source) - {
        "source",
        "as_of",
        "complete",
        "overdue",
        "sign_ins_ahead",
        "hints",
        "now",
        "extensions",
    }
    assert all(set(counts) == set(body["total"]) for counts in source["extensions"].values())


async def test_every_path_is_on_the_page(here: Harness) -> None:
    """The page lists exactly the routes of the server, static files aside."""
    documented = set(re.findall(r"(/api/\w+|/healthz|/readyz|/metrics|/-/reload)", PAGE))
    source = (DOCS.parent / "src/callcast/web/server.py").read_text()
    known = set(re.findall(r'add_(?:get|post)\("(/[^"]+)"', source))
    assert documented == known


@pytest.mark.parametrize(
    ("words", "number"),
    [
        (r"At most (\d+) connections", server.CONNECTIONS_MAX),
        (r"no whole request for (\d+)\s+seconds", server.IDLE_S),
        (r"a body at most (\d+) kB", server.BODY_BYTES_MAX / 1024),
        (r"last N recorded events, (\d+) at most", server.LAST_MAX),
        (r"cannot be written to for (\d+) seconds", server._WRITE_S),
        (r"once (\d+) rounds wait", sse.QUEUED_ROUNDS_MAX),
        (r"in rounds, every (\d+) ms", sse.ROUND_S * 1000),
        (r"At most (\d+) may read", server.READERS_MAX),
        (r"cookie for (\d+) days", auth.COOKIE_AGE_S / 86400),
    ],
)
def test_the_limits_are_those_of_the_code(words: str, number: float) -> None:
    """A changed limit must be changed on the page too."""
    found = re.search(words, PAGE)
    assert found is not None
    assert float(found[1]) == number
