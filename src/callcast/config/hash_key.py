"""The key of `numbers = "hash"`: configured, or made once and kept beside the outbox, for this user alone."""

import secrets
from pathlib import Path

from callcast.config import Settings
from callcast.ports.outbox import OutboxUnavailable
from callcast.settings.private_file import write_private

FILE = "hash.key"


def hash_key(settings: Settings) -> bytes:
    """Empty where nobody hashes. Blocks on the disk; raises OutboxUnavailable with place, cause and next step."""
    if "hash" not in {settings.service.numbers, *(sink.numbers for sink in settings.sinks.values())}:
        return b""
    return settings.service.hash_key.reveal().encode() or _kept(settings.service.data_dir / FILE)


def _kept(path: Path) -> bytes:
    try:
        if not path.exists():
            write_private(path, secrets.token_hex(32).encode())
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
