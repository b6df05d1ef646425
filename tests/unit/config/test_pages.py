"""The example, the docs and the schema are generated from the models, complete and up to date."""

import json
import re
import runpy
import tomllib
from functools import cache
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from callcast.config import validate
from callcast.config.json_schema import config_schema
from callcast.config.service import ServiceSettings
from callcast.config.sink_types import installed, settings_class
from callcast.ringcentral.settings import SourceSettings
from callcast.sinks import SinkSettings
from tests import ROOT
from tests.unit.config.files import verdict
from tests.unit.config.test_broken import BROKEN, NAMES

PLACEHOLDERS = ["sources.acme.client_id", "sources.acme.client_secret", "sources.acme.jwt"]
EXAMPLE = ROOT / "config.example.toml"
# What the schema cannot know: other files, other tables, the environment, arithmetic.
BEYOND_A_SCHEMA = re.compile(
    r"secret_(variable|file|credential|empty)|signing_secret|server_|webhook_|preset_|mqtt_|tls_|header_of_|timezone|event_|"
    r"events_none|listen_|host_names|http_token_|extension_|sink_of_unwatched|sink_of_unknown|plan_too|plan_no|variable_|toml_|infinite|name_too_long|extensions_none|authorization_twice"
)


def everything_uncommented() -> str:
    return re.sub(r"^#(?! )", "", EXAMPLE.read_text(), flags=re.MULTILINE)


@cache
def validator() -> Draft202012Validator:
    return Draft202012Validator(config_schema())


@pytest.mark.parametrize("name", ["EXAMPLE", "PAGE"])
def test_generated_files_are_up_to_date(name: str) -> None:
    """config.example.toml and docs/configuration.md match the code: python docs/make_configuration.py."""
    maker = runpy.run_path(str(ROOT / "docs" / "make_configuration.py"))
    text = maker["example" if name == "EXAMPLE" else "page"]()
    assert maker[name].read_text() == text
    assert "<!-- keys" not in text


def test_the_example_passes() -> None:
    """As it is delivered, with no secret from elsewhere; with a warning that the credential is a placeholder."""
    found = validate(EXAMPLE, {})
    assert found.errors == ()
    assert [one.key for one in found.warnings] == PLACEHOLDERS


def test_the_example_passes_with_everything_in_use(tmp_path: Path) -> None:
    """With every # before a key removed, it still is a good configuration."""
    environ = {"CALLCAST_HTTP_TOKEN": "token", "MQTT_PASSWORD": "password"}
    environ["CRM_SIGNING_SECRET"] = "whsec_QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFB"
    found = verdict(tmp_path, everything_uncommented(), environ)
    assert found.errors == ()
    assert [one.key for one in found.warnings] == PLACEHOLDERS


def test_the_example_shows_every_key() -> None:
    """Each key of each model stands there, with one line of explanation above it."""
    data = tomllib.loads(everything_uncommented())
    assert set(data["service"]) == set(ServiceSettings.model_fields)
    assert set(data["sources"]["acme"]) == set(SourceSettings.model_fields)
    by_type = {table["type"]: set(table) for table in data["sinks"].values()}
    assert set(by_type) == set(installed())
    assert by_type["webhook"] >= set(SinkSettings.model_fields)
    for name, entry in installed().items():
        own = set(settings_class(entry).model_fields) - set(SinkSettings.model_fields)
        assert by_type[name] >= own | {"type"}
    lines = EXAMPLE.read_text().splitlines()
    keys = [number for number, line in enumerate(lines) if re.match(r"#?[a-z_]+ = ", line)]
    assert not [
        lines[number] for number in keys if lines[number] != 'type = "stdout"' and lines[number - 1][:2] != "# "
    ]


def test_every_key_is_described() -> None:
    """A key without a description would be a gap in the schema, the example and the docs."""
    models = [ServiceSettings, SourceSettings, *(settings_class(entry) for entry in installed().values())]
    fields = [(name, field) for model in models for name, field in model.model_fields.items() if name != "type"]
    assert not [name for name, field in fields if not field.description]


def test_the_schema_is_valid() -> None:
    """It is valid JSON Schema, contains no path of this machine, and accepts the example in every form."""
    schema = config_schema()
    Draft202012Validator.check_schema(schema)
    assert str(Path.home()) not in json.dumps(schema)
    for text in (EXAMPLE.read_text(), everything_uncommented()):
        assert not list(validator().iter_errors(tomllib.loads(text)))


@pytest.mark.parametrize("name", [name for name in NAMES if not BEYOND_A_SCHEMA.match(name)])
def test_the_schema_refuses_what_the_check_refuses(name: str) -> None:
    """An editor shows the same mistakes, as far as they are visible in one file."""
    data = tomllib.loads((BROKEN / f"{name}.toml").read_text())
    assert list(validator().iter_errors(json.loads(json.dumps(data, default=lambda _: {}))))
