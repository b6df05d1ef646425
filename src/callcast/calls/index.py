"""What is known of one source, in memory: the calls that are live, not yet told, or still in the platform's lists.

The memory of the ended lies on the disk. A session whose parts are all over and in no list any more is dropped
here, and fetched again (`Outbox.recall`) when it shows up again.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime

from callcast.calls.model import Call, CallObservation, ChangeSet, Known, PollRecord, Snapshot, Target
from callcast.calls.shared_answers import SharedAnswers


class CallIndex:
    """Changed by `learn` and `apply` alone; everything else only reads it.

    answers: of all sources, where there are several.
    """

    def __init__(self, source: str, known: Known | None = None, answers: SharedAnswers | None = None) -> None:
        self.source = source
        self.answers = SharedAnswers() if answers is None else answers
        self._calls: dict[str, Call] = {}
        self._by_session: dict[str, dict[str, None]] = {}
        self._by_extension: dict[str, dict[str, None]] = {}
        self._pending: dict[str, None] = {}
        self.polls: dict[Target, datetime] = dict(known.polls) if known else {}  # the last good poll of each target
        for call in known.calls.values() if known else ():
            if is_open(call):
                self._put(call)
        self._partly_loaded: set[str] = set(self._by_session)

    def __len__(self) -> int:
        """How many calls are known."""
        return len(self._calls)

    @property
    def is_partly_loaded(self) -> bool:
        """Of some sessions of the start the ended parts lie on the disk yet."""
        return bool(self._partly_loaded)

    def sessions_to_recall(
        self, observed: Snapshot | Iterable[CallObservation] = (), sessions: Iterable[str] = ()
    ) -> set[str]:
        """Sessions to recall before `observed` is compared, of `sessions`, and those of the start whose ended parts lie
        on the disk.
        """
        observations = observed.observations if isinstance(observed, Snapshot) else observed
        unknown = [observation for observation in observations if observation.session_id not in self._by_session]
        names = {name for observation in unknown for name in (observation.session_id, *older_names(observation))}
        names.update(sessions)
        return (names - self._by_session.keys()) | self._partly_loaded

    def learn(self, calls: Iterable[Call]) -> None:
        """Take in what was recalled: all calls of some sessions. What is known here already is newer."""
        for call in calls:
            self._partly_loaded.discard(call.session_id)
            if call.call_id not in self._calls:
                self._put(call)

    def apply(self, poll: PollRecord | None, change: ChangeSet) -> None:
        """The change is on the disk; from now on it is what is known."""
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
        """Time never runs backwards from one poll of an extension to the next, whatever the clocks do."""
        last = self._covered_until(target)
        return taken_at if last is None else max(last, taken_at)

    def last_poll_at(self, extension_id: str) -> datetime | None:
        """The last good poll that could have shown this extension's calls."""
        return self._covered_until(Target(source=self.source, extension_id=extension_id))

    def call(self, call_id: str) -> Call | None:
        return self._calls.get(call_id)

    def live_calls(self) -> Sequence[Call]:
        """Every call that is not over, those too whose record has not settled."""
        return [call for call in self._calls.values() if is_open(call)]

    def of(self, target: Target) -> Sequence[Call]:
        """The calls that a poll of this target should show."""
        if target.extension_id is None:
            return tuple(self._calls.values())
        return [self._calls[call_id] for call_id in self._by_extension.get(target.extension_id, ())]

    def session(self, session_id: str) -> Sequence[Call]:
        return [self._calls[call_id] for call_id in self._by_session.get(session_id, ())]

    def parts(self, extension_id: str, session_id: str) -> Sequence[Call]:
        """The parts of one extension in one session, first to last."""
        found = [call for call in self.session(session_id) if call.extension_id == extension_id]
        return sorted(found, key=lambda call: part_number(call)) if len(found) > 1 else found

    def pending(self) -> Sequence[Call]:
        """The calls that vanished, or whose record is provisional."""
        return [self._calls[call_id] for call_id in self._pending]

    def _covered_until(self, target: Target) -> datetime | None:
        """The last good poll of what the target shows, also by another way of watching it."""
        if target.extension_id is None:
            return max(self.polls.values(), default=None)
        own, whole = self.polls.get(target), self.polls.get(Target(source=self.source))
        return max(own, whole) if own and whole else own or whole

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
    """What its session was called, if its record did not always have the name that it has now."""
    names = (observation.provider.session_id, observation.record_id)
    return [name for name in names if name and name != observation.session_id]


def is_open(call: Call) -> bool:
    """Not over: live, or remembered until its provisional record settles."""
    return call.live or call.provisional_since is not None


def is_listed_live(call: Call) -> bool:
    """Live by the word of the last poll that should have shown it."""
    return call.live and call.vanished_at is None and call.provisional_since is None


def part_number(call: Call) -> int:
    """1, 2, 3 ... from `<extension>/<session>`, `~2`, `~3` ..."""
    suffix = call.call_id[len(call.extension_id) + 1 + len(call.session_id) :]
    return int(suffix[1:]) if suffix else 1


def _is_history(call: Call) -> bool:
    return not is_open(call) and call.vanished_at is not None
