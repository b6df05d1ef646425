"""`callcast extensions` as a person runs it."""

import asyncio
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from callcast.simulator import Credential, Limits, Platform, SimulatedClock
from callcast.simulator.scenarios import busy
from callcast.simulator.story import Story
from tests.integration.cli.test_check_online import SOURCE, callcast


def platform(extensions: int = 3, **given: Any) -> Platform:
    clock = SimulatedClock()
    return Platform(busy(clock.now(), extensions, 1), clock=clock, limits=Limits(), **given)


def config(folder: Path, server: str, more: str = "") -> Path:
    """No sink yet: the ids are wanted while the configuration is being written."""
    path = folder / "callcast.toml"
    service = f'[service]\ndata_dir = "{folder / "data"}"\n'
    path.write_text(f'{service}[sources.acme]\nserver = "{server}"\n{SOURCE}\n{more}')
    return path


async def listed(folder: Path, fake: Platform, *arguments: str, more: str = "") -> tuple[int, str, str]:
    async with fake.serve() as server:
        path = config(folder, server, more)
        done = await asyncio.to_thread(callcast, "extensions", "--config", str(path), *arguments)
        return done.returncode, done.stdout, done.stderr


async def test_ids_numbers_names_and_types_and_a_names_table(tmp_path: Path) -> None:
    """The printed table is TOML that [names] accepts; the token goes back."""
    fake = platform()
    assert isinstance(fake.scenario, Story)
    phones = fake.scenario.account.extensions
    code, out, err = await listed(tmp_path, fake)
    assert (code, err) == (0, "")
    shown, _, names = out.partition("\n\n")
    assert shown.splitlines()[0].split() == ["id", "number", "name", "type", "status"]
    assert [line.split()[:2] for line in shown.splitlines()[1:]] == [[one.id, one.number] for one in phones]
    assert tomllib.loads(names) == {"names": {one.id: one.name for one in phones}}
    assert [one.path.rpartition("/")[2] for one in fake.requests] == ["token", "extension", "revoke"]


async def test_all_pages_are_read(tmp_path: Path) -> None:
    """More extensions than one page holds; as JSON lines."""
    fake = platform(1100)
    code, out, _ = await listed(tmp_path, fake, "--json")
    ids = [json.loads(line)["id"] for line in out.splitlines()]
    assert (code, ids) == (0, list(fake.scenario.extension_ids()))


async def test_only_the_names(tmp_path: Path) -> None:
    """`--names` prints what can be appended to the configuration as it is."""
    _, out, _ = await listed(tmp_path, platform(), "--names")
    assert len(tomllib.loads(out)["names"]) == 3


async def test_a_missing_permission_is_named(tmp_path: Path) -> None:
    """With who can give it; exit 69, and nothing on standard output."""
    poor = Credential(permissions=frozenset({"ReadCallLog"}))
    code, out, err = await listed(tmp_path, platform(credentials=[poor]))
    assert (code, out) == (69, "")
    assert "source acme: 403 (CMN-401" in err
    assert "fix: the app lacks the permission ReadAccounts: add it to the app in the developer console" in err


async def test_another_source_is_chosen_by_name(tmp_path: Path) -> None:
    """Of several sources the first is used, with a note; an unknown name is rejected with a list of the known ones."""
    other = SOURCE.replace("simulated-client", "unknown-app")
    more = f"[sources.other]\n{other}"
    code, _, err = await listed(tmp_path, platform(), more=more)
    assert (code, "using the credential of source acme" in err) == (0, True)
    code, _, err = await listed(tmp_path, platform(), "--source", "nothing", more=more)
    assert (code, "use one of acme, other" in err) == (2, True)


@pytest.mark.parametrize(("text", "message"), [("[service]\n", "has no source"), ("[sources.acme]\n", "client_id")])
async def test_a_wrong_configuration(tmp_path: Path, text: str, message: str) -> None:
    """Exit 78, with the key."""
    path = tmp_path / "callcast.toml"
    path.write_text(text)
    done = await asyncio.to_thread(callcast, "extensions", "--config", str(path))
    assert (done.returncode, message in done.stderr) == (78, True)
