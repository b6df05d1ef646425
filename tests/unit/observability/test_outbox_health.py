"""Users of the outbox fail and recover on their own; the service is healthy when all of them are."""

from callcast.observability.outbox_health import OutboxFailure, OutboxHealth
from callcast.ports.outbox import OutboxUnavailable
from tests.builders import NINE
from tests.clock import TurnedClock

FULL = OutboxUnavailable("disk full")


class Log:
    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, object]]] = []

    def error(self, event: str, /, **facts: object) -> None:
        self.lines.append((event, facts))

    info = error


async def test_each_user_logs_its_failure_and_its_recovery_once() -> None:
    clock, log = TurnedClock(NINE), Log()
    health = OutboxHealth(clock, log)
    crm, acme = health.user(sink="crm"), health.user(source="acme")
    crm.failed(FULL)
    await clock.turn(5)
    for user in (crm, acme):
        with user.reporting():
            raise FULL
    assert health.failure == OutboxFailure(NINE, "disk full")
    crm.works()
    assert health.failure is not None
    acme.ended()
    crm.works()
    assert health.failure is None
    facts = {"reason": "outbox", "detail": "disk full"}
    assert log.lines == [
        ("outbox_failed", {"sink": "crm", **facts}),
        ("outbox_failed", {"source": "acme", **facts}),
        ("outbox_recovered", {"sink": "crm"}),
    ]


async def test_a_user_that_waits_tries_every_second() -> None:
    clock = TurnedClock(NINE, by_itself=True)
    user = OutboxHealth(clock, Log()).user()
    answers = [FULL, FULL, None]

    async def store() -> float:
        if error := answers.pop(0):
            raise error
        return clock.monotonic()

    assert await user.until_available(store) == 2.0
