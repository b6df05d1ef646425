"""Lists as the platform pages them: no totals, `nextPage` while there is more, little in an empty one."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from msgspec import Struct
from multidict import MultiMapping

from callcast.simulator.answers import invalid_parameter

PER_PAGE = 100
PER_PAGE_MAX = 1000


class Page(Struct, frozen=True):
    """Which part of a list a request wants; both count from 1."""

    number: int
    size: int


def wanted_page(query: MultiMapping[str]) -> Page:
    """`page` and `perPage` of a request; 1,000 is the most, and what `max` means."""
    size = query.get("perPage", str(PER_PAGE))
    if size.lower() == "max":
        size = str(PER_PAGE_MAX)
    return Page(_positive(query, "page", query.get("page", "1")), min(_positive(query, "perPage", size), PER_PAGE_MAX))


def page_body(url: str, query: MultiMapping[str], records: Sequence[dict[str, Any]], page: Page) -> dict[str, Any]:
    """One page of `records` (all of them, in order). `url` is the list's own, without a query."""
    first = (page.number - 1) * page.size
    shown = records[first : first + page.size]
    others = [(name, value) for name, value in query.items() if name not in ("page", "perPage")]

    def link(number: int) -> dict[str, str]:
        return {"uri": f"{url}?{urlencode([*others, ('page', number), ('perPage', page.size)], safe=',:')}"}

    paging = {"page": page.number, "perPage": page.size}
    navigation = {}
    if first + page.size < len(records):
        navigation["nextPage"] = link(page.number + 1)
    if page.number > 1:
        navigation["previousPage"] = link(page.number - 1)
    navigation["firstPage"] = link(1)
    if shown:
        paging |= {"pageStart": first, "pageEnd": first + len(shown) - 1}
        navigation["lastPage"] = link(-(-len(records) // page.size))
    return {**link(page.number), "records": list(shown), "paging": paging, "navigation": navigation}


def _positive(query: MultiMapping[str], name: str, text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise invalid_parameter(name, query.get(name, text))
    return int(text)
