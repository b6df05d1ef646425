"""paho's client, changed in two places by a subclass: the library itself stays as it is for other users."""

import socket
from collections.abc import Callable
from typing import Any

from paho.mqtt import client as paho
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

from callcast.sinks.addresses import connect_blocking


class BrokerClient(paho.Client):
    """Tries every address of a name, and decodes acknowledgements itself.

    paho builds tables of property names for each acknowledgement, which costs more than the message did. And mosquitto
    acknowledges a message above its message_size_limit with a code that MQTT 5 has for other packets only: paho takes
    that for a malformed packet and drops the connection with every other message on it.

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
    """MQTT 5's name of a reason code; if it has none for acknowledgements, the one that it has for other packets."""
    names = ReasonCode.names.get(code, {})
    for name, packets in names.items():
        if PacketTypes.PUBACK in packets:
            return str(name)
    return str(next(iter(names), f"Reason code {code}"))
