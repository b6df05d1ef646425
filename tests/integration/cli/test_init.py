"""`callcast init`: a starter that is ready to be filled in, never written over a file."""

import re
import stat
from pathlib import Path

import pytest

from callcast.cli.main import main
from callcast.config import validate
from tests import ROOT

ENVIRON = {
    "RC_CLIENT_SECRET": "secret",
    "RC_JWT": "jwt",
    "CRM_WEBHOOK_SECRET": "whsec_QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFB",
    "MQTT_PASSWORD": "password",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_starter(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It needs only a credential, which check asks for; only its owner can read it."""
    assert main(["init"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "wrote callcast.toml: fill in the credential, then run callcast check\n"
    path = folder / "callcast.toml"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.key for one in validate(path, {}).errors] == ["sources.main.client_secret", "sources.main.jwt"]
    found = validate(path, ENVIRON)
    assert (found.errors, [one.key for one in found.warnings]) == ((), ["sources.main.client_id"])


def test_everything_in_the_starter_is_valid(folder: Path) -> None:
    """With every # before a key or header removed."""
    main(["init"])
    path = folder / "callcast.toml"
    path.write_text(re.sub(r"^#(?! )", "", path.read_text(), flags=re.MULTILINE))
    found = validate(path, ENVIRON)
    assert found.errors == ()
    assert found.settings is not None
    assert set(found.settings.sinks) == {"lines", "crm", "wallboard"}


def test_an_existing_file_stays(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also if it is empty."""
    (folder / "callcast.toml").touch()
    assert main(["init"]) == 2
    assert capsys.readouterr().err == "callcast init: callcast.toml exists already: edit it, or move it away\n"
    assert (folder / "callcast.toml").read_text() == ""


def test_a_folder_that_cannot_be_written_to(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """69, with the cause."""
    gone = folder / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert main(["init"]) == 69
    reason = "cannot write callcast.toml: no such file or directory; run it in a folder that you can write to"
    assert capsys.readouterr().err == f"callcast init: {reason}\n"


def test_the_demo_installs_only_what_it_needs() -> None:
    """`make demo` does not download the development packages."""
    rules = (ROOT / "Makefile").read_text()
    (demo,) = re.findall(r"^demo: (.*?) +##", rules, re.MULTILINE)
    recipe = re.search(rf"^{re.escape(demo)}:.*\n((?:\t.*\n)+)", rules, re.MULTILINE)
    assert recipe
    assert "requirements.lock" in recipe[1]
    assert "requirements-dev" not in recipe[0]
