"""Sources as the service asks for them, before any of them runs."""

from tests.clock import TurnedClock
from tests.system.simulated_days.sources import House, source


def test_a_wanted_source_is_unready_before_it_runs() -> None:
    """Between the start of the service and a source's own, the service is not ready."""
    house = House(TurnedClock(), session=None)
    house.sources.set_ownership({"acme": source("acme"), "beta": source("beta", "101")})
    reasons = [telemetry.unready() for telemetry in house.sources.telemetry.values()]
    assert reasons == ["source acme: no successful poll yet", "source beta: no successful poll yet"]
