from tests.contract.sinks import RemoteSides
from tests.integration.sinks.remote_sides import fifo_remote_side

REMOTE_SIDES: RemoteSides = {"pipe": fifo_remote_side}
