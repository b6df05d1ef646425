"""A plain HTTP client for the fake platform, as another program would have it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from callcast.simulator import Credential, Platform

JWT_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
OWN = "/restapi/v1.0/account/~/extension/~"
COMPANY = "/restapi/v1.0/account/~"


class Answer:
    def __init__(self, response: aiohttp.ClientResponse, body: Any) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = body

    @property
    def code(self) -> str:
        return str(self.body["errors"][0]["errorCode"])


class Caller:
    def __init__(self, platform: Platform, url: str, http: aiohttp.ClientSession) -> None:
        self.platform = platform
        self.url = url
        self.http = http
        self.token = ""

    async def get(self, path: str, **query: Any) -> Answer:
        """With the access token; `path` may be a whole address."""
        url = path if path.startswith("http") else self.url + path
        headers = {"Authorization": f"Bearer {self.token}"}
        async with self.http.get(url, params=query or None, headers=headers, allow_redirects=False) as response:
            return Answer(response, await response.json())

    async def records(self, path: str, **query: Any) -> list[dict[str, Any]]:
        answer = await self.get(path, **query)
        assert answer.status == 200, answer.body
        return list(answer.body["records"])

    async def log_in(self, credential: Credential | None = None) -> str:
        credential = credential or self.platform.tokens.credentials[0]
        answer = await self.post_token(credential, grant_type=JWT_GRANT, assertion=credential.jwt)
        assert answer.status == 200, answer.body
        self.token = answer.body["access_token"]
        return self.token

    async def post_token(self, credential: Credential, path: str = "token", **form: str) -> Answer:
        secret = aiohttp.encode_basic_auth(credential.client_id, credential.client_secret)
        url = f"{self.url}/restapi/oauth/{path}"
        async with self.http.post(url, data=form, headers={"Authorization": secret}) as response:
            return Answer(response, await response.json() if response.content_length else {})


@asynccontextmanager
async def calling(platform: Platform) -> AsyncIterator[Caller]:
    """The platform served on a free port, and a caller who is logged in; each request on its own connection."""
    connector = aiohttp.TCPConnector(force_close=True)
    async with platform.serve() as url, aiohttp.ClientSession(connector=connector) as http:
        caller = Caller(platform, url, http)
        await caller.log_in()
        yield caller
