"""Ports for what a test starts, and may stop and start again, on this machine."""

import os
import random
import socket
from contextlib import suppress
from itertools import cycle

# Below the range from which the system takes ports for outgoing connections: none of those takes one meanwhile.
_PORTS = range(15_000, 32_000)


def free_port() -> int:
    """A port on which nothing listens. No other test of this run gets it, in whichever worker process it runs."""
    for port in _own:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("", port))
            return port
    raise AssertionError  # a cycle has no end


def _of_this_worker() -> list[int]:
    """Each worker process has its share, in an order that pytest-randomly's seed does not repeat."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    share = list(_PORTS[worker::workers])
    random.SystemRandom().shuffle(share)
    return share


_own = cycle(_of_this_worker())
