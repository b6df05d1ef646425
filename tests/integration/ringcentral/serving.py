"""A real server on this machine whose answers a test makes."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def one_token(_: web.Request) -> web.Response:
    return web.json_response({"access_token": "token-1", "expires_in": 3600, "owner_id": "62264425016"})


@asynccontextmanager
async def serving(lists: Mapping[str, Handler], token: Handler = one_token) -> AsyncIterator[str]:
    """The token endpoint, and these paths; gives the base URL."""
    app = web.Application()
    app.router.add_post("/restapi/oauth/token", token)
    for path, handler in lists.items():
        app.router.add_get(path, handler)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
