"""Opens the store at a location. The location is a directory, which holds the outbox of one service in SQLite.

Only this module knows which store belongs to a location.
"""

from contextlib import AbstractAsyncContextManager, AbstractContextManager
from pathlib import Path

from callcast.ports.clock import Clock
from callcast.ports.outbox import Outbox
from callcast.ports.outbox_admin import OutboxAdmin


def open_outbox(
    location: Path, clock: Clock, *, retention_h: float, outbox_max_mb: float, dead_letter_days: float
) -> AbstractAsyncContextManager[Outbox]:
    """Open the outbox of the service. Raises OutboxRefused if it is in use, has another schema, or is unusable.

    A disk error does not prevent opening: each method then raises OutboxUnavailable until the disk works.
    """
    from callcast.outbox.sqlite import store

    return store.open_outbox(
        location, clock, retention_h=retention_h, outbox_max_mb=outbox_max_mb, dead_letter_days=dead_letter_days
    )


def open_admin(location: Path, *, read_only: bool = False) -> AbstractContextManager[OutboxAdmin]:
    """Open the outbox of a running or stopped service for a command.

    read_only: create no file and change nothing, because the command may run as another user than the service.
    Raises OutboxMissing, OutboxRefused if this version cannot use it, OutboxUnavailable on errors.
    """
    from callcast.outbox.sqlite import admin

    return admin.open_admin(location, read_only=read_only)


def try_location(location: Path) -> None:
    """Raise OSError when this user cannot create an outbox there. Leaves nothing behind."""
    from callcast.outbox.sqlite import schema

    schema.try_directory(location)
