"""docs/operating.md: its commands exist, its configuration is accepted, its back-up brings a service back."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from callcast.cli.parser import COMMANDS, parse
from tests.integration.deploy.tools import DEPLOY, DOCS, ROOT, need
from tests.integration.packaging.building import run, sources
from tests.system.world import seed_world

PAGE = (DOCS / "operating.md").read_text()
COMMAND = re.compile(r"(?:^|[`/ ])callcast ((?:[a-z]+)(?: [^`|;()\n]+)?)", re.MULTILINE)


def blocks(language: str) -> list[str]:
    """The page's code of this language, in order."""
    return re.findall(rf"^ *```{language}\n(.*?)^ *```", PAGE, re.MULTILINE | re.DOTALL)


def section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def documented_commands() -> list[str]:
    """Each `callcast ...` in code, in one line or in a block, by what follows the name."""
    inline = [
        code.replace("\n", " ") for code in re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL))
    ]
    lines = [line for block in blocks("sh") for line in block.replace("\\\n", " ").splitlines()]
    found = [match[1].strip() for text in (*inline, *lines) for match in COMMAND.finditer(text.split("#")[0])]
    return sorted({text for text in found if text.split()[0] in COMMANDS})


@pytest.mark.parametrize("documented", documented_commands())
def test_each_documented_command_is_valid(documented: str) -> None:
    """Its words and options are those of the command line."""
    words = documented.split()
    if len(words) > 1:  # a bare name mentions the command without its arguments
        parse(words)


def test_the_important_commands_are_documented() -> None:
    """The page names the tools for finding a call."""
    named = {documented.split()[0] for documented in documented_commands()}
    assert {"check", "healthcheck", "explain", "dead", "replay"} <= named


@pytest.mark.parametrize("script", blocks("sh"), ids=lambda script: script.strip().split("\n")[0][:40])
def test_each_block_is_sound_shell(script: str) -> None:
    """A shell reads it without complaint."""
    subprocess.run(["/bin/sh", "-n"], input=script, text=True, check=True)


def test_the_log_lines_that_runbooks_name_are_written() -> None:
    """A search of the page finds each."""
    source = "".join(file.read_text() for file in (ROOT / "src/callcast").rglob("*.py"))
    named = set(re.findall(r"`([a-z]+(?:_[a-z]+)+)`", section("Runbooks"))) - set(settings())
    assert {"poll_failed", "reload_refused"} <= named
    assert [word for word in named if f'"{word}"' not in source] == []


def settings() -> list[str]:
    """The configuration's keys, which read as log lines do."""
    return re.findall(r"^#?(\w+) =", (ROOT / "config.example.toml").read_text(), re.MULTILINE)


def test_the_configuration_for_systemd_is_accepted(tmp_path: Path) -> None:
    """`callcast check`, with the credentials where systemd would put them."""
    config = tmp_path / "config.toml"
    config.write_text(blocks("toml")[0])
    for name in ("client_secret", "jwt"):
        (tmp_path / name).write_text("a secret")
    environ = {**os.environ, "CREDENTIALS_DIRECTORY": str(tmp_path), "CALLCAST_SERVICE__DATA_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "callcast", "check", "--config", str(config)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(os.environ.get("CI") != "true", reason="installs from the package registry: set CI=true")
def test_the_installation_and_the_upgrade_as_they_stand_there(tmp_path: Path) -> None:
    """Every block for systemd, below an empty folder instead of /: then the installed command finds all well."""
    places = {f"{at}/callcast": f"{tmp_path}{at}/callcast" for at in ("/opt", "/etc", "/var/lib")}
    places |= {"/etc/systemd/system": f"{tmp_path}/units", "install -m 0600": "echo a-secret | install -m 0600"}
    for folder in ("opt", "etc", "units", "var/lib/callcast"):
        (tmp_path / folder).mkdir(parents=True)
    source = sources(tmp_path / "checkout")
    with_systemd = section("Install").split("### With systemd")[1].split("### In a container")[0]
    scripts = re.findall(
        r"^```sh\n(.*?)^```", with_systemd + section("Upgrade and downgrade"), re.MULTILINE | re.DOTALL
    )
    assert len(scripts) == 5
    for number, script in enumerate(scripts):
        if number == 2:
            (tmp_path / "etc/callcast/config.toml").write_text(blocks("toml")[0])
        for documented, here in places.items():
            script = script.replace(documented, here)
        credentials = {"CREDENTIALS_DIRECTORY": f"{tmp_path}/etc/callcast/credentials"}
        run("/bin/sh", "-ec", f"systemctl() {{ :; }}\n{script}", cwd=source, environ=credentials)
    assert (tmp_path / "units/callcast.service").read_text() == (DEPLOY / "callcast.service").read_text()
    assert (tmp_path / "etc/callcast/credentials/jwt").stat().st_mode & 0o777 == 0o600


async def test_a_back_up_of_a_running_service_brings_it_back(tmp_path: Path) -> None:
    """The commands on the page make a backup of a running service and restore it; known events are not sent again."""
    backup, restore = re.findall(r"^```sh\n(.*?)^```", section("Back up and restore"), re.MULTILINE | re.DOTALL)
    (tmp_path / "backups").mkdir()
    async with seed_world(tmp_path) as world:
        await world.service.start()
        await world.service.ready()
        await world.stage.seen()
        for number in range(2):
            world.stage.show(number)
            await world.stage.seen()
        await world.delivered(2)
        _run(backup, tmp_path)
        copy = tmp_path / "backups/callcast-outbox.db"
        assert copy.stat().st_mode & 0o077 == 0
        await world.service.kill()
        (tmp_path / "data/outbox.db").write_bytes(b"lost")
        _run(restore, tmp_path)
        assert (tmp_path / "data/outbox.db").stat().st_mode & 0o077 == 0
        await world.service.start()
        await world.service.ready()
        world.stage.show(2)
        await world.delivered(3)
        assert len(world.webhook_ids()) == len(set(world.webhook_ids())) == 3


def _run(script: str, folder: Path) -> None:
    script = script.replace("/var/lib/callcast", str(folder / "data")).replace("/var/backups", str(folder / "backups"))
    subprocess.run(["/bin/sh", "-ec", f"systemctl() {{ :; }}\n{script}"], check=True)


def test_the_filter_for_the_log_passes_over_lines_of_others() -> None:
    """The journal has systemd's plain lines between; those of the service that matter are shown whole."""
    (script,) = [block.strip() for block in blocks("sh") if "journalctl" in block]
    lines = [
        "Starting callcast...",
        '{"level":"info","event":"service_started"}',
        '{"level":"warning","event":"sink_failed"}',
        "callcast.service: Main process exited",
        '{"level":"error","event":"outbox_failed"}',
    ]
    journal = "journalctl() { printf '%s\\n' \"$LINES\"; }\n"
    need("jq", "jq")
    done = subprocess.run(
        ["/bin/sh", "-c", journal + script],
        env={**os.environ, "LINES": "\n".join(lines)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [lines[2], lines[4]]
