"""Every sink that comes with callcast keeps the contract, against real remote sides."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from callcast.testing import RemoteSide, SinkContract
from tests.integration.sinks.brokers import Broker, iotcore, mosquitto
from tests.integration.sinks.remote_sides import (
    FifoReader,
    MqttFarSide,
    Protocol,
    fifo_remote_side,
    webhook_remote_side,
)


class TestWebhook(SinkContract):
    def remote_side(self) -> AbstractAsyncContextManager[RemoteSide]:
        return webhook_remote_side()


class InAFolder(SinkContract):
    folder: Path

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path


class TestStdout(InAFolder):
    def remote_side(self) -> AbstractAsyncContextManager[FifoReader]:
        return fifo_remote_side(self.folder)


class TestMqtt5OnMosquitto(InAFolder):
    @asynccontextmanager
    async def remote_side(self) -> AsyncIterator[RemoteSide]:
        with mosquitto(self.folder) as broker:
            far = MqttFarSide(broker, "5")
            yield far
            await far.close()


class TestMqtt311OnMosquitto(InAFolder):
    @asynccontextmanager
    async def remote_side(self) -> AsyncIterator[RemoteSide]:
        with mosquitto(self.folder) as broker:
            far = MqttFarSide(broker, "3.1.1")
            yield far
            await far.close()


class OnIotcore(SinkContract):
    """One broker for the whole class, since it is slow to start; a question that needs it down starts it again."""

    protocol: Protocol
    broker: Broker

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _broker(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        with iotcore(tmp_path_factory.mktemp("iotcore"), cls.protocol) as cls.broker:
            yield

    @asynccontextmanager
    async def remote_side(self) -> AsyncIterator[RemoteSide]:
        far = MqttFarSide(self.broker, self.protocol)
        yield far
        self.broker.thaw()
        far.stop_watching()


class TestMqtt5OnIotcore(OnIotcore):
    protocol = "5"


class TestMqtt311OnIotcore(OnIotcore):
    protocol = "3.1.1"
