"""Limits the number of connections, so that HTTP clients cannot use up the file descriptors that polls need."""

import asyncio
import logging

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

CONNECTIONS_MAX = 600  # the usual limit of open files is 1024, and sources and sinks need some


async def listen(runner: web.AppRunner, host: str, port: int) -> asyncio.Server:
    """Listen with the runner's server. Connections above the limit are closed at once. Raises OSError."""
    server = runner.server
    assert server is not None, "the runner was set up"  # noqa: S101 (its type cannot say so)

    def connection() -> asyncio.BaseProtocol:
        return server() if len(server.connections) < CONNECTIONS_MAX else _Closed()

    return await asyncio.get_running_loop().create_server(connection, host or None, port)


class _Closed(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


def _is_server_error(record: logging.LogRecord) -> bool:
    """False for malformed requests: they would fill the log, and aiohttp's message may quote a header with a token."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError)


LOGGER = logging.getLogger("callcast.web")  # receives aiohttp's own messages
LOGGER.addFilter(_is_server_error)
