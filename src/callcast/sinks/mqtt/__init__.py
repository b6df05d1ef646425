"""The MQTT sink: publishes events, and the current state as retained topics.

`sink` is the sink itself and its connectivity check, `connection` one connection to a broker, `retained_topics` the
retained state, `wire` what is sent. They are imported when a sink is opened, because importing paho takes long.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import ClassVar, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import Field, ValidationInfo, field_validator

from callcast.ports.connectivity import ConnectivityRequest, ConnectivityResult
from callcast.ports.sink import Sink, SinkContext
from callcast.settings.host import is_host
from callcast.settings.loopback import check_encryption
from callcast.settings.secret import Secret
from callcast.sinks import SinkSettings
from callcast.sinks.tls import TlsSettings

_PORTS = {"mqtt": 1883, "mqtts": 8883, "ws": 80, "wss": 443}
_ENCRYPTED = {"mqtt": "mqtts", "ws": "wss"}


class Settings(TlsSettings):
    """Events, and the current state of calls and extensions, on an MQTT broker."""

    example_name: ClassVar[str] = "wallboard"

    type: Literal["mqtt"] = "mqtt"
    url: str = Field(
        description="URL of the broker; wss:// for MQTT over WebSocket", examples=["mqtts://broker.example.com:8883"]
    )
    username: str = Field(default="", description="user name at the broker; empty: no login", examples=["callcast"])
    password: Secret | None = Field(
        default=None, validate_default=True, description="password of that user", examples=[{"env": "MQTT_PASSWORD"}]
    )
    client_id: str = Field(
        default="",
        max_length=200,
        description="default: callcast-, this installation's id and the sink's name",
    )
    protocol: Literal["5", "3.1.1"] = Field(default="5", description="MQTT version: 5 or 3.1.1")
    topic: str = Field(default="callcast", max_length=200, description="prefix of every topic of this sink")
    tombstone_s: float = Field(
        default=60.0, ge=0, le=24 * 3600, description="an ended call's retained topic is removed after this long"
    )

    retain: bool = Field(
        default=True, description="false: no retained topics and no will, for brokers that do not support them"
    )

    discovery: Literal["", "homeassistant"] = Field(
        default="",
        description="homeassistant: announce each source and extension to Home Assistant as a device",
        examples=["homeassistant"],
    )

    @field_validator("discovery")
    @classmethod
    def _discovery_is_retained(cls, discovery: str, info: ValidationInfo) -> str:
        if discovery and not info.data.get("retain", True):
            raise ValueError("needs retained messages: remove retain = false, or discovery")
        return discovery

    @field_validator("url")
    @classmethod
    def _url_is_safe(cls, text: str, info: ValidationInfo) -> str:
        url = _split(text)
        if url.username is not None or url.password is not None:
            raise ValueError("must not contain a user or password: use username and password")
        check_encryption(url.scheme, url.hostname or "", info, encrypted=_ENCRYPTED.get(url.scheme, url.scheme))
        return text

    @field_validator("topic")
    @classmethod
    def _topic_can_be_a_prefix(cls, prefix: str) -> str:
        levels = prefix.split("/")
        if not all(levels) or not prefix.isprintable() or set(prefix) & set("+#") or prefix.startswith("$"):
            raise ValueError("expected a topic prefix, such as site/callcast, without + # $")
        return prefix

    @field_validator("password")
    @classmethod
    def _password_has_a_user(cls, password: Secret | None, info: ValidationInfo) -> Secret | None:
        if password is not None and not info.data.get("username"):
            raise ValueError("has no effect without username")
        return password

    @asynccontextmanager
    async def open(self, context: SinkContext, /) -> AsyncIterator[Sink]:
        from callcast.sinks.mqtt.sink import MqttSink

        sink = MqttSink(self, context)
        async with asyncio.TaskGroup() as tasks:
            work = [tasks.create_task(sink.stay_connected())]
            if self.retain:
                work.append(tasks.create_task(sink.follow_live_calls()))
            try:
                yield sink
            finally:
                for task in work:
                    task.cancel()

    async def removed(self, context: SinkContext, configured: Sequence[SinkSettings], /) -> None:
        """Remove the retained topics, so that none shows old state as current."""
        from callcast.sinks.mqtt.sink import remove_retained

        continued = any(isinstance(each, Settings) and each.retain and each.place == self.place for each in configured)
        if self.retain and not continued:
            await remove_retained(self, context)

    def exclusive_resources(self) -> Sequence[tuple[str, str]]:
        url = self.address()
        resources = [("topic", f"the topic {self.place}")]
        if self.client_id:
            resources.append(("client_id", f"the client id {self.client_id} on {url.hostname}:{port_of(url)}"))
        return resources

    async def check_connectivity(self, request: ConnectivityRequest, /) -> ConnectivityResult:
        """Connects with a will, and disconnects; with `send`, also publishes test messages."""
        from callcast.sinks.mqtt.sink import check_connectivity

        return await check_connectivity(self, request)

    @property
    def place(self) -> str:
        url = self.address()
        return f"{self.topic} on {url.hostname}:{port_of(url)}"

    def address(self) -> SplitResult:
        return _split(self.url)


def port_of(url: SplitResult) -> int:
    return url.port or _PORTS[url.scheme]


def _split(text: str) -> SplitResult:
    problem = "expected mqtts://HOST[:PORT] or wss://HOST[:PORT][/PATH]"
    try:
        url = urlsplit(text)
        fits = url.scheme in _PORTS and is_host(url.hostname or "") and url.port != 0
    except ValueError:
        raise ValueError(problem) from None
    if not fits or url.query or url.fragment or (url.path.strip("/") and url.scheme in ("mqtt", "mqtts")):
        raise ValueError(problem)
    return url
