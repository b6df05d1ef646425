"""A TCP proxy that a test can close or make unresponsive."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Literal

Way = Literal["open", "closed", "nowhere"]


class Gate:
    """Forwards TCP to a port. closed: connections are refused. nowhere: connections stay open, but pass no data."""

    def __init__(self, to_port: int) -> None:
        self.port = 0
        self._to_port = to_port
        self._way: Way = "open"
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def standing(self) -> AsyncIterator["Gate"]:
        server = await asyncio.start_server(self._enter, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            self.turn("closed")

    def turn(self, way: Way) -> None:
        """Data sent while nothing was passed is lost, so its connections are closed."""
        if way != "nowhere" and self._way != way:
            for writer in self._writers:
                writer.transport.abort()
        self._way = way

    async def _enter(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._way == "closed":
            writer.transport.abort()
            return
        with suppress(OSError):
            there, back = await asyncio.open_connection("127.0.0.1", self._to_port)
            self._writers |= {writer, back}
            await asyncio.gather(self._carry(reader, back), self._carry(there, writer), return_exceptions=True)
            self._writers -= {writer, back}

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                if self._way == "open":
                    writer.write(data)
        writer.close()
