"""Who gets a connection at all: so many at once, so that readers never use up the files that polls need."""

import asyncio
import logging

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

CONNECTIONS_MAX = 600  # the usual limit of open files is 1024, and sources and sinks want theirs


async def listen(runner: web.AppRunner, host: str, port: int) -> asyncio.Server:
    """Listen with the runner's server; a connection too many is closed at once. Raises OSError."""
    server = runner.server
    assert server is not None, "the runner was set up"  # noqa: S101 (its type cannot say so)

    def connection() -> asyncio.BaseProtocol:
        return server() if len(server.connections) < CONNECTIONS_MAX else _Closed()

    return await asyncio.get_running_loop().create_server(connection, host or None, port)


class _Closed(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


def _is_ours(record: logging.LogRecord) -> bool:
    """Not what a client sent wrong: that would fill the log, and aiohttp repeats the header, perhaps a token."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError)


FAULTS = logging.getLogger("callcast.web")  # what aiohttp has to say of a connection
FAULTS.addFilter(_is_ours)
