"""What the broker still remembers under our prefix, from before this connection."""

import asyncio

from msgspec import DecodeError, Struct, json

from callcast.sinks.mqtt.connection import Link, ignore
from callcast.sinks.mqtt.retained_topics import Topics

_READ_S = 10.0


class UnreadableError(Exception):
    """The broker does not let us read our own topics, or they are not ours alone."""


class _Status(Struct):
    state: str
    client_id: str = ""


class StaleTopics:
    """Reads the retained topics below our prefix.

    The subscription goes out before the birth message. So when that message comes back, everything retained has
    come before it; and when it does not come back, we may not read.
    """

    def __init__(self, link: Link, topics: Topics, birth: bytes, client_id: str) -> None:
        self._link = link
        self._topics = topics
        self._birth = birth
        self._client_id = client_id
        self._retained: set[str] = set()
        self._other = ""
        self._whole = asyncio.Event()
        link.heard = self._hear
        self._granted = link.subscribe(topics.filters())

    async def read(self) -> set[str]:
        """All retained topics but `status`. Raises UnreadableError."""
        try:
            async with asyncio.timeout(_READ_S):
                await self._is_granted()
                await self._whole.wait()
        except TimeoutError:
            raise UnreadableError("the broker does not let us read our own topics") from None
        finally:
            self._link.heard = ignore
        self._link.unsubscribe(self._topics.filters())
        if self._other:
            raise UnreadableError(f"the client {self._other} is online with the same topic: give each its own")
        return self._retained

    async def _is_granted(self) -> None:
        for reason in await self._granted:
            if reason.is_failure:
                raise UnreadableError(f"the broker does not let us read our own topics: {reason.getName()}")

    def _hear(self, topic: str, payload: bytes, retained: bool) -> None:
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
