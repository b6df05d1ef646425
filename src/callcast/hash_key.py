"""The key of `numbers = "hash"`: configured, or made once and kept beside the outbox, for this user alone."""

import os
import secrets
from pathlib import Path

from callcast.config import Settings
from callcast.core.outbox import OutboxUnavailable

FILE = "hash.key"


def hash_key(settings: Settings) -> bytes:
    """Empty where nobody hashes. Blocks on the disk; raises OutboxUnavailable with place, cause and next step."""
    if "hash" not in {settings.service.numbers, *(sink.numbers for sink in settings.sinks.values())}:
        return b""
    return settings.service.hash_key.reveal().encode() or _kept(settings.service.data_dir / FILE)


def _kept(path: Path) -> bytes:
    try:
        if not path.exists():
            _make(path)
        key = path.read_bytes().strip()
    except OSError as error:
        cause = (error.strerror or str(error)).lower()
        raise OutboxUnavailable(
            f"{path} cannot be made or read: {cause}: check free space, permissions and the disk's health, "
            "or set service.hash_key; it is tried again by itself"
        ) from error
    if not key:
        raise OutboxUnavailable(
            f"{path} is empty, and hashes made with it would be no secret: put it back from a backup, or delete it "
            "(then the hashes of all numbers change)"
        )
    return key


def _make(path: Path) -> None:
    """Whole or not at all: a key that was cut short by a full disk would be kept for ever."""
    new = path.with_name(f"{FILE}.new")
    new.touch(mode=0o600)
    with new.open("wb") as file:
        file.write(secrets.token_hex(32).encode())
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
