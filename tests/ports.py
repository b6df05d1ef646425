"""Free TCP ports for servers that a test starts and may restart."""

import os
import random
import socket
from contextlib import suppress
from itertools import cycle

# Below the range from which the system takes ports for outgoing connections: none of those takes one meanwhile.
_PORTS = range(15_000, 32_000)


def free_port() -> int:
    """An unused port. No other test of this run gets it, in any worker process."""
    for port in _own:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("", port))
            return port
    raise AssertionError  # a cycle has no end


def _of_this_worker() -> list[int]:
    """The ports of this worker process, in an order that does not depend on pytest-randomly's seed."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    share = list(_PORTS[worker::workers])
    random.SystemRandom().shuffle(share)
    return share


_own = cycle(_of_this_worker())
