"""The order of a topic's messages, which no real broker can show."""

import asyncio
from typing import cast

from callcast.sinks.mqtt import Settings
from callcast.sinks.mqtt.connection import Connection
from callcast.sinks.mqtt.sink import MqttSink
from callcast.sinks.mqtt.wire import Message
from callcast.testing import context, until

TOPIC = "callcast/acme/9/state"
TURNS = 20  # of the event loop: more than a message needs to reach the connection


class SlowConnection:
    """A connection that acknowledges when the test says so, and counts the messages in flight of a topic."""

    def __init__(self) -> None:
        self.over = asyncio.Event()
        self.sent: list[bytes] = []
        self.acknowledged = asyncio.Semaphore(0)
        self.most = self._under_way = 0

    async def publish(self, message: Message) -> None:
        if message.topic != TOPIC:
            return
        self.sent.append(message.payload)
        self._under_way += 1
        self.most = max(self.most, self._under_way)
        await self.acknowledged.acquire()
        self._under_way -= 1


async def test_the_next_message_of_a_topic_waits_for_the_last_acknowledgement() -> None:
    """Brokers may reorder messages in flight, so a topic has only one."""
    settings = Settings.model_validate({"type": "mqtt", "url": "mqtt://127.0.0.1:1", "timeout_s": 5})
    async with settings.open(context([])) as opened:
        sink, connection = cast("MqttSink", opened), SlowConnection()
        publishing = asyncio.create_task(sink._publish_changes(cast("Connection", connection)))
        for number in range(5):
            sink._retained._set(TOPIC, b"%d" % number)
            sink._dirty.set()
            for _ in range(TURNS):
                await asyncio.sleep(0)
        connection.acknowledged.release()
        await until(lambda: connection.sent[-1] == b"4")
        publishing.cancel()
        await asyncio.wait([publishing])
    assert connection.sent == [b"0", b"4"], "the newest alone, of those that came meanwhile"
    assert connection.most == 1
