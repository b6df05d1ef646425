"""The fixtures of the unit tests of the same package."""

from tests.unit.ringcentral.conftest import answers, clock, heard, session

__all__ = ["answers", "clock", "heard", "session"]
