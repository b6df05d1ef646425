"""Both versions of the protocol, each on two brokers."""

from functools import partial

from tests.contract.sinks import RemoteSides
from tests.integration.sinks.brokers import iotcore, mosquitto
from tests.integration.sinks.remote_sides import PROTOCOLS, mqtt_remote_side, websocket_remote_side

REMOTE_SIDES: RemoteSides = {
    "mosquitto-websocket": websocket_remote_side,
    **{f"mosquitto-{protocol}": partial(mqtt_remote_side, mosquitto, protocol) for protocol in PROTOCOLS},
    **{f"iotcore-{each}": partial(mqtt_remote_side, partial(iotcore, protocol=each), each) for each in PROTOCOLS},
}
