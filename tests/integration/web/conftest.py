from collections.abc import AsyncIterator

import aiohttp
import pytest

from tests.integration.web.http_side import Harness, harness


@pytest.fixture
async def here() -> AsyncIterator[Harness]:
    """The HTTP server without live calls, with every target just polled."""
    async with harness(names={"101": "Reception"}) as made:
        made.watch("acme", ["101", "102", "103"])
        yield made


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=15)) as session:
        yield session
