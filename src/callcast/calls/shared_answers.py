"""Which extensions answered in a session, over all sources: a colleague may be the extension of another credential.

Only in memory, and made again from the stored calls at start. Calls are taken in once they are stored, in any order
and any number of times: whichever of an answer and a miss comes first, the session is then named to the source of the
call that was missed (`due`), which corrects it.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from msgspec import Struct, field

from callcast.calls.model import UNASSIGNED, Call, Direction, Disposition

SESSIONS_MAX = 20_000  # the latest
NONE: frozenset[str] = frozenset()

_Key = tuple[str, str]  # account and session


class _Session(Struct):
    answered: frozenset[str] = NONE  # extension ids
    missed: dict[str, tuple[str, str]] = field(default_factory=dict)  # call id -> source, extension id


def was_answered(call: Call) -> bool:
    """By its own extension: the others that it rang did not miss the call."""
    if call.extension_id == UNASSIGNED or call.direction is not Direction.INBOUND:
        return False
    return call.answered_at is not None or call.disposition is Disposition.ANSWERED


def was_missed(call: Call) -> bool:
    return call.disposition is Disposition.MISSED and call.direction is Direction.INBOUND


class SharedAnswers:
    """Of all sources; a call whose account is not known is shared with none.

    shared: there are several sources. With one nothing is remembered, for it knows all by itself.
    """

    def __init__(self) -> None:
        self.shared = False
        self._sessions: dict[_Key, _Session] = {}
        self._due: defaultdict[str, dict[str, None]] = defaultdict(dict)  # source -> sessions to look at again

    def of(self, account_id: str | None, session_id: str) -> frozenset[str]:
        """The extensions that answered in this session."""
        session = self._sessions.get((account_id, session_id)) if account_id else None
        return session.answered if session else NONE

    def learn(self, calls: Iterable[Call]) -> None:
        """Calls as they are stored."""
        for call in calls if self.shared else ():
            if call.account_id:
                self._learn((call.account_id, call.session_id), call)

    def _learn(self, key: _Key, call: Call) -> None:
        answered, missed = was_answered(call), was_missed(call)
        session = self._sessions.pop(key, None)
        if session is None and not answered and not missed:
            return
        session = self._sessions[key] = session or _Session()  # the last one: it was touched last
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
        """Sessions of a source in which a call may read missed though another extension answered."""
        return tuple(self._due.get(source, ()))

    def corrected(self, source: str, session_id: str) -> None:
        self._due[source].pop(session_id, None)

    def make_due(self, source: str, session_id: str) -> None:
        self._due[source][session_id] = None

    def forget(self, source: str) -> None:
        """Nothing of it is corrected any more."""
        self._due.pop(source, None)
