"""A plain WebSocket client for the simulated gateway."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import aiohttp

from tests.integration.simulator.caller import Caller

TELEPHONY = "/restapi/v1.0/account/~/telephony/sessions"
WAIT_S = 30.0
NUMBERS = count(1)


class Socket:
    def __init__(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        self.ws = ws

    async def frame(self) -> list[dict[str, Any]]:
        message = await self.ws.receive(WAIT_S)
        assert message.type is aiohttp.WSMsgType.TEXT, message
        return list(json.loads(message.data))

    async def notification(self) -> dict[str, Any]:
        meta, body = await self.frame()
        assert meta["type"] == "ServerNotification"
        return body

    async def request(self, body: object, method: str = "POST", path: str = "/restapi/v1.0/subscription") -> Any:
        """Send a request and return its answer's frame."""
        message_id = f"request-{next(NUMBERS)}"
        meta = {"type": "ClientRequest", "messageId": message_id, "method": method, "path": path}
        await self.ws.send_str(json.dumps([meta, body]))
        answer = await self.frame()
        assert (answer[0]["type"], answer[0]["messageId"]) == ("ClientRequest", message_id)
        return answer

    async def subscribe(self, *filters: str) -> Any:
        wanted = {"eventFilters": list(filters or (TELEPHONY,)), "deliveryMode": {"transportType": "WebSocket"}}
        return await self.request(wanted)

    async def closed(self) -> int | None:
        """Wait for the close; gives its code."""
        while not self.ws.closed:
            await self.ws.receive(WAIT_S)
        return self.ws.close_code

    async def quiet(self) -> None:
        """Nothing has come: the next frame is the answer to a heartbeat sent now."""
        message_id = f"heartbeat-{next(NUMBERS)}"
        heartbeat = [{"type": "Heartbeat", "messageId": message_id}]
        await self.ws.send_str(json.dumps(heartbeat))
        assert await self.frame() == heartbeat


async def ws_token(caller: Caller) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {caller.token}"}
    async with caller.http.post(caller.url + "/restapi/oauth/wstoken", headers=headers) as response:
        assert response.status == 200, await response.text()
        return dict(await response.json())


@asynccontextmanager
async def connected(caller: Caller, *filters: str, wsc: str | None = None) -> AsyncIterator[Socket]:
    """A connection that has been greeted, and subscribed if filters are given."""
    async with opened(caller, wsc=wsc) as socket:
        meta, _ = await socket.frame()
        assert meta["type"] == "ConnectionDetails"
        if filters:
            assert (await socket.subscribe(*filters))[0]["status"] == 200
        yield socket


@asynccontextmanager
async def opened(caller: Caller, *, wsc: str | None = None, token: str | None = None) -> AsyncIterator[Socket]:
    """A connection from which nothing was read yet."""
    if token is None:
        token = (await ws_token(caller))["ws_access_token"]
    query = {"access_token": token} | ({"wsc": wsc} if wsc else {})
    async with caller.http.ws_connect(caller.url + "/ws", params=query, max_msg_size=1_048_576) as ws:
        yield Socket(ws)


async def codes(socket: Socket, number: int) -> Sequence[str]:
    """The states in the next notifications."""
    return [(await socket.notification())["body"]["parties"][0]["status"]["code"] for _ in range(number)]
