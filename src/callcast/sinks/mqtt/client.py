"""paho's client with two methods overridden."""

import socket
from collections.abc import Callable
from typing import Any

from paho.mqtt import client as paho
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

from callcast.sinks.addresses import connect_blocking


class BrokerClient(paho.Client):
    """Tries every address of a host name, and decodes acknowledgements itself.

    paho builds tables of property names for each acknowledgement, which takes longer than publishing the message. And
    mosquitto acknowledges a message above its message_size_limit with a code that MQTT 5 defines for other packets
    only; paho treats that as a malformed packet and closes the connection, with all other messages on it.

    on_acknowledged: called with the message's id and the broker's reason code (0 with MQTT 3.1.1).
    """

    on_acknowledged: Callable[[int, int], None]

    def _create_socket_connection(self) -> socket.socket:
        return connect_blocking(self.host, self.port, self.connect_timeout)

    def _handle_pubackcomp(self, cmd: Any) -> MQTTErrorCode:
        packet = self._in_packet["packet"]
        if cmd != "PUBACK" or len(packet) < 2:
            return MQTTErrorCode.MQTT_ERR_PROTOCOL  # only QoS 1 is ever sent
        message_id = int.from_bytes(packet[:2], "big")
        if self._out_messages.pop(message_id, None) is not None:
            self._inflight_messages -= 1
            self.on_acknowledged(message_id, packet[2] if len(packet) > 2 else 0)
        return MQTTErrorCode.MQTT_ERR_SUCCESS


def puback_name(code: int) -> str:
    """The name of a reason code for acknowledgements, or else for other packets."""
    names = ReasonCode.names.get(code, {})
    for name, packets in names.items():
        if PacketTypes.PUBACK in packets:
            return str(name)
    return str(next(iter(names), f"Reason code {code}"))
