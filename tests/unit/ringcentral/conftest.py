"""What these tests share: aioresponses made to work, a client against it, and telemetry that keeps every report."""

from collections.abc import AsyncIterator, Iterator
from typing import Any
from unittest.mock import Mock

import aioresponses.core as aioresponses_core
import pytest
from aiohttp import ClientResponse, ClientSession, DummyCookieJar
from aioresponses import aioresponses

from tests.clock import TurnedClock
from tests.unit.ringcentral.recording import RecordedTelemetry


class _Response(ClientResponse):
    """aioresponses 0.7.9 does not pass an argument that aiohttp 3.14 requires (its issue 289)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, stream_writer=Mock(output_size=0), **kwargs)


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Iterator[aioresponses]:
    monkeypatch.setattr(aioresponses_core, "ClientResponse", _Response)
    with aioresponses() as mocked:
        yield mocked


@pytest.fixture
def clock() -> TurnedClock:
    """A clock that advances by itself when a task sleeps."""
    return TurnedClock(by_itself=True)


@pytest.fixture
async def session() -> AsyncIterator[ClientSession]:
    async with ClientSession(cookie_jar=DummyCookieJar()) as opened:
        yield opened


@pytest.fixture
def telemetry() -> RecordedTelemetry:
    return RecordedTelemetry()
