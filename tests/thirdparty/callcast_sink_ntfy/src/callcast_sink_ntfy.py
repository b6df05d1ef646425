"""Notifies a phone of calls through ntfy (https://docs.ntfy.sh/publish)."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

import aiohttp

from callcast.sinks import Delivered, Delivery, Outcome, Rejected, Retry, Secret, Sink, SinkContext, SinkSettings


class Settings(SinkSettings):
    """`[sinks.NAME] type = "ntfy"`. On a public server the topic is a password."""

    type: Literal["ntfy"] = "ntfy"
    server: str = "https://ntfy.sh"
    topic: Secret

    @asynccontextmanager
    async def open(self, context: SinkContext, /) -> AsyncIterator[Sink]:
        timeout = aiohttp.ClientTimeout(total=self.timeout_s)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            yield Ntfy(self, context, session)


class Ntfy:
    def __init__(self, settings: Settings, context: SinkContext, session: aiohttp.ClientSession) -> None:
        self._server, self._topic = settings.server, settings.topic.reveal()
        self._context, self._session = context, session

    async def send(self, delivery: Delivery, /) -> Outcome:
        message = self._message(delivery)
        try:
            async with self._session.post(self._server, json=message, allow_redirects=False) as answer:
                if 200 <= answer.status < 300:
                    return Delivered()
                if answer.status in (400, 413):
                    return Rejected(f"http_{answer.status}", unless_alone=answer.status == 400)
                return Retry(f"http_{answer.status}")
        except TimeoutError:
            return Retry("timeout")
        except (aiohttp.ClientError, OSError):
            return Retry("network")

    def _message(self, delivery: Delivery) -> dict[str, object]:
        event = self._context.wire.event_dict(delivery.event)  # applies the sink's `numbers`
        caller = event["data"].get("from") or {}
        who = caller.get("name") or caller.get("number") or event["subject"]
        return {"topic": self._topic, "title": event["type"], "message": who, "tags": [event["id"]]}
