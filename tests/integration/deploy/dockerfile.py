"""The Dockerfile as data, and its build stage as plain commands in a folder."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.integration.deploy.tools import DEPLOY, ROOT

UNPRIVILEGED = 65534
Instruction = tuple[str, str]  # such as ("RUN", "...")


def stages() -> list[list[Instruction]]:
    """What stands before the first FROM, then each stage from its FROM on."""
    found: list[list[Instruction]] = [[]]
    for word, rest in _instructions():
        if word == "FROM":
            found.append([])
        found[-1].append((word, rest))
    return found


def _instructions() -> Iterator[Instruction]:
    lines = [line for line in (DEPLOY / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    for line in "\n".join(lines).replace("\\\n", "").splitlines():
        if line.strip():
            word, _, rest = line.strip().partition(" ")
            yield word, rest


def environment(stage: list[Instruction]) -> dict[str, str]:
    """What the stage's ENV lines set."""
    pairs = [tuple(pair.split("=", 1)) for word, rest in stage if word == "ENV" for pair in shlex.split(rest)]
    return dict(pairs)


class StageRunner:
    """Runs a stage's COPY and RUN below `root`, unprivileged if run by root; copied files stay read-only."""

    def __init__(self, root: Path, places: tuple[str, ...]) -> None:
        self.root = root
        self._places = places
        self._source = root / "src"
        for folder in ("src", "opt", "tmp", "home", "bin"):
            (root / folder).mkdir()
        (root / "bin/python").symlink_to(_python())
        if os.geteuid() == 0:
            for folder in ("opt", "tmp", "home"):
                os.chown(root / folder, UNPRIVILEGED, UNPRIVILEGED)

    def build(self, stage: list[Instruction]) -> None:
        settings = environment(stage)
        for word, rest in stage:
            if word == "COPY":
                self._copy(shlex.split(rest))
            elif word == "RUN":
                self.run(self._moved(rest), settings)

    def run(self, command: str, settings: dict[str, str]) -> str:
        """The command's output; fails with all of it when the command fails."""
        kept = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_", "HTTPS_"))}
        path = f"{self.root / 'bin'}:/usr/bin:/bin"
        environ = {**kept, **settings, "HOME": str(self.root / "home"), "PATH": path, "TMPDIR": str(self.root / "tmp")}
        account = {"user": UNPRIVILEGED, "group": UNPRIVILEGED, "extra_groups": []} if os.geteuid() == 0 else {}
        done = subprocess.run(
            ["/bin/sh", "-ec", command],
            cwd=self._source,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **account,  # type: ignore[call-overload]
        )
        assert done.returncode == 0, done.stdout
        return str(done.stdout)

    def _copy(self, names: list[str]) -> None:
        *sources, to = names
        for source in sources:
            target = self._source / to / (Path(source).name if to == "./" else "")
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / source, target)
        for path in self._source.rglob("*"):
            path.chmod(0o555 if path.is_dir() else 0o444)

    def _moved(self, command: str) -> str:
        for place in self._places:
            command = command.replace(place, f"{self.root}{place}")
        return command


def _python() -> Path:
    """A Python that every user can run: that of root may be in root's home."""
    return Path("/usr/bin/python3") if os.geteuid() == 0 else Path(sys.executable).resolve()
