"""What needs attention without making the service unready."""

import json

from tests.system.test_reload import Hook, Town, hook, town
from tests.system.world import until

__all__ = ["hook", "town"]  # fixtures


async def test_an_outbox_that_was_set_aside_is_a_warning_only(town: Town, hook: Hook) -> None:
    """Ready with a new file; what became of the old one is in the log once, and in /readyz until the next start."""
    data = town.folder / "data"
    data.mkdir()
    (data / "outbox.db").write_bytes(b"no database" * 1000)
    await town.start(town.head(), town.source(), hook.sink("crm"))
    status, body = await town.get("/readyz")
    answer = json.loads(body)
    assert (status, answer["ready"], answer["reasons"]) == (200, True, [])
    (warning,) = [warning for warning in answer["warnings"] if "was unreadable" in warning]
    await until(lambda: [line["detail"] for line in town.logged("outbox_doubted")] == [warning], "the log's line")
