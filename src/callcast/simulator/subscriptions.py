"""Subscriptions: which event filters are granted, disabled and refused."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from callcast.simulator.answers import another_extension, api_refusal, app_permission_missing, invalid_parameter
from callcast.simulator.calls import Record
from callcast.simulator.tokens import Credential

if TYPE_CHECKING:
    from callcast.simulator.platform import Platform

FILTER = re.compile(
    r"/restapi/v1\.0/account/(?P<account>~|\d+)(?:/extension/(?P<extension>~|\d+))?"
    r"/(?P<what>telephony/sessions|presence)(?P<query>\?.*)?"
)


class Filter(Struct, frozen=True, kw_only=True):
    """An event filter with the ids that `~` stands for. `what` is telephony/sessions or presence."""

    text: str
    what: str
    detailed: bool


class Subscription(Struct, frozen=True, kw_only=True):
    """The granted filters by extension (None: the account's), and the disabled ones as the platform lists them."""

    id: str
    filters: Mapping[str | None, Sequence[Filter]]
    disabled: Sequence[Record]

    def taking(self, extension_id: str | None) -> list[Filter]:
        """The filters that take an event of an extension; of None if its party is outside the account."""
        wider = [] if extension_id is None else self.filters.get(None, ())
        return [*self.filters.get(extension_id, ()), *wider]


def subscribe(platform: "Platform", credential: Credential, subscription_id: str, wanted: object) -> Subscription:
    """Grant the wanted filters. Raises Refusal.

    A wrong filter or a missing app permission refuses the whole request. Without admin rights the filters of the
    account and of other extensions are disabled; where no filter is left, the request is refused, too.
    """
    if not isinstance(wanted, list) or not wanted:
        raise invalid_parameter("eventFilters", str(wanted))
    own, account_id, queue_ids = platform.own(credential), platform.scenario.account_id, platform.queue_ids()
    known = {"~", *platform.scenario.extension_ids(), *queue_ids}
    parsed = {str(text): FILTER.fullmatch(str(text)) for text in wanted}
    right = {text: found for text, found in parsed.items() if found and (found["extension"] or "~") in known}
    if wrong := [text for text in parsed if text not in right]:
        raise api_refusal(400, "SUB-508", f"Invalid event filters: [{', '.join(wrong)}]")
    granted: defaultdict[str | None, list[Filter]] = defaultdict(list)
    disabled: list[Record] = []
    for text, found in right.items():
        what, query = found["what"], found["query"] or ""
        extension_id = own if found["extension"] == "~" else found["extension"]
        if found["account"] not in ("~", account_id):
            raise api_refusal(403, "SUB-406", "Not allowed subscribe for events to extensions of other account")
        needed = "CallControl" if what != "presence" else "ReadPresence" if extension_id else "ReadAccounts"
        if needed not in credential.permissions:
            raise app_permission_missing(needed)
        if what == "presence" and extension_id in queue_ids:
            message = f"Presence feature is disabled for this extension type (extensionId / {text})"
            raise api_refusal(403, "SUB-402", message)
        if what == "presence" and extension_id and platform.hides_presence(extension_id, own):
            raise api_refusal(403, "SUB-403", "User disallowed to monitor his presence")
        if extension_id != own and not credential.admin:
            disabled.append({"filter": text, "reason": "CMN-404", "message": "Attempt to access another extension"})
            continue
        resolved = f"{platform.path_of(extension_id)}/{what}{query}"
        detailed = "detailedTelephonyState=true" in query
        granted[extension_id].append(Filter(text=resolved, what=what, detailed=detailed))
    if not granted:
        raise another_extension()
    return Subscription(id=subscription_id, filters=granted, disabled=disabled)
