"""Every sink that comes with callcast keeps the contract, against real far sides."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from callcast.testing import FarSide, SinkContract
from tests.sinks.brokers import iotcore, mosquitto
from tests.sinks.far_sides import FifoFarSide, MqttFarSide, fifo_far_side, webhook_far_side


class TestWebhook(SinkContract):
    def far_side(self) -> AbstractAsyncContextManager[FarSide]:
        return webhook_far_side()


class InAFolder(SinkContract):
    folder: Path

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path


class TestStdout(InAFolder):
    def far_side(self) -> AbstractAsyncContextManager[FifoFarSide]:
        return fifo_far_side(self.folder)


class TestMqtt5OnMosquitto(InAFolder):
    @asynccontextmanager
    async def far_side(self) -> AsyncIterator[FarSide]:
        with mosquitto(self.folder) as broker:
            far = MqttFarSide(broker, "5")
            yield far
            await far.close()


class TestMqtt311OnMosquitto(InAFolder):
    @asynccontextmanager
    async def far_side(self) -> AsyncIterator[FarSide]:
        with mosquitto(self.folder) as broker:
            far = MqttFarSide(broker, "3.1.1")
            yield far
            await far.close()


class TestMqtt5OnIotcore(InAFolder):
    @asynccontextmanager
    async def far_side(self) -> AsyncIterator[FarSide]:
        with iotcore(self.folder, "5") as broker:
            far = MqttFarSide(broker, "5")
            yield far
            await far.close()


class TestMqtt311OnIotcore(InAFolder):
    @asynccontextmanager
    async def far_side(self) -> AsyncIterator[FarSide]:
        with iotcore(self.folder, "3.1.1") as broker:
            far = MqttFarSide(broker, "3.1.1")
            yield far
            await far.close()
