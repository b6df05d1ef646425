"""Programs that check what `deploy/` holds: skipped on a laptop that lacks one, a failure under CI=true."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT

DEPLOY = ROOT / "deploy"
DOCS = ROOT / "docs"


def need(program: str, package: str = "") -> str:
    """The program's path: beside this Python or on PATH. package: what to install where it is missing."""
    if found := shutil.which(program, path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}:/usr/sbin"):
        return found
    return _lacking(f"{program} is not installed (package {package or program})")


def run_tool(*command: str | Path, cwd: Path = ROOT) -> str:
    """Return what the command writes to both outputs; the test fails when the command does."""
    done = subprocess.run(
        command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def _lacking(reason: str) -> str:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
