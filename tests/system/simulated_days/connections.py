"""The fake platform and the sources over real connections, in turned time."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from callcast.ringcentral.settings import SourceSettings
from callcast.simulator import Credential, Limits, Platform, SimulatedClock, Truth
from callcast.simulator.platform import Request
from callcast.simulator.scenarios import crowd, played
from callcast.simulator.script import Call, Script
from callcast.simulator.story import Listing, Story
from tests.system.simulated_days.simulated_time_loop import LoopClock, TurnedLoop
from tests.system.simulated_days.sources import House, source


class Stage:
    """An account with so many extensions; with limits as documented unless others are given."""

    def __init__(
        self, extensions: int = 6, calls: Sequence[Call] = (), *, linger_s: float = 120, **platform: Any
    ) -> None:
        self.clock = LoopClock()
        theirs = SimulatedClock(self.clock.now(), monotonic=self.clock.monotonic)
        script = Script(account=crowd(extensions), calls=tuple(calls))
        self.story: Story = played(script, theirs.now(), listing=Listing(linger_s=linger_s))
        self.platform = Platform(self.story, clock=theirs, **{"limits": Limits(), **platform})
        self.house: House
        self.url = ""
        self.truths: Sequence[Truth] = ()  # at the end

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Stage"]:
        async with self.platform.serve() as self.url, _counted_session() as session:
            self.house = House(self.clock, session)
            yield self
            self.truths = self.platform.truth()

    def source(self, *extensions: str, credential: Credential | None = None, **keys: Any) -> SourceSettings:
        given = credential or self.platform.tokens.credentials[0]
        access = {"server": self.url, "client_id": given.client_id, "client_secret": given.client_secret}
        return source(given.client_id, *extensions, **{**access, "jwt": given.jwt, **keys})

    def requests(self, path: str, client_id: str | None = None) -> list[Request]:
        return [one for one in self.platform.requests if one.path.endswith(path) and client_id in (None, one.client_id)]

    def value(self, name: str, **labels: str) -> float | None:
        """Of a metric."""
        return self.house.metrics._registry.get_sample_value(f"callcast_{name}", labels)


@asynccontextmanager
async def _counted_session() -> AsyncIterator[aiohttp.ClientSession]:
    """One whose requests hold the time while they are under way."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, TurnedLoop)

    async def begins(*_: object) -> None:
        loop.under_way(+1)

    async def ends(*_: object) -> None:
        loop.under_way(-1)

    trace = aiohttp.TraceConfig()
    trace.on_request_start.append(begins)
    trace.on_request_end.append(ends)
    trace.on_request_exception.append(ends)
    connector = aiohttp.TCPConnector(limit=0)
    cookies = aiohttp.DummyCookieJar()
    async with aiohttp.ClientSession(cookie_jar=cookies, connector=connector, trace_configs=[trace]) as session:
        yield session
