"""The fixtures of the unit tests of the same package."""

from tests.unit.ringcentral.conftest import answers, clock, session, telemetry

__all__ = ["answers", "clock", "session", "telemetry"]
