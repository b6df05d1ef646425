"""The key for `numbers = "hash"`: configured, or generated once and stored beside the outbox, readable by its owner."""

import secrets
from pathlib import Path

from callcast.config import Settings
from callcast.observability import logs
from callcast.ports.outbox import OutboxUnavailable
from callcast.settings.private_file import write_private

FILE = "hash.key"


def hash_key(settings: Settings, current: bytes = b"") -> bytes:
    """Return the key, or b"" if no numbers are hashed. Blocks on disk I/O. Raises OutboxUnavailable.

    current: the key that the running service uses. A key file that was deleted meanwhile is written again, because a
    new key would change the hashes of all numbers.
    """
    if "hash" not in {settings.service.numbers, *(sink.numbers for sink in settings.sinks.values())}:
        return b""
    key = settings.service.hash_key.reveal().encode() or _stored_key(settings.service.data_dir / FILE, current)
    if current and key != current:
        detail = "the key for hashed numbers has changed, so the same number has another hash from now on"
        fix = "if that is not intended, restore service.hash_key or hash.key, and reload"
        logs.bound().warning("hash_key_changed", detail=detail, fix=fix)
    return key


def _stored_key(path: Path, current: bytes) -> bytes:
    try:
        if not path.exists():
            write_private(path, current or secrets.token_hex(32).encode())
            if current:
                detail = f"{path} was missing, and has been written again with the key in use"
                logs.bound().warning("hash_key_restored", detail=detail, fix="keep this file, also in backups")
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
