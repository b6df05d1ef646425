"""A simulated RingCentral for the demo, for our tests and for tests of other programs.

    async with Platform(seed.by_poll()).serve() as url:
        ...  # url is a source's `server`; Credential() holds the default id, secret and JWT

A scenario (`callcast.simulator.scenarios`) says what happens, a clock (`SimulatedClock`) when, and a `Fault` what goes
wrong; `Limits()` switches the documented rate limits on.
"""

from callcast.simulator.calls import Record, Scenario, Truth
from callcast.simulator.clock import SimulatedClock
from callcast.simulator.faults import Fault
from callcast.simulator.limits import Limits
from callcast.simulator.platform import Platform, Request
from callcast.simulator.tokens import Credential

__all__ = ["Credential", "Fault", "Limits", "Platform", "Record", "Request", "Scenario", "SimulatedClock", "Truth"]
