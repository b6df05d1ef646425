"""Connecting to a name with several addresses: one that swallows packets must not hide one that works."""

import asyncio
import socket
from collections.abc import Sequence

from aiohappyeyeballs import AddrInfoType, start_connection

_NEXT_AFTER_S = 0.25  # RFC 8305: then the next address is tried beside those that have not answered yet


async def connect(host: str, port: int) -> socket.socket:
    """A connection to the first address of `host` that answers, as the webhook's own client chooses it.

    Raises OSError. The caller sets the time limit.
    """
    loop = asyncio.get_running_loop()
    return await _first(await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM))


def connect_blocking(host: str, port: int, timeout_s: float) -> socket.socket:
    """The same for a thread of its own. Raises OSError. Looking up the name is not within the time limit."""
    addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)

    async def within_limit() -> socket.socket:
        async with asyncio.timeout(timeout_s):
            return await _first(addresses)

    sock = asyncio.run(within_limit())
    sock.settimeout(timeout_s)
    return sock


async def _first(addresses: Sequence[AddrInfoType]) -> socket.socket:
    return await start_connection(addresses, happy_eyeballs_delay=_NEXT_AFTER_S, interleave=1)
