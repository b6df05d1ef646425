"""The packages: the same bytes from the same sources, whole, and running from an environment that has nothing else."""

import os
import re
import subprocess
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import callcast
from tests.integration.deploy.tools import ROOT
from tests.integration.packaging.building import NOISE, build, builder, environment, run, sources

pytestmark = [
    pytest.mark.skipif(os.environ.get("CI") != "true", reason="installs from the package registry: set CI=true"),
    pytest.mark.xdist_group("packages"),
]
NAME = f"callcast-{callcast.__version__}"


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return builder(tmp_path_factory.mktemp("builder") / "venv")


@pytest.fixture(scope="module")
def built(python: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Built from a copy that contains files which must not be packaged."""
    folder = tmp_path_factory.mktemp("built")
    return build(python, sources(folder / "src", noise=True), folder / "out", SOURCE_DATE_EPOCH="1767225600")


def held(sdist: Path) -> set[str]:
    with tarfile.open(sdist) as archive:
        return {member.name.removeprefix(f"{NAME}/") for member in archive if member.isfile()}


def test_the_same_sources_give_the_same_bytes(python: Path, built: dict[str, Path], tmp_path: Path) -> None:
    """Elsewhere, under another umask, at another time, from a checkout without leftovers."""
    before = os.umask(0o077)
    try:
        source = sources(tmp_path / "elsewhere")
        for path in source.rglob("*"):
            os.utime(path, (1, 1))
        again = build(python, source, tmp_path / "out", SOURCE_DATE_EPOCH="1767225600", TZ="Asia/Tokyo")
    finally:
        os.umask(before)
    for kind in ("wheel", "sdist"):
        assert again[kind].name == built[kind].name
        assert again[kind].read_bytes() == built[kind].read_bytes(), kind


def test_a_wheel_of_the_sdist_is_the_wheel(python: Path, built: dict[str, Path], tmp_path: Path) -> None:
    """The sdist has everything that the build needs."""
    with tarfile.open(built["sdist"]) as archive:
        archive.extractall(tmp_path, filter="data")
    again = build(python, tmp_path / NAME, tmp_path / "out", SOURCE_DATE_EPOCH="1767225600")
    assert again["wheel"].read_bytes() == built["wheel"].read_bytes()


def test_the_wheel_holds_the_package_and_nothing_else(built: dict[str, Path]) -> None:
    """Every file below src/callcast: the page, scenarios, recorded answers, snippets, py.typed; and the licence."""
    package = ROOT / "src"
    wanted = {
        str(path.relative_to(package))
        for path in (package / "callcast").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    names = {"callcast/py.typed", "callcast/web/static/index.html", "callcast/simulator/scenarios/seed.json"}
    assert names <= wanted
    with zipfile.ZipFile(built["wheel"]) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
        assert f"{NAME}.dist-info/licenses/LICENSE" in archive.namelist()
    assert found == wanted


def test_the_sdist_holds_what_a_packager_wants_and_no_leftovers(built: dict[str, Path]) -> None:
    """Sources, tests, documentation, locks, the unit; nothing that .gitignore names, no repository."""
    found = held(built["sdist"])
    wanted = {
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "SECURITY.md",
        "Makefile",
        "config.example.toml",
        "pyproject.toml",
    }
    wanted |= {"deploy/callcast.service", "docs/operating.md", "requirements.lock", "tests/system/world.py"}
    assert wanted <= found
    assert not found & set(NOISE)
    assert not [name for name in found if re.search(r"(^|/)(\.git|__pycache__|node_modules|\.venv)/", name)]


def test_it_installs_into_an_empty_environment_and_runs_from_there(built: dict[str, Path], tmp_path: Path) -> None:
    """Only the wheel and its requirements; version, demo and the configuration's schema, far from any checkout."""
    python = environment(tmp_path / "venv", built["wheel"])
    callcast_ = python.parent / "callcast"
    assert run(callcast_, "--version", cwd=tmp_path) == f"callcast {callcast.__version__}\n"
    done = subprocess.run([callcast_, "demo", "--for", "3"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "wallboard" in done.stdout + done.stderr
    assert run(callcast_, "schema", "config", cwd=tmp_path).startswith("{")
    whence = run(python, "-c", "import callcast; print(callcast.__file__)", cwd=tmp_path)
    assert whence.startswith(str(tmp_path / "venv"))


def test_the_sinks_are_found_where_anybody_registers_theirs(built: dict[str, Path]) -> None:
    """The entry points of pyproject.toml are in the wheel's metadata, and the version is the package's."""
    with zipfile.ZipFile(built["wheel"]) as archive:
        points = archive.read(f"{NAME}.dist-info/entry_points.txt").decode()
        metadata = archive.read(f"{NAME}.dist-info/METADATA").decode()
    for name in ("stdout", "webhook", "mqtt"):
        assert re.search(rf"^{name} = callcast\.sinks\.{name}:Settings$", points, re.MULTILINE)
    assert f"\nVersion: {callcast.__version__}\n" in metadata
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert metadata.count("\nRequires-Dist: ") == len(project["dependencies"])
