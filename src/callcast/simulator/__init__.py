"""A fake RingCentral for the demo, the tests and other people's tests.

    async with Platform(seed.by_poll()).serve() as url:
        ...  # url is what a source's `server` wants; Credential() holds the default id, secret and JWT

What happens is a scenario (`callcast.simulator.scenarios`), when it happens is a clock (`SimulatedClock`), what
goes wrong is a `Fault`; `Limits()` switches the documented rate limits on.
"""

from callcast.simulator.clock import SimulatedClock
from callcast.simulator.faults import Fault
from callcast.simulator.limits import Limits
from callcast.simulator.platform import Platform
from callcast.simulator.scenario import Scenario, Truth
from callcast.simulator.tokens import Credential

__all__ = ["Credential", "Fault", "Limits", "Platform", "Scenario", "SimulatedClock", "Truth"]
