"""The sink itself, and one of the presets that post a message for each event."""

from tests.contract.sinks import RemoteSides
from tests.integration.sinks.remote_sides import preset_remote_side, webhook_remote_side

REMOTE_SIDES: RemoteSides = {
    "http": lambda _folder: webhook_remote_side(),
    "preset": lambda _folder: preset_remote_side("teams"),
}
