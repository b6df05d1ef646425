"""Version and dependencies, checked without a build."""

import ast
import re
import sys
import tomllib

import pytest

import callcast
from tests.integration.deploy.tools import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKS = ("requirements.lock", "requirements-dev.lock")
PIN = re.compile(r"^([a-z0-9-]+)==(\S+)", re.MULTILINE)
ELSEWHERE = {"paho": "paho-mqtt"}  # modules whose package has another name
PARTS = {"multidict", "yarl", "pydantic_core"}  # types in the interfaces of aiohttp and pydantic, which bring them


def test_the_version_stands_in_one_place() -> None:
    """`callcast.__version__`: pyproject reads it from there; only the manifest's image names it too, and agrees."""
    assert "version" in PROJECT["project"]["dynamic"]
    assert PROJECT["tool"]["hatch"]["version"] == {"path": "src/callcast/__init__.py"}
    version = re.compile(rf"(?<![\d.=<>~]){re.escape(callcast.__version__)}(?![\d.])")
    files = [*(ROOT / "src").rglob("*.py"), *(ROOT / "deploy").rglob("*"), ROOT / "Makefile", ROOT / "README.md"]
    files = [file for file in files if file.is_file() and file.suffix not in (".lock", ".pyc")]
    assert {file.name for file in files if version.search(file.read_text())} == {"__init__.py", "kubernetes.yaml"}
    assert f"/callcast:{callcast.__version__}\n" in (ROOT / "deploy/kubernetes.yaml").read_text()


def test_whatever_is_imported_is_asked_for() -> None:
    """Every imported package is a declared dependency, and every declared one is imported."""
    declared = {re.split(r"[^a-z0-9-]", one)[0] for one in PROJECT["project"]["dependencies"]}
    assert {ELSEWHERE.get(name, name.replace("_", "-")) for name in imported()} == declared


def imported() -> set[str]:
    found: set[str] = set()
    for file in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - PARTS - {"callcast"}


@pytest.mark.parametrize("lock", LOCKS)
def test_the_locks_are_within_the_ranges_and_hashed(lock: str) -> None:
    """Each dependency is pinned, at least at its floor, and every pin has hashes."""
    text = (ROOT / lock).read_text()
    pins = dict(PIN.findall(text))
    for wanted in PROJECT["project"]["dependencies"]:
        name, floor = re.fullmatch(r"([a-z0-9-]+)>=([\d.]+)(?:,<\d+)?", wanted).groups()  # type: ignore[union-attr]
        assert numbers(pins[name]) >= numbers(floor), wanted
    for block in re.split(r"\n(?=[a-z0-9-]+==)", text)[1:]:
        assert "--hash=sha256:" in block, block


def numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]
