from tests.contract.sinks import RemoteSides
from tests.integration.sinks.remote_sides import webhook_remote_side

REMOTE_SIDES: RemoteSides = {"http": lambda _folder: webhook_remote_side()}
