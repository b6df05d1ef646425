"""Which extensions answered in a session, across all sources: a call missed in one may be answered in another.

Kept in memory only, and rebuilt from the stored calls at start. Calls are added after they are stored, in any order
and any number of times. As soon as a session has a missed call and an answer by another extension, it is due for
correction in the source of the missed call (`due`).
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from msgspec import Struct, field

from callcast.calls.model import UNASSIGNED, Call, Direction, Disposition

SESSIONS_MAX = 20_000  # the oldest are dropped
NONE: frozenset[str] = frozenset()

_Key = tuple[str, str]  # account and session


class _Session(Struct):
    answered: frozenset[str] = NONE  # extension ids
    missed: dict[str, tuple[str, str]] = field(default_factory=dict)  # call id -> source, extension id


def was_answered(call: Call) -> bool:
    """True when the call's own extension answered it: the other extensions that rang did not miss it."""
    if call.extension_id == UNASSIGNED or call.direction is not Direction.INBOUND:
        return False
    return call.answered_at is not None or call.disposition is Disposition.ANSWERED


def was_missed(call: Call) -> bool:
    return call.disposition is Disposition.MISSED and call.direction is Direction.INBOUND


class SharedAnswers:
    """The answers of all sources. A call whose account is not known is ignored.

    shared: true when there are several sources. With a single source nothing is stored here.
    """

    def __init__(self) -> None:
        self.shared = False
        self._sessions: dict[_Key, _Session] = {}
        self._due: defaultdict[str, dict[str, None]] = defaultdict(dict)  # source -> sessions to correct

    def of(self, account_id: str | None, session_id: str) -> frozenset[str]:
        """The extensions that answered in this session."""
        session = self._sessions.get((account_id, session_id)) if account_id else None
        return session.answered if session else NONE

    def learn(self, calls: Iterable[Call]) -> None:
        """Add calls that have been stored."""
        for call in calls if self.shared else ():
            if call.account_id:
                self._learn((call.account_id, call.session_id), call)

    def _learn(self, key: _Key, call: Call) -> None:
        answered, missed = was_answered(call), was_missed(call)
        session = self._sessions.pop(key, None)
        if session is None and not answered and not missed:
            return
        session = self._sessions[key] = (
            session or _Session()
        )  # moved to the end, so that the least recently used is dropped first
        if len(self._sessions) > SESSIONS_MAX:
            del self._sessions[next(iter(self._sessions))]
        if answered:
            session.answered |= {call.extension_id}
        session.missed.pop(call.call_id, None)
        if missed:
            session.missed[call.call_id] = (call.source, call.extension_id)
        for source, extension_id in session.missed.values():
            if session.answered - {extension_id}:
                self._due[source][call.session_id] = None

    def due(self, source: str) -> Sequence[str]:
        """Sessions of a source that may have a missed call although another extension answered."""
        return tuple(self._due.get(source, ()))

    def corrected(self, source: str, session_id: str) -> None:
        self._due[source].pop(session_id, None)

    def make_due(self, source: str, session_id: str) -> None:
        self._due[source][session_id] = None

    def forget(self, source: str) -> None:
        """Drop the sessions due for a source that was removed."""
        self._due.pop(source, None)
