"""What the page and `/api` show: JSON-ready dicts, under the service's numbers policy."""

from collections.abc import Mapping
from typing import Any

from callcast.calls.model import Call
from callcast.formats.cloudevents import Wire, rfc3339

_PAGE_FIELDS = (
    "call_id",
    "session_id",
    "extension_id",
    "sequence",
    "direction",
    "state",
    "from",
    "to",
    "queue",
    "started_at",
    "answered_at",
    "ended_at",
    "disposition",
)


class View:
    """How calls are shown: numbers by `wire`, extensions by `names`. Replaced as a whole on reload."""

    def __init__(self, wire: Wire, names: Mapping[str, str]) -> None:
        self.wire = wire
        self.names = names

    def call(self, call: Call) -> dict[str, Any]:
        """The event's `data` of its present state, its source, its extension's name, and since when it is unseen."""
        return self.wire.call_dict(call) | self._beside(call)

    def page_call(self, call: Call) -> dict[str, Any]:
        """What the page needs of `call`: sent to every reader with every change."""
        full = self.wire.call_dict(call)
        return {field: full[field] for field in _PAGE_FIELDS} | self._beside(call)

    def _beside(self, call: Call) -> dict[str, Any]:
        return {
            "source": call.source,
            "extension_name": self.names.get(call.extension_id),
            "vanished_at": call.vanished_at and rfc3339(call.vanished_at),
        }
