"""Shared by the commands that listen on a port: signals, and an address that cannot be used."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from callcast.cli.failure import CommandFailed
from callcast.exit_codes import ExitCode


def set_on_signal(stop: asyncio.Event) -> None:
    """Set the event on Ctrl-C and SIGTERM."""
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)


@contextmanager
def listening_on(host: str, port: int) -> Iterator[None]:
    """End the command if the address cannot be listened on."""
    try:
        yield
    except (OSError, UnicodeError) as error:  # a UnicodeError is that of a host name
        why = (getattr(error, "strerror", None) or "not a host name").lower()
        problem = f"cannot listen on {host} port {port}: {why}; choose another --port or --host"
        raise CommandFailed(problem, ExitCode.UNAVAILABLE) from error
