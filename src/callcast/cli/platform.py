"""Access to the platform, for the commands that ask it something: with the tokens that the service has stored."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from callcast import __version__
from callcast.app import SystemClock
from callcast.ringcentral.sign_in import FILE, SignIns


@asynccontextmanager
async def platform_access(data_dir: Path) -> AsyncIterator[dict[str, Any]]:
    """Provide what every request needs, as keyword arguments. Stored tokens are used, but none is stored."""
    clock = SystemClock()
    sign_ins = SignIns(clock, path=data_dir / FILE, writes=False)
    await sign_ins.load()
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield {"session": session, "sign_ins": sign_ins, "clock": clock, "version": __version__}
