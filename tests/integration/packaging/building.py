"""callcast built as its users build it, once for all tests: sources copied, the build's own packages pinned."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.integration.deploy.tools import DEPLOY, ROOT

IGNORED = ("node_modules", ".venv", "__pycache__", ".hypothesis", ".pytest_cache", "dist", "mutants", ".screenshots")
NOISE = ("dist/old.whl", "src/callcast/__pycache__/x.pyc", ".venv/bin/python", "mutants/x.py", ".hypothesis/x")


def run(*command: str | Path, cwd: Path, environ: Mapping[str, str] | None = None) -> str:
    """Standard output; fails with both outputs when the command does."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **(environ or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def environment(folder: Path, *wanted: str | Path) -> Path:
    """A fresh virtual environment with these packages (arguments of pip); gives its Python."""
    run(sys.executable, "-m", "venv", folder, cwd=folder.parent)
    python = folder / "bin/python"
    if wanted:
        pip = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        run(python, *pip, *wanted, cwd=folder.parent)
    return python


def builder(folder: Path) -> Path:
    """A Python with what `deploy/build.lock` names."""
    return environment(folder, "--require-hashes", "--only-binary=:all:", "-r", DEPLOY / "build.lock")


def sources(folder: Path, *, noise: bool = False) -> Path:
    """A copy of the checkout, without what is not in the repository; `noise`: with some of that again."""
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*IGNORED, ".git", ".*_cache"), symlinks=True)
    for name in NOISE if noise else ():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("not for others")
    return folder


def build(python: Path, source: Path, into: Path, **environ: str) -> dict[str, Path]:
    """`wheel` and `sdist`, as `pip` and `build` would have them made."""
    run(python, "-m", "hatchling", "build", "-d", into, cwd=source, environ=environ)
    (wheel,), (sdist,) = into.glob("*.whl"), into.glob("*.tar.gz")
    return {"wheel": wheel, "sdist": sdist}
