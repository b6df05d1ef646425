"""The online check of the ways of hints, by asking: a push connection with a subscription, one reading of presence.

It costs one request each of the groups auth, medium and light. The subscription ends with its connection.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence

from yarl import URL

from callcast.ports.connectivity import ConnectivityResult, Status
from callcast.ports.upstream import PollFailed
from callcast.ringcentral.api import Reader
from callcast.ringcentral.frames import read_presences
from callcast.ringcentral.presence import BULK, DETAILED
from callcast.ringcentral.push import FILTERS_MAX
from callcast.ringcentral.push_connection import Connector, Lost, Refused
from callcast.ringcentral.settings import PRESENCE_MAX_S, PRESENCE_TOGETHER, SourceSettings, presence_interval_s

TIMEOUT_S = 4.0  # includes waiting for a slot
NAMED_MAX = 5  # extensions


async def check_push(connector: Connector, settings: SourceSettings, own_id: str) -> Sequence[ConnectivityResult]:
    """Connect and subscribe as the service does. own_id: the credential's own extension."""
    ids = _ids(settings, own_id)
    keys = [""] if settings.watch == "account" or len(ids) > FILTERS_MAX else ids
    if connector.wait_s() > TIMEOUT_S:
        detail = "this minute's token requests of the app are used up"
        return [ConnectivityResult("unasked", detail, "run the check again in a minute", "push")]
    try:
        async with asyncio.timeout(TIMEOUT_S):
            socket = await connector.connect(lambda _: None)
            try:
                kinds, refused = await connector.subscribe(socket, keys)
            finally:
                await socket.close()
    except Refused as why:
        return [_missing("push", settings, why.cause, why.fix)]
    except (Lost, PollFailed) as error:
        fix = "callcast polls until push works; check that firewalls and proxies let WebSocket connections through"
        return [ConnectivityResult("warning", error.detail, fix, "push")]
    except TimeoutError:
        return [ConnectivityResult("unasked", f"no answer within {TIMEOUT_S:g} s", "run the check again", "push")]
    whose = "the account" if "" in kinds else f"{len(kinds)} of {len(keys)} extensions"
    names = " and ".join(sorted(set(kinds.values())))
    good = ConnectivityResult("good", f"{names} events of {whose} are subscribed to", about="push")
    bad = [_missing("push", settings, f"extension {key}: {why.cause}", why.fix) for key, why in refused.items()]
    return [good, *bad[:NAMED_MAX]]


async def check_presence(
    reader: Reader, url: Callable[[str, Mapping[str, str]], URL], settings: SourceSettings, own_id: str
) -> Sequence[ConnectivityResult]:
    """Read the presence of as many extensions as one request can ask for."""
    ids = _ids(settings, own_id)
    if presence_interval_s(len(ids)) > PRESENCE_MAX_S:
        detail = f"not read, because {len(ids)} extensions are too many"
        return [ConnectivityResult("unasked", detail, about="presence")]
    asked = ids[:PRESENCE_TOGETHER]
    path = f"/restapi/v1.0/account/{settings.account}/extension/{','.join(asked)}/presence"
    accept = BULK if len(asked) > 1 else None
    try:
        answer = await reader.get("presence", url(path, DETAILED), purpose="page", timeout_s=TIMEOUT_S, accept=accept)
    except PollFailed as failure:
        return [_missing("presence", settings, failure.cause, failure.fix)]
    presences = read_presences(answer.body, asked)
    if presences is None:
        fix = "check server: the response does not come from the platform"
        return [ConnectivityResult("warning", "the answer cannot be read", fix, "presence")]
    shown = [one for one in asked if one in presences and presences[one].telephonyStatus]
    hidden = [one for one in asked if one not in shown]
    detail = f"presence of {len(shown)} of {len(asked)} extensions can be read"
    if hidden:
        more = f" and {len(hidden) - NAMED_MAX} more" if len(hidden) > NAMED_MAX else ""
        detail += f"; hidden, or not a user: {', '.join(hidden[:NAMED_MAX])}{more}"
    return [ConnectivityResult("good", detail, about="presence")]


def _ids(settings: SourceSettings, own_id: str) -> Sequence[str]:
    return list(dict.fromkeys(own_id if one == "~" else one for one in settings.extensions))


def _missing(about: str, settings: SourceSettings, cause: str, fix: str) -> ConnectivityResult:
    """Where the way is only permitted (auto), its absence is no reason for a warning."""
    status: Status = "unasked" if settings.hints == "auto" else "warning"
    return ConnectivityResult(status, f"{cause}: calls are seen by polling", fix, about)
