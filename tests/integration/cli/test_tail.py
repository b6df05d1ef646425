"""`callcast tail` against the real HTTP side."""

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from callcast.calls.model import Party
from tests.integration.cli.programs import Program, program
from tests.integration.web.http_side import Harness, harness, ringing, until
from tests.ports import free_port

NO_FILE = ("--config", "/nonexistent/callcast.toml")


def lines(tail: Program) -> list[dict[str, Any]]:
    return [json.loads(line) for line in tail.out.splitlines()]


async def listening(here: Harness) -> None:
    """Until a reader has joined: events from now on are surely seen."""
    await until(lambda: bool(here.broadcaster._clients))


async def test_json_lines_on_a_pipe() -> None:
    """Each event as it is served, one to a line; and SIGTERM ends with 0."""
    async with harness() as here, program("tail", "--url", here.url, *NO_FILE) as tail:
        await listening(here)
        here.end(here.ring("101"))
        await tail.wrote("call.ended")
        assert [event["type"] for event in lines(tail)] == ["call.ringing", "call.ended"]
        assert lines(tail)[0]["data"]["from"]["number"] == "***6662"
        assert await tail.stop(signal.SIGTERM) == 0
        assert tail.err == ""


async def test_colour_on_a_terminal_and_nothing_that_it_would_obey() -> None:
    """One line for people; an escape sequence in a caller's name stays text."""
    wide = harness(numbers="full")
    async with wide as here, program("tail", "--url", here.url, *NO_FILE, terminal=True) as tail:
        await listening(here)
        here.record(ringing(from_party=Party(number="+16504306662", name="EVIL\x1b[2J")), "call.ringing")
        await tail.wrote("\n")
        assert "\x1b[33mcall.ringing" in tail.out
        assert "EVIL�[2J +16504306662 → 101" in tail.out
        assert await tail.stop() == 0


async def test_only_what_was_asked_for() -> None:
    """--type is a glob, --extension an id that may be repeated, --last brings what was before."""
    async with harness() as here:
        for extension in ("101", "102", "103"):
            here.end(here.ring(extension))
        wanted = ("--type", "call.e*", "--extension", "101", "--extension", "103", "--last", "4")
        async with program("tail", "--url", here.url, *NO_FILE, *wanted) as tail:
            await tail.wrote('"103/s-1"')
            assert [event["subject"] for event in lines(tail)] == ["103/s-1"]


async def test_a_lost_connection_is_taken_up_where_it_was() -> None:
    """The service goes away and comes back on the same port: nothing is missed, nothing comes twice."""
    port = free_port()
    async with harness(port=port) as here:
        stack = program("tail", "--url", here.url, *NO_FILE)
        tail = await stack.__aenter__()
        try:
            await listening(here)
            here.ring("101")
            await tail.wrote("101/s-1")
        except BaseException:
            await stack.__aexit__(None, None, None)
            raise
    try:
        await tail.wrote("reconnecting", to="err")
        async with harness(port=port) as again:
            again.memory.stored = here.memory.stored
            again.ring("102")
            await tail.wrote("102/s-1")
            assert [event["subject"] for event in lines(tail)] == ["101/s-1", "102/s-1"]
            assert "reconnected" in tail.err
    finally:
        await stack.__aexit__(None, None, None)


async def test_an_unreachable_service_is_reported_with_the_next_step() -> None:
    """Place, cause, next step, and exit code 69; on anything that is not callcast, too."""
    async with program("tail", "--url", f"http://127.0.0.1:{free_port()}", *NO_FILE) as tail:
        assert await tail.ended() == 69
        assert "http://127.0.0.1:" in tail.err
        assert "connection refused" in tail.err
        assert "callcast run" in tail.err
    async with harness() as here, program("tail", "--url", f"{here.url}/elsewhere", *NO_FILE) as tail:
        assert await tail.ended() == 69
        assert "check --url" in tail.err


@pytest.mark.parametrize("how", ["variable", "file"])
async def test_the_token_comes_from_the_environment_or_the_configuration(tmp_path: Path, how: str) -> None:
    """Without it: 69 and the variable's name. Where the service listens is in the configuration as well."""
    token = "sesam-öffne-dich-ключ"
    (tmp_path / "token").write_text(f"{token}\n")
    async with harness(token=token) as here:
        config = tmp_path / "callcast.toml"
        listen = f'[service]\nhttp_listen = "{here.url.removeprefix("http://")}"\n'
        config.write_text(listen)
        async with program("tail", "--config", str(config)) as tail:
            assert await tail.ended() == 69
            assert "CALLCAST_HTTP_TOKEN" in tail.err
        if how == "file":
            config.write_text(listen + 'http_token = { file = "token" }\n')
        environ = {"CALLCAST_HTTP_TOKEN": token} if how == "variable" else {}
        async with program("tail", "--config", str(config), environ=environ) as tail:
            await listening(here)
            here.ring("101")
            await tail.wrote("101/s-1")


async def test_a_reader_that_closes_the_pipe_ends_it() -> None:
    """As in `callcast tail | head -1`: exit 0, and no traceback."""
    async with harness() as here:
        tail = f"{sys.executable} -m callcast tail --url {here.url} --config /nonexistent"
        script = f"{tail} | head -1; echo ${{PIPESTATUS[0]}}"
        shell = await asyncio.create_subprocess_exec(
            "bash", "-c", script, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        await listening(here)
        for number in range(5):
            here.ring("101", f"s-{number}")
            await asyncio.sleep(0.2)
        out, err = await asyncio.wait_for(shell.communicate(), 60)
        assert out.decode().splitlines()[1:] == ["0"]
        assert err == b""
