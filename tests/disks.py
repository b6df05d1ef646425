"""A small disk for one test that can be filled."""

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

_PIECE = b"\0" * 4096


class SmallDisk:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._filler = path / "filler"

    def fill(self) -> None:
        """Fill the disk completely."""
        file = os.open(self._filler, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            while True:
                os.write(file, _PIECE)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
        finally:
            os.close(file)

    def free(self) -> None:
        self._filler.unlink()


@contextmanager
def small_disk(path: Path, *, megabytes: int = 4) -> Iterator[SmallDisk]:
    """Mount a tmpfs of this size at `path`. If that is not permitted, the test is skipped, or fails under CI=true."""
    path.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0755", "callcast-test", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        say = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        say(f"no small disk: mount: {mounted.stderr.strip()}: run as root, in a container with CAP_SYS_ADMIN")
    try:
        yield SmallDisk(path)
    finally:
        with suppress(OSError):
            subprocess.run(["umount", "--lazy", str(path)], check=True)
