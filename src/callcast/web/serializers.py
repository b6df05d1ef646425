"""Calls as JSON-ready dicts for the page and `/api`, with phone numbers masked as `service.http_numbers` says."""

from collections.abc import Mapping
from typing import Any

from callcast.calls.model import Call
from callcast.formats.cloudevents import Wire, rfc3339


class CallSerializer:
    """Serializes calls: `wire` masks numbers, `names` maps extension ids to names. A reload creates a new one."""

    def __init__(self, wire: Wire, names: Mapping[str, str]) -> None:
        self.wire = wire
        self.names = names

    def call(self, call: Call) -> dict[str, Any]:
        """The call's event data, its source, its extension's name, and since when polls do not show it."""
        return self.wire.call_dict(call) | self._annotations(call)

    def page_call(self, call: Call) -> dict[str, Any]:
        """The fields that the page needs; sent to every client on every change."""
        data = self.wire.call_data(call)
        return {
            "call_id": data.call_id,
            "session_id": data.session_id,
            "extension_id": data.extension_id,
            "sequence": data.sequence,
            "direction": data.direction,
            "state": data.state,
            "from": data.from_party,
            "to": data.to_party,
            "queue": data.queue,
            "started_at": data.started_at,
            "answered_at": data.answered_at,
            "ended_at": data.ended_at,
            "disposition": data.disposition,
            **self._annotations(call),
        }

    def _annotations(self, call: Call) -> dict[str, Any]:
        return {
            "source": call.source,
            "extension_name": self.names.get(call.extension_id),
            "vanished_at": call.vanished_at and rfc3339(call.vanished_at),
        }
