"""Every command line in the documentation, run as it stands there beside a running service."""

import asyncio
import json
import os
import pty
import re
import signal
import socket
import sqlite3
import sys
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path

from callcast.simulator.script import Call
from callcast.simulator.story import Story
from tests.integration.deploy.tools import DOCS, ROOT, need
from tests.ports import free_port
from tests.system.test_reload import Hook, Town, hook, table, town
from tests.system.world import SECRET, WAIT_S, Service, until

__all__ = ["hook", "town"]  # fixtures

README = (ROOT / "README.md").read_text()
LINE = re.compile(r"^\$ (.+)$", re.MULTILINE)
ENDLESS = ("callcast tail", "callcast listen --answer", "SECRETS=")
STATUSES = {"callcast check": 78}  # what is shown there is a broken configuration


class Shell:
    """Runs one line as a person would type it: in an empty home, on a terminal, with `callcast` on the path."""

    def __init__(self, folder: Path, config: Path) -> None:
        self.folder = folder
        self._environ = {**os.environ, "HOME": str(folder), "CALLCAST_CONFIG": str(config), "TERM": "dumb"}
        self._environ["PATH"] = f"{folder / 'bin'}:{os.environ['PATH']}"
        for place in ("bin", ".local/share/bash-completion/completions", ".zfunc", ".config/fish/completions"):
            (folder / place).mkdir(parents=True)
        program = folder / "bin/callcast"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m callcast "$@"\n')
        program.chmod(0o755)

    async def run(self, line: str, *, endless: bool, awaited: str = "\n") -> tuple[int | None, str]:
        """The status, None of a line that had to be stopped, and what was on the screen."""
        master, slave = pty.openpty()
        process = await asyncio.create_subprocess_exec(
            *("/bin/sh", "-c", line),
            cwd=self.folder,
            env=self._environ,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        output: list[str] = []
        asyncio.get_running_loop().add_reader(master, _read, master, output)
        try:
            if endless:
                await until(lambda: awaited in "".join(output), f"{awaited!r} of {line}: {output}")
            async with asyncio.timeout(WAIT_S):
                code = None if endless else await process.wait()
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
            await process.wait()
            asyncio.get_running_loop().remove_reader(master)
            os.close(master)
        return code, "".join(output)


def _read(master: int, output: list[str]) -> None:
    try:
        output.append(os.read(master, 65536).decode())
    except OSError:  # the other side is closed
        asyncio.get_running_loop().remove_reader(master)


def lines(page: str) -> list[str]:
    return LINE.findall((DOCS / page).read_text())


def meant(line: str, examples: Mapping[str, str]) -> str:
    """With this service's ids and addresses in place of the page's."""
    for documented, here in examples.items():
        line = line.replace(documented, here)
    return line


def call(town: Town, admin: str = "101") -> None:
    """A short one, missed."""
    story = town.platform.scenario
    assert isinstance(story, Story)
    short = Call(kind="inbound", extension=admin, number="+15550100299", rings_s=1, ends="missed")
    story.place(short, town.platform.clock.now())


def dead_letters(town: Town) -> list[str]:
    query = "SELECT id FROM events JOIN dead USING (seq) ORDER BY seq"
    with closing(sqlite3.connect(f"file:{town.folder / 'data/outbox.db'}?mode=ro", uri=True)) as outbox:
        return [str(row[0]) for row in outbox.execute(query)]


async def test_the_commands_beside_the_service(town: Town, hook: Hook) -> None:
    """docs/commands.md: each line ends well, or goes on saying something until it is stopped."""
    need("jq")
    hook.status = 413
    await town.start(town.head(), town.source(), hook.sink("crm"), table("sinks.lines", {"type": "stdout"}))
    call(town)
    await until(lambda: any(event["type"] == "call.ended" for event in town.service.lines), "the call's end")
    await until(lambda: len(dead_letters(town)) >= 2, "dead letters")
    port = str(free_port())
    examples = {
        "evt_k3v9…": dead_letters(town)[0],
        "62264425016/s-8f81…": town.service.lines[0]["subject"],
        "explain 6662": "explain 0299",
        "http://127.0.0.1:9469": town.service.url,
        "listen --answer": f"listen --port {port} --answer",
        "> verify.py": f"| sed s/8088/{port}/ > verify.py",
        "SECRETS=whsec_...": f"SECRETS={SECRET}",
        "python3": sys.executable,
    }
    shell = Shell(town.folder / "home", town.config)
    for documented in lines("commands.md"):
        await typed(shell, town, documented, meant(documented, examples), int(port))


async def typed(shell: Shell, town: Town, documented: str, line: str, port: int) -> None:
    if documented.startswith("callcast dead"):  # what was retried is refused and dead again, after a moment
        await until(lambda: bool(dead_letters(town)), "a letter")
    if documented.startswith("SECRETS="):
        asking = asyncio.create_task(shell.run(line, endless=True, awaited="401"))
        await until(lambda: answers(port), "the receiver")
        await asking
        return
    ringing = asyncio.create_task(calls(town))
    try:
        code, output = await shell.run(line, endless=documented.startswith(ENDLESS))
    finally:
        ringing.cancel()
    assert code in (0, None), f"{line}\n{output}"
    assert "Traceback" not in output


async def calls(town: Town) -> None:
    """Calls to follow."""
    while True:
        call(town, "102")
        await asyncio.sleep(1)


def answers(port: int) -> bool:
    """Whether a receiver listens: it answers an unsigned request."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}")
            return connection.recv(100).startswith(b"HTTP/1.0 401")
    except OSError:
        return False


def test_every_documented_line_is_known_here() -> None:
    """A page that begins to show commands must be run by a test too."""
    shown = {path.name for path in DOCS.glob("*.md") if LINE.search(path.read_text())}
    assert shown == {"commands.md", "configuration.md", "configuration.in.md"}


async def test_the_check_on_the_page_of_the_configuration(tmp_path: Path) -> None:
    """`callcast check` of a configuration with the faults on the page reports them; exit code 78."""
    config = tmp_path / "callcast.toml"
    config.write_text('[sources.acme]\nclient_id = "a"\npoll_interval = 3\n')
    shell = Shell(tmp_path / "home", config)
    found = [line for line in lines("configuration.md") if line == "callcast check"]
    code, output = await shell.run(found[0], endless=False)
    assert code == STATUSES["callcast check"], output
    assert "sources.acme.poll_interval: unknown key" in output


async def test_the_readmes_configuration_is_good_and_runs(town: Town, hook: Hook) -> None:
    """Its two commands: the check prints a plan, and the service reports calls, here of the fake platform."""
    (text,) = re.findall(r"^```toml\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    folder = town.folder / "home"
    shell = Shell(folder, folder / "callcast.toml")
    (folder / "callcast.toml").write_text(text)
    keys = dict(re.findall(r'^(client_id|client_secret|jwt) = "(.*)"$', town.source(), re.MULTILINE))
    environ = {
        "RC_CLIENT_SECRET": keys["client_secret"],
        "RC_JWT": keys["jwt"],
        "CRM_WEBHOOK_SECRET": SECRET,
        "CALLCAST_SOURCES__ACME__CLIENT_ID": keys["client_id"],
        "CALLCAST_SOURCES__ACME__SERVER": town.url,
        "CALLCAST_SOURCES__ACME__POLL_INTERVAL_S": "0.1",
        "CALLCAST_SOURCES__ACME__HEAVY_PER_MINUTE": "10000",
        "CALLCAST_SINKS__CRM__URL": hook.url,
        "CALLCAST_SERVICE__DATA_DIR": str(folder / "data"),
        "CALLCAST_SERVICE__HTTP_LISTEN": f"127.0.0.1:{town.port}",
    }
    shell._environ |= environ
    assert "callcast check  " in README
    code, output = await shell.run("callcast check", endless=False)
    assert (code, "polled every" in output) == (0, True), output
    assert "callcast run\n" in README
    town.service = Service(folder / "callcast.toml", town.service.url)
    await town.service.start(environ)
    await town.service.ready()
    await town.ready()
    call(town)
    await until(lambda: "call.ended" in hook.types(), "the call at the webhook")
    await until(lambda: any(event["type"] == "call.ended" for event in town.service.lines), "and on standard output")
    assert json.loads((await town.get("/readyz"))[1])["reasons"] == []
