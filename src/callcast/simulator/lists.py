"""The lists: filters, the two views, pages."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

from multidict import MultiMapping

from callcast.simulator.answers import api_refusal, invalid_parameter
from callcast.simulator.calls import Record, Scenario
from callcast.simulator.story import Story

CHOICES = {
    "direction": ("Inbound", "Outbound"),
    "type": ("Voice", "Fax"),
    "transport": ("PSTN", "VoIP"),
}
PER_PAGE = 100
PER_PAGE_MAX = 1000
LOG_SPAN = timedelta(hours=24)  # dateFrom's default, counted back from dateTo
# The plain sessionId filter stands alone; these may go with it.
BESIDE_SESSION_ID = {"sessionId", "view", "page", "perPage"}


def page(url: str, query: MultiMapping[str], records: Sequence[Record]) -> Record:
    """The page of `records` that `query` asks for, without totals, as the platform sends it.

    `url` is the list's own, without a query. `perPage` is 1,000 at most, which `max` means too.
    """
    number = _positive(query, "page", query.get("page", "1"))
    wanted = query.get("perPage", str(PER_PAGE))
    size = min(_positive(query, "perPage", str(PER_PAGE_MAX) if wanted.lower() == "max" else wanted), PER_PAGE_MAX)
    first = (number - 1) * size
    shown = records[first : first + size]
    others = [(name, value) for name, value in query.items() if name not in ("page", "perPage")]

    def link(number: int) -> dict[str, str]:
        return {"uri": f"{url}?{urlencode([*others, ('page', number), ('perPage', size)], safe=',:')}"}

    paging = {"page": number, "perPage": size}
    navigation = {}
    if first + size < len(records):
        navigation["nextPage"] = link(number + 1)
    if number > 1:
        navigation["previousPage"] = link(number - 1)
    navigation["firstPage"] = link(1)
    if shown:
        paging |= {"pageStart": first, "pageEnd": first + len(shown) - 1}
        navigation["lastPage"] = link(-(-len(records) // size))
    return {**link(number), "records": list(shown), "paging": paging, "navigation": navigation}


def _positive(query: MultiMapping[str], name: str, text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise invalid_parameter(name, query.get(name, text))
    return int(text)


def view(query: MultiMapping[str], default: str = "Simple") -> str:
    chosen = query.get("view", default)
    if chosen not in ("Simple", "Detailed"):
        raise invalid_parameter("view", chosen)
    return chosen


def as_viewed(record: Record, wanted: str) -> Record:
    """A Detailed record in the wanted view: Simple has no legs, and its own address has the view."""
    if wanted == "Detailed":
        return record
    simple = {key: value for key, value in record.items() if key not in ("legs", "lastModifiedTime", "billing")}
    simple["uri"] = record["uri"].replace("?view=Detailed", "?view=Simple")
    return simple


def chosen(records: Iterable[Record], query: MultiMapping[str]) -> list[Record]:
    """The records that pass direction, type and transport (each may be repeated), in the wanted view."""
    wanted = view(query)
    filters = {name: query.getall(name) for name in CHOICES if name in query}
    for name, values in filters.items():
        for value in values:
            if value not in CHOICES[name]:
                raise invalid_parameter(name, value)
    return [
        as_viewed(record, wanted)
        for record in records
        if all(record.get(name) in (*values, None) for name, values in filters.items())
    ]


def in_log(records: Iterable[Record], query: MultiMapping[str], now: datetime) -> list[Record]:
    """The call log's own filters. Dates are compared with the start of a call, not with its end."""
    if "sessionId" in query:
        if set(query) - BESIDE_SESSION_ID:
            raise api_refusal(400, "CLG-110", "Parameter [sessionId] is not allowed for usage along with other filters")
        return [record for record in records if record["sessionId"] == query["sessionId"]]
    date_to = moment(query, "dateTo") or now + timedelta(seconds=1)
    try:
        date_from = moment(query, "dateFrom") or date_to - LOG_SPAN
    except OverflowError:  # in the year 1
        raise invalid_parameter("dateTo", query["dateTo"]) from None
    session = query.get("telephonySessionId")
    return [
        record
        for record in records
        if date_from <= datetime.fromisoformat(record["startTime"]) < date_to
        and (session is None or record.get("telephonySessionId") == session)
    ]


def directory(scenario: Scenario, url: str) -> list[Record]:
    """The records of the account's list of extensions."""
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


def moment(query: MultiMapping[str], name: str) -> datetime | None:
    """The time in a parameter; UTC if it has no zone."""
    text = query.get(name)
    if text is None:
        return None
    try:
        given = datetime.fromisoformat(text)
    except ValueError:
        raise invalid_parameter(name, text) from None
    return given if given.tzinfo else given.replace(tzinfo=UTC)
