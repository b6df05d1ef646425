"""What is known, and what is seen now -> what changed, and what to tell. Pure.

Each function compares with a `Picture` and gives a `Change`; once that is recorded, `Picture.apply` makes it known.
The sessions concerned must have been recalled before (`Picture.unknown_sessions`, `Picture.learn`).
"""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta

from msgspec import Struct

from callcast.calls.comparison import Comparison
from callcast.calls.events import ObservationWindow
from callcast.calls.index import CallIndex, is_listed_live, is_open
from callcast.calls.lifecycle import end, settled_as, with_facts
from callcast.calls.matching import is_final, was_over
from callcast.calls.model import UNASSIGNED, Call, CallObservation, ChangeSet, Disposition, Evidence, Snapshot, Target

__all__ = [
    "CallIndex",
    "Rules",
    "compare",
    "correct_missed",
    "due_lookups",
    "fill_gap",
    "give_up",
    "refuse",
    "resolve",
    "unwatch",
]


class Rules(Struct, frozen=True, kw_only=True):
    """settle_s: a provisional record that rings one extension counts after so long. call_log_after_s: what
    vanished or stays provisional so long is looked up. vanished_give_up_s: what vanished ends as unknown then.
    """

    settle_s: float = 30.0
    call_log_after_s: float = 30.0
    vanished_give_up_s: float = 900.0


def compare(index: CallIndex, snapshot: Snapshot, rules: Rules) -> ChangeSet:
    """What a complete, successful poll of a target changes."""
    target = snapshot.target
    at, own = index.clamped(target, snapshot.taken_at), target.extension_id
    after = None if own is None else index.last_poll_at(own)
    comparison = Comparison(index, ObservationWindow(at=at, after=after, first_poll=after is None), whole=own is None)
    shown = comparison.observe(snapshot.observations, settle_s=rules.settle_s)
    missing = [call for call in index.of(target) if call.call_id not in shown]
    for call in sorted(missing, key=lambda call: call.call_id):  # one order, also after a restart
        comparison.mark_missing(call)
    return comparison.change_set()


def resolve(
    index: CallIndex, call_id: str, observations: Iterable[CallObservation], at: datetime, rules: Rules
) -> ChangeSet:
    """The call log's answer for a call that vanished or is provisional; no event while it has no final word.

    An answer that comes when the list shows the call live again is dropped.
    """
    call = index.call(call_id)
    if call is None or not is_open(call) or is_listed_live(call):
        return ChangeSet()
    comparison = Comparison(index, _window_of_end(index, call, at, Evidence.CALL_LOG))
    records = tuple(observations)
    final = [observation for observation in records if is_final(observation)]
    own = _own_record(index, call, final) or _own_record(index, call, [s for s in records if s.disposition])
    if own is not None:
        comparison.close(call, own)
    elif call.extension_id == UNASSIGNED:
        found = [observation for observation in final if observation.session_id == call.session_id]
        comparison.observe(found, settle_s=rules.settle_s, listed=False)
    return comparison.change_set()


def give_up(index: CallIndex, call_id: str, at: datetime) -> ChangeSet:
    """A vanished call of which the call log has no final word: it ends as its last word reads, or as unknown.

    A call that has not vanished does not give up.
    """
    call = index.call(call_id)
    if call is None or not is_open(call) or call.vanished_at is None:
        return ChangeSet()
    evidence = Evidence.CALL_LOG if call.provisional_disposition else Evidence.VANISHED
    comparison = Comparison(index, _window_of_end(index, call, at, evidence))
    comparison.update(call, end(call, settled_as(call), call.vanished_at, ended_at=call.provisional_ended_at))
    return comparison.change_set()


def fill_gap(
    index: CallIndex,
    target: Target,
    observations: Iterable[CallObservation],
    at: datetime,
    rules: Rules,
    *,
    after: datetime | None = None,
) -> ChangeSet:
    """The call log's finished calls of a time in which nobody looked; `after`: the last good poll before it."""
    comparison = Comparison(index, ObservationWindow(at=at, after=after, evidence=Evidence.CALL_LOG))
    own = target.extension_id
    final = [s for s in observations if is_final(s) and (own is None or s.extension_id == own)]
    comparison.observe(final, settle_s=rules.settle_s, listed=False)
    return comparison.change_set()


def refuse(index: CallIndex, target: Target, since: datetime, at: datetime) -> ChangeSet:
    """The platform has refused to show a target since then: its calls end as their last word reads, or as unknown."""
    since = index.clamped(target, since)
    comparison = Comparison(index, ObservationWindow(at=at, before=since, evidence=Evidence.REFUSED), whole=True)
    for call in index.of(target):
        if is_open(call):
            gone_at = call.vanished_at or since
            ended = end(call, settled_as(call), gone_at, ended_at=call.provisional_ended_at)
            comparison.update(call, with_facts(ended, {"vanished_at": gone_at}), silent=call.sequence == 0)
    return comparison.change_set()


def correct_missed(index: CallIndex, session_id: str, at: datetime) -> ChangeSet:
    """An extension of another source answered in this session: what was missed here was answered elsewhere."""
    polls = (index.last_poll_at(call.extension_id) for call in index.session(session_id))
    comparison = Comparison(index, ObservationWindow(at=max([at, *filter(None, polls)])), whole=True)
    comparison.recheck(session_id)
    return comparison.change_set()


def unwatch(index: CallIndex, extension_ids: Collection[str], at: datetime) -> ChangeSet:
    """Nobody looks at these extensions any more: their calls end as unknown."""
    comparison = Comparison(index, ObservationWindow(at=at, evidence=Evidence.UNWATCHED))
    for call in index.live_calls():
        if call.extension_id in extension_ids:
            ended = end(call, Disposition.UNKNOWN, at)
            gone = with_facts(ended, {"vanished_at": call.vanished_at or at})
            comparison.update(call, gone, silent=call.sequence == 0)
    return comparison.change_set()


def due_lookups(index: CallIndex, at: datetime, rules: Rules) -> Sequence[Call]:
    """The calls that the call log must be asked about now: vanished, or provisional, for long enough."""
    due = at - timedelta(seconds=rules.call_log_after_s)
    return [call for call in index.pending() if (call.vanished_at or call.provisional_since or at) <= due]


def _window_of_end(index: CallIndex, call: Call, at: datetime, evidence: Evidence) -> ObservationWindow:
    """The two polls around the end of a vanished call are those around its vanishing."""
    if call.vanished_at is None:
        return ObservationWindow(at=at, after=index.last_poll_at(call.extension_id), evidence=evidence)
    return ObservationWindow(at=at, after=call.last_seen_at, before=call.vanished_at, evidence=evidence)


def _own_record(index: CallIndex, call: Call, records: Sequence[CallObservation]) -> CallObservation | None:
    """The record of this very part: by its id, else the one of its session nearest in time that is no other part's."""
    own = [observation for observation in records if observation.extension_id == call.extension_id]
    by_id = [observation for observation in own if observation.record_id in call.record_ids]
    others = {id_ for part in index.parts(call.extension_id, call.session_id) for id_ in part.record_ids}
    mine = [s for s in own if s.session_id == call.session_id and not was_over(s, call.started_at)]
    free = [observation for observation in mine if observation.record_id not in others]
    return min(by_id or free, key=lambda s: abs(s.started_at - call.started_at), default=None)
