"""A secret is read from where it is kept, and never shown."""

import copy
import json
import logging
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from callcast.settings.secret import HIDDEN, Keyring, Secret
from tests.unit.config.files import GOOD, SOURCE, report, settings

CANARY = "canary-in-a-coal-mine"


class Holder(BaseModel):
    secret: Secret


def test_a_secret_is_never_shown() -> None:
    """Neither str, repr, formatting, JSON nor a model's repr shows the text."""
    secret = Secret(CANARY)
    holder = Holder(secret=secret)
    shown = [str(secret), repr(secret), f"{secret}", "%s" % secret, repr([secret]), repr(holder)]  # noqa: UP031
    shown += [holder.model_dump_json(), str(holder.model_dump()), json.dumps(holder.model_dump(mode="json"))]
    assert not [text for text in shown if "canary" in text]
    assert HIDDEN in holder.model_dump_json()
    assert secret.reveal() == CANARY


def test_secrets_compare_by_value() -> None:
    """A reload can see whether a secret changed."""
    assert Secret("a") == Secret("a") == copy.deepcopy(Secret("a"))
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert len({Secret("a"), Secret("a"), Secret("b")}) == 2
    assert not Secret("")


def test_references(tmp_path: Path) -> None:
    """A variable, a file beside the configuration and a systemd credential are read; line ends go."""
    (tmp_path / "file").write_text("from-file\r\n")
    (tmp_path / "credential").write_text("from-systemd\n")
    keyring = Keyring({"VARIABLE": "from-variable", "CREDENTIALS_DIRECTORY": str(tmp_path)}, tmp_path)
    got = [
        Holder.model_validate({"secret": {place: name}}, context=keyring).secret.reveal()
        for place, name in (("env", "VARIABLE"), ("file", "file"), ("credential", "credential"))
    ]
    assert got == ["from-variable", "from-file", "from-systemd"]
    assert keyring.seen == set(got)


def test_a_reference_is_read_at_load_only() -> None:
    """Without a keyring nothing is read from anywhere."""
    with pytest.raises(ValidationError, match="only when loading a configuration"):
        Holder.model_validate({"secret": {"env": "HOME"}})


@pytest.mark.parametrize("content", [b"x" * 70_000, b"\xff\xfe", b"", b"\n"])
def test_a_file_that_holds_no_secret(tmp_path: Path, content: bytes) -> None:
    """Too much, no text, or nothing: a fault that quotes none of it."""
    (tmp_path / "file").write_bytes(content)
    output = report(tmp_path, GOOD.replace('"jwt-of-the-user"', '{ file = "file" }'))
    assert "sources.acme.jwt: " in output
    assert "xxxx" not in output


def test_a_file_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The remedy speaks of the user who runs callcast."""

    def refuse(*_args: object, **_keywords: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ValidationError, match="cannot be read: permission denied"):
        Holder.model_validate({"secret": {"file": "/x"}}, context=Keyring({}, tmp_path))


def test_a_variable_that_is_no_text(tmp_path: Path) -> None:
    """Bytes that are no UTF-8 come from the environment as halves of characters; they are refused."""
    output = report(tmp_path, GOOD.replace('"jwt-of-the-user"', '{ env = "JWT" }'), {"JWT": "\udcff\udcfe"})
    assert "sources.acme.jwt: the variable 'JWT' is not valid UTF-8" in output


SINK_THAT_TELLS = """
from contextlib import asynccontextmanager
from pydantic import field_validator, model_validator
from callcast.settings.secret import Secret
from callcast.sinks import SinkSettings

class Settings(SinkSettings):
    token: Secret
    plain: str = ""

    @field_validator("token")
    @classmethod
    def _tells(cls, token: Secret) -> Secret:
        raise ValueError(f"the token {token.reveal()} is bad")

    def open(self, place): ...
"""


@pytest.fixture
def telltale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A third-party sink whose validators put a secret into messages."""
    site = tmp_path / "site"
    metadata = site / "telltale-1.dist-info"
    metadata.mkdir(parents=True)
    (site / "telltale.py").write_text(SINK_THAT_TELLS)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: telltale\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text(
        "[callcast.sinks]\ntelltale = telltale:Settings\nbroken = no_such_module:Settings\nother = telltale:Secret\n"
    )
    monkeypatch.syspath_prepend(str(site))


@pytest.mark.usefixtures("telltale")
def test_a_careless_sink_cannot_tell_a_secret(tmp_path: Path) -> None:
    """A secret in the message of a third-party validator is redacted."""
    output = report(tmp_path, f'{SOURCE}[sinks.s]\ntype = "telltale"\ntoken = "{CANARY}"\n')
    assert f"sinks.s.token: the token {HIDDEN} is bad" in output
    assert "canary" not in output


@pytest.mark.usefixtures("telltale")
def test_another_ones_sink_is_checked_as_strictly(tmp_path: Path) -> None:
    """Unknown keys, wrong types and missing keys of a third-party sink, in the file and in variables."""
    environ = {"CALLCAST_SINKS__S__PLANE": "x"}
    output = report(tmp_path, SOURCE + '[sinks.s]\ntype = "telltale"\nplain = 5\ntokn = "x"\ntimeout = 3\n', environ)
    assert "sinks.s.plain: given the number 5, expected a string in quotes" in output
    assert "did you mean `token`?" in output
    assert "did you mean `timeout_s`?" in output
    assert "sinks.s.token: missing" in output
    assert "did you mean CALLCAST_SINKS__S__PLAIN?" in output


@pytest.mark.usefixtures("telltale")
def test_a_broken_package_is_a_fault_and_no_traceback(tmp_path: Path) -> None:
    """A type that cannot be imported, or is not a sink, is reported with its entry point."""
    output = report(tmp_path, SOURCE + '[sinks.a]\ntype = "broken"\n[sinks.b]\ntype = "other"\n[sinks.c]\ntype = "x"\n')
    assert "sinks.a.type: no_such_module:Settings cannot be imported: ModuleNotFoundError" in output
    assert "sinks.b.type: telltale:Secret is not a subclass of callcast.sinks.SinkSettings" in output
    assert '"broken", "mqtt", "other", "stdout", "telltale", "webhook"' in output


@pytest.mark.usefixtures("telltale")
def test_a_type_that_two_packages_offer(tmp_path: Path) -> None:
    """A third-party sink cannot replace a built-in one without an error."""
    metadata = tmp_path / "site" / "rival-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: rival\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text("[callcast.sinks]\nstdout = rival:Settings\n")
    text = report(tmp_path, GOOD)
    assert "sinks.lines.type: two packages provide this type: callcast.sinks.stdout:Settings and rival:Settings" in text


def test_settings_log_no_secret(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A log of the whole configuration shows no secret."""
    with caplog.at_level(logging.INFO):
        logging.getLogger().info("%r", settings(tmp_path, GOOD.replace("jwt-of-the-user", CANARY)))
    assert "acme" in caplog.text
    assert "canary" not in caplog.text
