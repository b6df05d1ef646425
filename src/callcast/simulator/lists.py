"""The filters of active-calls and the call log, and the two views."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from multidict import MultiMapping

from callcast.simulator.answers import api_refusal, invalid_parameter
from callcast.simulator.scenario import Record, Scenario
from callcast.simulator.story import Story

CHOICES = {
    "direction": ("Inbound", "Outbound"),
    "type": ("Voice", "Fax"),
    "transport": ("PSTN", "VoIP"),
}
LOG_SPAN = timedelta(hours=24)  # dateFrom's default, counted back from dateTo
# The plain sessionId filter stands alone; these may go with it.
BESIDE_SESSION_ID = {"sessionId", "view", "page", "perPage"}


def view(query: MultiMapping[str], default: str = "Simple") -> str:
    chosen = query.get("view", default)
    if chosen not in ("Simple", "Detailed"):
        raise invalid_parameter("view", chosen)
    return chosen


def as_viewed(record: Record, wanted: str) -> Record:
    """A Detailed record in the wanted view: Simple has no legs, and says so in its own address."""
    if wanted == "Detailed":
        return record
    simple = {key: value for key, value in record.items() if key not in ("legs", "lastModifiedTime", "billing")}
    simple["uri"] = record["uri"].replace("?view=Detailed", "?view=Simple")
    return simple


def chosen(records: Iterable[Record], query: MultiMapping[str]) -> list[Record]:
    """The records that pass direction, type and transport (repeatable each), in the wanted view."""
    wanted = view(query)
    filters = {name: _values(query, name) for name in CHOICES if name in query}
    return [
        as_viewed(record, wanted)
        for record in records
        if all(record.get(name) in (*values, None) for name, values in filters.items())
    ]


def in_log(records: Iterable[Record], query: MultiMapping[str], now: datetime) -> list[Record]:
    """The call log's own filters. Dates look at when a call began, not when it ended."""
    if "sessionId" in query:
        return _of_session(records, query)
    date_to = moment(query, "dateTo") or now + timedelta(seconds=1)
    date_from = moment(query, "dateFrom") or date_to - LOG_SPAN
    session = query.get("telephonySessionId")
    return [
        record
        for record in records
        if date_from <= datetime.fromisoformat(record["startTime"]) < date_to
        and (session is None or record.get("telephonySessionId") == session)
    ]


def directory(scenario: Scenario, url: str) -> list[Record]:
    """The account's extensions, as its list of extensions shows them."""
    if isinstance(scenario, Story):
        known = [(one.id, one.number, one.name) for one in scenario.account.extensions]
    else:
        known = [(one, str(number), f"Desk {number}") for number, one in enumerate(scenario.extension_ids(), 101)]
    return [
        {
            "id": int(extension_id),
            "uri": f"{url}/{extension_id}",
            "extensionNumber": number,
            "name": name,
            "type": "User",
            "status": "Enabled",
            "hidden": False,
        }
        for extension_id, number, name in known
    ]


def _of_session(records: Iterable[Record], query: MultiMapping[str]) -> list[Record]:
    if set(query) - BESIDE_SESSION_ID:
        raise api_refusal(400, "CLG-110", "Parameter [sessionId] is not allowed for usage along with other filters")
    return [record for record in records if record["sessionId"] == query["sessionId"]]


def _values(query: MultiMapping[str], name: str) -> list[str]:
    values = query.getall(name)
    for value in values:
        if value not in CHOICES[name]:
            raise invalid_parameter(name, value)
    return values


def moment(query: MultiMapping[str], name: str) -> datetime | None:
    """A time among the parameters; one without a zone is UTC."""
    text = query.get(name)
    if text is None:
        return None
    try:
        given = datetime.fromisoformat(text)
    except ValueError:
        raise invalid_parameter(name, text) from None
    return given if given.tzinfo else given.replace(tzinfo=UTC)
