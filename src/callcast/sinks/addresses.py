"""Connects to host names with several addresses: an unresponsive address must not block a working one."""

import asyncio
import socket
import threading
from collections.abc import Sequence
from contextlib import suppress

from aiohappyeyeballs import AddrInfoType, start_connection

_NEXT_AFTER_S = 0.25  # RFC 8305: the delay before the next address is tried in parallel


async def connect(host: str, port: int) -> socket.socket:
    """Connect to the first address of `host` that responds, like the HTTP client of the webhook sink.

    Raises OSError. The caller sets the time limit.
    """
    return await start_connection(await _look_up(host, port), happy_eyeballs_delay=_NEXT_AFTER_S, interleave=1)


async def _look_up(host: str, port: int) -> Sequence[AddrInfoType]:
    """In a daemon thread: a slow name server must not delay the end of the process."""
    loop = asyncio.get_running_loop()
    found: asyncio.Future[Sequence[AddrInfoType] | OSError] = loop.create_future()

    def finish(addresses: Sequence[AddrInfoType] | OSError) -> None:
        if not found.done():
            found.set_result(addresses)

    def look_up() -> None:
        addresses: Sequence[AddrInfoType] | OSError
        try:
            addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            addresses = error
        with suppress(RuntimeError):  # the event loop is closed
            loop.call_soon_threadsafe(finish, addresses)

    threading.Thread(target=look_up, name="name-lookup", daemon=True).start()
    addresses = await found
    if isinstance(addresses, OSError):
        raise addresses
    return addresses
