"""The log while everything works."""

from pathlib import Path
from typing import Any

import pytest

from callcast.calls.model import CallObservation, Direction, Provider, State, Target
from callcast.observability import logs
from tests.integration.polling.test_poller import Setup
from tests.unit.observability.test_logs import fresh_logs, logged, telemetry_of

__all__ = ["fresh_logs"]  # a fixture
HOUR_S = 3600


async def test_a_healthy_hour_is_quiet(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """An hour of polls, with a call every five minutes: nothing at info."""
    logs.configure("info", "json")
    setup = Setup(tmp_path)
    setup.upstream.spacing = 30.0
    telemetry = telemetry_of(setup.clock)
    setup.notes = telemetry  # type: ignore[assignment]
    began = setup.clock.now()

    def rings(_: Target) -> list[CallObservation]:
        number, phase = divmod(int(setup.clock.monotonic()), 300)
        return [ringing(f"s-{number}", began)] if phase < 60 else []

    setup.upstream.list_of = rings
    async with setup.polling():
        await setup.clock.turn(HOUR_S)
    assert telemetry.polls > 100
    assert logged(capfd) == []


def ringing(session: str, began: Any) -> CallObservation:
    return CallObservation(
        extension_id="101",
        session_id=session,
        account_id="1",
        record_id=session,
        direction=Direction.INBOUND,
        state=State.RINGING,
        started_at=began,
        provider=Provider(name="ringcentral", record_id=session),
    )
