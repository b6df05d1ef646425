"""Writes files atomically that only their owner can read."""

import os
from pathlib import Path


def write_private(path: Path, content: bytes) -> None:
    """Replace the file atomically. Blocks on disk I/O. Raises OSError; the old file is then unchanged."""
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)  # a leftover file may be readable by others
    new.touch(mode=0o600)
    with new.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
