"""Reads the retained topics that the broker still has from before this connection."""

import asyncio

from msgspec import DecodeError, Struct, json

from callcast.sinks.mqtt.connection import Connection, ignore
from callcast.sinks.mqtt.retained_topics import Topics

_READ_S = 10.0


class UnreadableError(Exception):
    """The topics cannot be read, or another client uses the same prefix."""


class _Status(Struct):
    state: str
    client_id: str = ""


class StaleTopics:
    """Reads the retained topics below the prefix of this sink.

    The subscription is sent before the birth message. So when that message arrives, all retained messages have
    arrived before it; if it does not arrive, the broker does not allow reading.
    """

    def __init__(self, connection: Connection, topics: Topics, birth: bytes, client_id: str) -> None:
        self._connection = connection
        self._topics = topics
        self._birth = birth
        self._client_id = client_id
        self._retained: set[str] = set()
        self._other = ""
        self._whole = asyncio.Event()
        connection.on_message_received = self._receive
        self._granted = connection.subscribe(topics.filters())

    async def read(self) -> set[str]:
        """All retained topics but `status`. Raises UnreadableError."""
        try:
            async with asyncio.timeout(_READ_S):
                await self._is_granted()
                await self._whole.wait()
        except TimeoutError:
            raise UnreadableError("the broker does not allow callcast to subscribe to its own topics") from None
        finally:
            self._connection.on_message_received = ignore
        self._connection.unsubscribe(self._topics.filters())
        if self._other:
            raise UnreadableError(
                f"the client {self._other} is online with the same topic: give each client its own topic"
            )
        return self._retained

    async def _is_granted(self) -> None:
        for reason in await self._granted:
            if reason.is_failure:
                raise UnreadableError(
                    f"the broker does not allow callcast to subscribe to its own topics: {reason.getName()}"
                )

    def _receive(self, topic: str, payload: bytes, retained: bool) -> None:
        if topic != self._topics.status:
            if retained and payload:
                self._retained.add(topic)
        elif payload == self._birth:
            self._whole.set()
        elif retained:
            self._other = _other(payload, self._client_id)


def _other(payload: bytes, client_id: str) -> str:
    try:
        status = json.decode(payload, type=_Status)
    except DecodeError:
        return ""
    return status.client_id if status.state == "online" and status.client_id != client_id else ""
