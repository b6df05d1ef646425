"""The configuration's JSON Schema in the hands of the tools that editors and pipelines use."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from callcast.config.json_schema import config_schema
from tests.unit.config.test_broken import BROKEN
from tests.unit.config.test_pages import EXAMPLE, everything_uncommented

Lint = Callable[..., tuple[int, str]]
MISTAKES = ["key_misspelt", "missing_jwt", "names_empty"]


def tool(name: str) -> str:
    """A program beside this Python, else one on the path; without it, skip on a laptop and fail where CI is set."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        reason = f"{name} is not installed"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("schema") / "callcast.schema.json"
    path.write_text(json.dumps(config_schema(), indent=2))
    return path


def run(*command: str | Path) -> tuple[int, str]:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


def check_jsonschema(schema: Path, *files: Path) -> tuple[int, str]:
    return run(tool("check-jsonschema"), "--schemafile", schema, *files)


def taplo(schema: Path, *files: Path) -> tuple[int, str]:
    return run(tool("taplo"), "lint", "--no-auto-config", "--schema", schema.as_uri(), *files)


def good_files(folder: Path) -> list[Path]:
    everything = folder / "everything.toml"
    everything.write_text(everything_uncommented())
    return [EXAMPLE, everything]


def test_the_schema_is_one_for_check_jsonschema(schema: Path) -> None:
    """It keeps to the draft that it names."""
    code, output = run(tool("check-jsonschema"), "--check-metaschema", schema)
    assert code == 0, output


@pytest.mark.parametrize("lint", [check_jsonschema, taplo])
def test_the_example_passes(lint: Lint, schema: Path, tmp_path: Path) -> None:
    """As it is delivered, and with every key in use."""
    code, output = lint(schema, *good_files(tmp_path))
    assert code == 0, output


@pytest.mark.parametrize("lint", [check_jsonschema, taplo])
def test_mistakes_are_seen(lint: Lint, schema: Path) -> None:
    """What `callcast check` refuses is refused while it is typed."""
    for name in MISTAKES:
        code, output = lint(schema, BROKEN / f"{name}.toml")
        assert code == 1, f"{name}: {output}"
