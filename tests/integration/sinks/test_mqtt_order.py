"""What no broker lets itself be caught at: the order of a topic's messages, and who closes the socket."""

import asyncio
from typing import cast

from callcast.sinks.mqtt import Settings
from callcast.sinks.mqtt.connection import Connection
from callcast.sinks.mqtt.sink import MqttSink
from callcast.sinks.mqtt.wire import Message
from callcast.testing import context, until

TOPIC = "callcast/acme/9/state"
TURNS = 20  # of the loop: more than a message needs on its way to the link


class SlowLink:
    """Acknowledges when the test says so; knows how many of a topic's messages were ever under way at a time."""

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


async def test_a_topics_next_message_waits_for_the_answer_to_its_last() -> None:
    """Brokers may take what is in flight in another order: none shall ever have two to choose from."""
    settings = Settings.model_validate({"type": "mqtt", "url": "mqtt://127.0.0.1:1", "timeout_s": 5})
    async with settings.open(context([])) as opened:
        sink, link = cast("MqttSink", opened), SlowLink()
        telling = asyncio.create_task(sink._publish_changes(cast("Connection", link)))
        for number in range(5):
            sink._retained._set(TOPIC, b"%d" % number)
            sink._dirty.set()
            for _ in range(TURNS):
                await asyncio.sleep(0)
        link.acknowledged.release()
        await until(lambda: link.sent[-1] == b"4")
        telling.cancel()
        await asyncio.wait([telling])
    assert link.sent == [b"0", b"4"], "the newest alone, of those that came meanwhile"
    assert link.most == 1
