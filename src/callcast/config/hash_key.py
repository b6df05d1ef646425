"""The key for `numbers = "hash"`: configured, or generated once and stored beside the outbox, readable by its owner."""

import secrets
from pathlib import Path

from callcast.config import Settings
from callcast.ports.outbox import OutboxUnavailable
from callcast.settings.private_file import write_private

FILE = "hash.key"


def hash_key(settings: Settings) -> bytes:
    """Return the key, or b"" if no numbers are hashed. Blocks on disk I/O. Raises OutboxUnavailable."""
    if "hash" not in {settings.service.numbers, *(sink.numbers for sink in settings.sinks.values())}:
        return b""
    return settings.service.hash_key.reveal().encode() or _stored_key(settings.service.data_dir / FILE)


def _stored_key(path: Path) -> bytes:
    try:
        if not path.exists():
            write_private(path, secrets.token_hex(32).encode())
        key = path.read_bytes().strip()
    except OSError as error:
        cause = (error.strerror or str(error)).lower()
        raise OutboxUnavailable(
            f"{path} cannot be created or read: {cause}: check free space, permissions and the disk's health, "
            "or set service.hash_key; retried automatically"
        ) from error
    if not key:
        raise OutboxUnavailable(
            f"{path} is empty, so hashes would not be secret: restore it from a backup, or delete it "
            "(this changes the hashes of all numbers)"
        )
    return key
