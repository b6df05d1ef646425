"""Access to the platform, for the commands that send it requests: with the tokens that the service has stored."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from callcast.app import SystemClock
from callcast.provider import Provider
from callcast.sinks.connectivity import Resolver


@asynccontextmanager
async def platform_access(data_dir: Path) -> AsyncIterator[Provider]:
    """Open access to the platform. Stored tokens are used, but none is stored."""
    connector = aiohttp.TCPConnector(resolver=Resolver())
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), connector=connector) as session:
        provider = Provider(session, SystemClock(), data_dir=data_dir, writes=False)
        await provider.load()
        yield provider
