"""Connects to host names with several addresses: an unresponsive address must not block a working one."""

import asyncio
import socket
from collections.abc import Sequence

from aiohappyeyeballs import AddrInfoType, start_connection

_NEXT_AFTER_S = 0.25  # RFC 8305: the delay before the next address is tried in parallel


async def connect(host: str, port: int) -> socket.socket:
    """Connect to the first address of `host` that responds, like the HTTP client of the webhook sink.

    Raises OSError. The caller sets the time limit.
    """
    loop = asyncio.get_running_loop()
    return await _first(await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM))


def connect_blocking(host: str, port: int, timeout_s: float) -> socket.socket:
    """Like `connect`, for use in a thread. Raises OSError. The time limit does not cover the name lookup."""
    addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)

    async def within_limit() -> socket.socket:
        async with asyncio.timeout(timeout_s):
            return await _first(addresses)

    sock = asyncio.run(within_limit())
    sock.settimeout(timeout_s)
    return sock


async def _first(addresses: Sequence[AddrInfoType]) -> socket.socket:
    return await start_connection(addresses, happy_eyeballs_delay=_NEXT_AFTER_S, interleave=1)
