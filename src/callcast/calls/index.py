"""The known calls of one source, in memory: those that are live, provisional, or still in the platform's list.

Ended calls are stored in the outbox. A session is dropped from the index when all its parts have ended and left the
platform's list; if it reappears, it is loaded again with `Outbox.recall`.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime

from callcast.calls.model import Call, CallObservation, ChangeSet, Known, PollRecord, Target
from callcast.calls.shared_answers import SharedAnswers


class CallIndex:
    """The calls of one source. Only `learn` and `apply` change it.

    answers: shared by all sources, when there are several.
    """

    def __init__(self, source: str, known: Known | None = None, answers: SharedAnswers | None = None) -> None:
        self.source = source
        self.answers = SharedAnswers() if answers is None else answers
        self._calls: dict[str, Call] = {}
        self._by_session: dict[str, dict[str, None]] = {}
        self._by_extension: dict[str, dict[str, None]] = {}
        self._pending: dict[str, None] = {}
        # The last successful poll of each target.
        self.polls: dict[Target, datetime] = dict(known.polls) if known else {}
        for call in known.calls.values() if known else ():
            if is_open(call):
                self._put(call)
        self._partly_loaded: set[str] = set(self._by_session)

    def __len__(self) -> int:
        """The number of known calls."""
        return len(self._calls)

    @property
    def is_partly_loaded(self) -> bool:
        """True while ended parts of sessions that were live at start have not been loaded."""
        return bool(self._partly_loaded)

    def sessions_to_recall(
        self, observations: Iterable[CallObservation] = (), sessions: Iterable[str] = ()
    ) -> set[str]:
        """Return the sessions to load before these observations and sessions are compared.

        They are those that are not in the index, and those that were live at start and whose ended parts have not been
        loaded.
        """
        unknown = [observation for observation in observations if observation.session_id not in self._by_session]
        names = {name for observation in unknown for name in (observation.session_id, *older_names(observation))}
        names.update(sessions)
        return (names - self._by_session.keys()) | self._partly_loaded

    def learn(self, calls: Iterable[Call]) -> None:
        """Add the recalled calls of whole sessions. A call that is in the index already is newer and stays."""
        for call in calls:
            self._partly_loaded.discard(call.session_id)
            if call.call_id not in self._calls:
                self._put(call)

    def apply(self, poll: PollRecord | None, change: ChangeSet) -> None:
        """Apply a change that has been recorded."""
        sessions: dict[str, None] = {}
        for call in change.calls:
            self._put(call)
            sessions[call.session_id] = None
        if poll is not None:
            self.polls[poll.target] = self.clamped(poll.target, poll.taken_at)
            sessions.update(dict.fromkeys(call.session_id for call in self.of(poll.target)))
        for session_id in sessions:
            if session_id not in self._partly_loaded and all(map(_is_history, self.session(session_id))):
                self._drop(session_id)

    def clamped(self, target: Target, taken_at: datetime) -> datetime:
        """Return `taken_at`, or the time of the target's last poll if that is later: poll times never go back."""
        last = self.last_poll_at(target.extension_id)
        return taken_at if last is None else max(last, taken_at)

    def last_poll_at(self, extension_id: str | None) -> datetime | None:
        """The last successful poll that could have shown this extension's calls, or calls of the account if None."""
        if extension_id is None:
            return max(self.polls.values(), default=None)
        own = self.polls.get(Target(source=self.source, extension_id=extension_id))
        whole = self.polls.get(Target(source=self.source))
        return max(own, whole) if own and whole else own or whole

    def call(self, call_id: str) -> Call | None:
        return self._calls.get(call_id)

    def live_calls(self) -> Sequence[Call]:
        """Every call that has not ended, including those with a provisional record."""
        return [call for call in self._calls.values() if is_open(call)]

    def of(self, target: Target) -> Sequence[Call]:
        """The calls that a poll of this target should show."""
        if target.extension_id is None:
            return tuple(self._calls.values())
        return [self._calls[call_id] for call_id in self._by_extension.get(target.extension_id, ())]

    def session(self, session_id: str) -> Sequence[Call]:
        return [self._calls[call_id] for call_id in self._by_session.get(session_id, ())]

    def parts(self, extension_id: str, session_id: str) -> Sequence[Call]:
        """The parts of one extension in one session, by part number."""
        found = [call for call in self.session(session_id) if call.extension_id == extension_id]
        return sorted(found, key=lambda call: part_number(call)) if len(found) > 1 else found

    def pending(self) -> Sequence[Call]:
        """The open calls that vanished from the list or whose record is provisional."""
        return [self._calls[call_id] for call_id in self._pending]

    def _put(self, call: Call) -> None:
        call_id = call.call_id
        self._calls[call_id] = call
        self._by_session.setdefault(call.session_id, {})[call_id] = None
        self._by_extension.setdefault(call.extension_id, {})[call_id] = None
        if is_open(call) and (call.vanished_at or call.provisional_since):
            self._pending[call_id] = None
        else:
            self._pending.pop(call_id, None)

    def _drop(self, session_id: str) -> None:
        for call_id in self._by_session.pop(session_id):
            call = self._calls.pop(call_id)
            siblings = self._by_extension[call.extension_id]
            del siblings[call_id]
            if not siblings:
                del self._by_extension[call.extension_id]


def older_names(observation: CallObservation) -> Sequence[str]:
    """Other ids that the session may be known under: the platform may add the session id to a record late."""
    names = (observation.provider.session_id, observation.record_id)
    return [name for name in names if name and name != observation.session_id]


def is_open(call: Call) -> bool:
    """True for a call that is live, or that waits for its provisional record to settle."""
    return call.live or call.provisional_since is not None


def is_listed_live(call: Call) -> bool:
    """True for a call that the last poll of its target listed as live."""
    return call.live and call.vanished_at is None and call.provisional_since is None


def part_number(call: Call) -> int:
    """The part number in a call id: 1 for `<extension>/<session>`, 2 for `<extension>/<session>~2`, and so on."""
    suffix = call.call_id[len(call.extension_id) + 1 + len(call.session_id) :]
    return int(suffix[1:]) if suffix else 1


def _is_history(call: Call) -> bool:
    return not is_open(call) and call.vanished_at is not None
