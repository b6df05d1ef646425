"""RingCentral for many credentials in turned time: real requests of the real client, without sockets.

`ModelSession` stands where aiohttp's session stands. It counts as the platform does (`PlatformModel`, one for each
credential and group), and records when each list was requested and answered.
"""

import asyncio
import re
from base64 import b64decode
from collections import defaultdict
from collections.abc import Callable
from datetime import datetime
from email.utils import format_datetime
from random import Random
from types import TracebackType
from typing import Any

import msgspec
from aiohttp import ClientTimeout
from multidict import CIMultiDict
from yarl import URL

from callcast.ports.clock import Clock
from tests.unit.ringcentral.platform_model import PlatformModel

EMPTY = b'{"records":[],"navigation":{},"paging":{"page":1,"perPage":1000}}'
Trouble = Callable[[], int]  # the status of an answer, or HANGS
HANGS = 0


class PollRecord(msgspec.Struct):
    asked_at: float
    answered_at: float
    status: int


class Response:
    """As much of aiohttp's as the client uses."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = CIMultiDict(headers)
        self.content_type = "application/json"
        self.content_length = len(body)
        self.content = self
        self._body = body

    def at_eof(self) -> bool:
        return not self._body

    async def readany(self) -> bytes:
        body, self._body = self._body, b""
        return body


class ModelSession:
    """latency_s: the most that a request is under way, there and back together."""

    def __init__(self, clock: Clock, random: Random, *, limit: int = 10, latency_s: float = 0.4) -> None:
        self.clock = clock
        self.random = random
        self.latency_s = latency_s
        self.heavy: defaultdict[str, PlatformModel] = defaultdict(lambda: PlatformModel(clock, limit=limit))
        self.auth: defaultdict[str, PlatformModel] = defaultdict(lambda: PlatformModel(clock, limit=5))
        self.polls: defaultdict[tuple[str, str], list[PollRecord]] = defaultdict(list)  # by client id and target
        self.trouble: dict[str, Trouble] = {}  # by client id

    def request(self, method: str, url: URL, **options: Any) -> "_Request":
        return _Request(self, method, url, **options)

    def refused(self) -> list[tuple[str, float]]:
        models = [*self.heavy.items(), *self.auth.items()]
        return [(client_id, at) for client_id, model in models for at in model.refused]


class _Request:
    """One request under way."""

    def __init__(
        self,
        session: ModelSession,
        method: str,
        url: URL,
        *,
        headers: dict[str, str],
        data: dict[str, str] | None,
        timeout: ClientTimeout,
        **_rest: object,
    ) -> None:
        self._session = session
        self._path = url.path
        self._timeout_s = timeout.total
        scheme, _space, secret = headers["Authorization"].partition(" ")
        known = b64decode(secret).decode().partition(":")[0] if scheme == "Basic" else secret
        self._client_id = known.removeprefix("token of ")
        assert method == ("POST" if data else "GET")

    async def __aenter__(self) -> Response:
        async with asyncio.timeout(self._timeout_s):
            return await self._answer()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def _answer(self) -> Response:
        session = self._session
        asked_at = session.clock.monotonic()
        took_s = session.random.uniform(0.1, session.latency_s)
        await session.clock.sleep(took_s / 2)
        status, headers = self._counted()
        if status == HANGS:
            await asyncio.Event().wait()
        await session.clock.sleep(took_s / 2)
        headers["Date"] = _date(session.clock.now())
        if target := re.search(r"(extension/\d+|account/~)/active-calls$", self._path):
            poll = PollRecord(asked_at, session.clock.monotonic(), status)
            session.polls[self._client_id, target[1]].append(poll)
            return Response(status, headers, EMPTY)
        return Response(status, headers, self._token())

    def _counted(self) -> tuple[int, dict[str, str]]:
        session, client_id = self._session, self._client_id
        group = session.auth if self._path.endswith("/oauth/token") else session.heavy
        status, headers = group[client_id].ask()
        if status == 200 and client_id in session.trouble and group is session.heavy:
            status = session.trouble[client_id]()
        return status, headers

    def _token(self) -> bytes:
        token = {"access_token": f"token of {self._client_id}", "expires_in": 3600, "owner_id": "101"}
        return msgspec.json.encode(token)


def _date(at: datetime) -> str:
    return format_datetime(at, usegmt=True)
