"""Queries the call log: for one vanished call, and for all calls that ended during a gap between polls.

Facts (developers.ringcentral.com/guide/voice/call-log, and the API's description): `dateFrom` and `dateTo` filter by
the start of a call, and by default reach back 24 hours; `sessionId` cannot be combined with other filters (CLG-110);
a finished call appears after 15-30 s; a single record is returned without an envelope.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import msgspec
from yarl import URL

from callcast.calls.model import Call, CallObservation, State, Target
from callcast.ports.telemetry import Telemetry
from callcast.ringcentral.api import Reader, listed
from callcast.ringcentral.http import Answer
from callcast.ringcentral.interpret import ListPage, snapshot

PER_PAGE = "1000"
PAGES_MAX = 40
PAGE_TIMEOUT_S = 20.0
EPOCH = datetime.fromtimestamp(0, UTC)
BEGAN_BEFORE = timedelta(hours=1)  # the final record of a queue call starts before any phone rang
SHARED_SESSION_ID = "0"  # the sessionId of every conference


class CallLog:
    """Queries the call log. `url` builds a URL from a path and a query.

    The methods take `root`, the path of a target, such as `/restapi/v1.0/account/~/extension/101`.
    """

    def __init__(self, reader: Reader, url: Callable[[str, Mapping[str, str]], URL], telemetry: Telemetry) -> None:
        self._reader = reader
        self._url = url
        self._telemetry = telemetry

    async def find(self, call: Call, target: Target, root: str) -> Sequence[CallObservation]:
        """Return all observations of the call's session, using the first search key that finds any."""
        for query in _keys(call):
            answer = await self._get(f"{root}/call-log", query)
            observations = _observations([await listed(answer, target, self._telemetry)], target)
            found = _under_its_name(observations, call)
            if any(observation.session_id == call.session_id for observation in found):
                return found
        return await self._single(call, target, root)

    async def ended_since(
        self, target: Target, root: str, *, after: datetime, until: datetime
    ) -> Sequence[CallObservation]:
        """Return the finished calls that began between the two times, inclusive.

        Both bounds are given so that a call that begins meanwhile does not shift the pages.
        """
        query = {
            "view": "Detailed",
            "type": "Voice",
            "dateFrom": _iso(after),
            "dateTo": _iso(until),
            "perPage": PER_PAGE,
        }
        pages = await self._reader.pages(
            "call_log",
            self._url(f"{root}/call-log", query),
            lambda answer: listed(answer, target, self._telemetry),
            purpose="call_log",
            timeout_s=PAGE_TIMEOUT_S * PAGES_MAX,
            page_timeout_s=PAGE_TIMEOUT_S,
            pages_max=PAGES_MAX,
        )
        return [s for s in _observations(pages, target) if s.state is State.ENDED and not s.provisional]

    async def _single(self, call: Call, target: Target, root: str) -> Sequence[CallObservation]:
        path = f"{root}/call-log/{quote(call.provider.record_id, safe='')}"
        answer = await self._get(path, {"view": "Detailed"}, absent_is_fine=True)
        if answer.status == 404:
            return ()
        enveloped = Answer(200, answer.headers, b'{"records":[' + answer.body + b"]}", answer.took_s)
        found = _observations([await listed(enveloped, target, self._telemetry)], target)
        return _under_its_name(found, call)

    async def _get(self, path: str, query: Mapping[str, str], *, absent_is_fine: bool = False) -> Answer:
        return await self._reader.get(
            "call_log",
            self._url(path, query),
            purpose="call_log",
            timeout_s=PAGE_TIMEOUT_S,
            absent_is_fine=absent_is_fine,
        )


def _observations(pages: Sequence[ListPage], target: Target) -> Sequence[CallObservation]:
    """Return the observations of these pages, as a poll would. The snapshot's time is not used."""
    return snapshot(target, pages, EPOCH).observations


def _keys(call: Call) -> list[dict[str, str]]:
    """Return the filters to try, the most specific first. A session has few records, so one page is enough."""
    keys = []
    if call.session_id not in (call.provider.session_id, call.provider.record_id):
        date_from = _iso(call.started_at - BEGAN_BEFORE)
        keys.append({"view": "Detailed", "telephonySessionId": call.session_id, "dateFrom": date_from})
    if call.provider.session_id not in (None, SHARED_SESSION_ID):
        keys.append({"view": "Detailed", "sessionId": str(call.provider.session_id)})
    return keys


def _under_its_name(found: Sequence[CallObservation], call: Call) -> Sequence[CallObservation]:
    """Give found records the call's session id if they had none while the call was live.

    A record can get its telephonySessionId only at the end. A record with a different telephonySessionId is another
    call: both ends of a call to oneself share one sessionId.
    """
    if any(observation.session_id == call.session_id for observation in found):
        return found
    return tuple(
        msgspec.structs.replace(observation, session_id=call.session_id)
        if _is_nameless(observation, call)
        else observation
        for observation in found
    )


def _is_nameless(observation: CallObservation, call: Call) -> bool:
    """Whether the call or the record has no telephonySessionId, or the record is known to belong to the call."""
    return (
        call.session_id in (call.provider.session_id, call.provider.record_id)
        or observation.session_id in (observation.provider.session_id, observation.record_id)
        or observation.record_id == call.provider.record_id
    )


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
