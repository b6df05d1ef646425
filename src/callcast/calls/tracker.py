"""Compares what a source shows with what is known, and returns what changed. Pure.

Theory of operation: each function compares its input with a `CallIndex` and returns a `ChangeSet` of new call states
and events. It changes nothing: the caller records the change set in the outbox, and then applies it to the index with
`CallIndex.apply`. So a change that could not be recorded is found again by the next comparison. The sessions concerned
must be in the index before (`CallIndex.sessions_to_recall`, `CallIndex.learn`).

    compare          a successful poll
    resolve          the call log's records of a call that vanished or is provisional
    give_up          no final record was found in time
    fill_gap         the call log's records of a time without polls
    refuse           the platform denies access to a target
    correct_missed   an extension of another source answered the session
    unwatch          an extension is no longer watched
    due_lookups      which calls to look up in the call log
"""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta

from msgspec import Struct

from callcast.calls.comparison import Comparison
from callcast.calls.events import ObservationWindow
from callcast.calls.index import CallIndex, is_listed_live, is_open
from callcast.calls.lifecycle import end, settle, with_facts
from callcast.calls.matching import is_final, was_over
from callcast.calls.model import UNASSIGNED, Call, CallObservation, ChangeSet, Disposition, Evidence, Snapshot, Target


class Rules(Struct, frozen=True, kw_only=True):
    """Time limits, in seconds.

    settle_s: after this long a provisional record that rings only one extension is taken as final.
    call_log_after_s: a call that vanished or is provisional for this long is looked up in the call log.
    vanished_give_up_s: a call that vanished this long ago ends without a final record.
    """

    settle_s: float = 30.0
    call_log_after_s: float = 30.0
    vanished_give_up_s: float = 900.0


def compare(index: CallIndex, snapshot: Snapshot, rules: Rules) -> ChangeSet:
    """Return what a complete, successful poll of a target changes."""
    target = snapshot.target
    at, own = index.clamped(target, snapshot.taken_at), target.extension_id
    after = None if own is None else index.last_poll_at(own)
    comparison = Comparison(index, ObservationWindow(at=at, after=after, first_poll=after is None), whole=own is None)
    shown = comparison.observe(snapshot.observations, settle_s=rules.settle_s)
    missing = [call for call in index.of(target) if call.call_id not in shown]
    for call in sorted(missing, key=lambda call: call.call_id):  # the same order after a restart
        comparison.mark_missing(call)
    return comparison.change_set()


def resolve(
    index: CallIndex, call_id: str, observations: Iterable[CallObservation], at: datetime, rules: Rules
) -> ChangeSet:
    """Apply the call log's records to a call that vanished or is provisional; no event without a final record.

    Nothing changes if the platform's list shows the call live again.
    """
    call = index.call(call_id)
    if call is None or not is_open(call) or is_listed_live(call):
        return ChangeSet()
    comparison = Comparison(index, _window_of_end(index, call, at, Evidence.CALL_LOG))
    records, _ = comparison.with_unnamed(tuple(observations))
    final = [observation for observation in records if is_final(observation)]
    own = _own_record(index, call, final) or _own_record(index, call, [s for s in records if s.disposition])
    if own is not None:
        comparison.close(call, own)
    elif call.extension_id == UNASSIGNED:
        found = [observation for observation in final if observation.session_id == call.session_id]
        comparison.observe(found, settle_s=rules.settle_s, listed=False)
    return comparison.change_set()


def give_up(index: CallIndex, call_id: str, at: datetime) -> ChangeSet:
    """End a vanished call for which the call log has no final record: with its provisional disposition, or as unknown.

    A call that has not vanished stays as it is.
    """
    call = index.call(call_id)
    if call is None or not is_open(call) or call.vanished_at is None:
        return ChangeSet()
    evidence = Evidence.CALL_LOG if call.provisional_disposition else Evidence.VANISHED
    comparison = Comparison(index, _window_of_end(index, call, at, evidence))
    comparison.update(call, settle(call, call.vanished_at))
    return comparison.change_set()


def fill_gap(
    index: CallIndex,
    target: Target,
    observations: Iterable[CallObservation],
    at: datetime,
    rules: Rules,
    after: datetime | None = None,
) -> ChangeSet:
    """Apply the call log's finished calls of a time without polls. `after`: the last successful poll before it."""
    comparison = Comparison(index, ObservationWindow(at=at, after=after, evidence=Evidence.CALL_LOG))
    own = target.extension_id
    final = [s for s in observations if is_final(s) and (own is None or s.extension_id == own)]
    comparison.observe(final, settle_s=rules.settle_s, listed=False)
    return comparison.change_set()


def refuse(index: CallIndex, target: Target, since: datetime, at: datetime) -> ChangeSet:
    """End the calls of a target that the platform has denied access to since `since`.

    They end with their provisional disposition, or as unknown.
    """
    since = index.clamped(target, since)
    comparison = Comparison(index, ObservationWindow(at=at, before=since, evidence=Evidence.REFUSED), whole=True)
    for call in index.of(target):
        if is_open(call):
            gone_at = call.vanished_at or since
            ended = with_facts(settle(call, gone_at), {"vanished_at": gone_at})
            comparison.update(call, ended, silent=call.sequence == 0)
    return comparison.change_set()


def correct_missed(index: CallIndex, session_id: str, at: datetime) -> ChangeSet:
    """Correct a session in which an extension of another source answered: missed parts become answered elsewhere."""
    polls = (index.last_poll_at(call.extension_id) for call in index.session(session_id))
    comparison = Comparison(index, ObservationWindow(at=max([at, *filter(None, polls)])), whole=True)
    comparison.recheck(session_id)
    return comparison.change_set()


def unwatch(index: CallIndex, extension_ids: Collection[str], at: datetime) -> ChangeSet:
    """End the calls of extensions that are no longer watched; their disposition is unknown."""
    comparison = Comparison(index, ObservationWindow(at=at, evidence=Evidence.UNWATCHED))
    for call in index.live_calls():
        if call.extension_id in extension_ids:
            ended = with_facts(end(call, Disposition.UNKNOWN, at), {"vanished_at": call.vanished_at or at})
            comparison.update(call, ended, silent=call.sequence == 0)
    return comparison.change_set()


def due_lookups(index: CallIndex, at: datetime, rules: Rules) -> Sequence[Call]:
    """Return the calls to look up in the call log now: those that vanished or became provisional long enough ago."""
    due = at - timedelta(seconds=rules.call_log_after_s)
    return [call for call in index.pending() if (call.vanished_at or call.provisional_since or at) <= due]


def _window_of_end(index: CallIndex, call: Call, at: datetime, evidence: Evidence) -> ObservationWindow:
    """The polls around the end of a call. If it vanished: the last that showed it, and the first that did not."""
    if call.vanished_at is None:
        return ObservationWindow(at=at, after=index.last_poll_at(call.extension_id), evidence=evidence)
    return ObservationWindow(at=at, after=call.last_seen_at, before=call.vanished_at, evidence=evidence)


def _own_record(index: CallIndex, call: Call, records: Sequence[CallObservation]) -> CallObservation | None:
    """The record of this part: by its id, else the nearest in time of its session that belongs to no other part."""
    own = [observation for observation in records if observation.extension_id == call.extension_id]
    by_id = [observation for observation in own if observation.record_id in call.record_ids]
    others = {id_ for part in index.parts(call.extension_id, call.session_id) for id_ in part.record_ids}
    mine = [s for s in own if s.session_id == call.session_id and not was_over(s, call.started_at)]
    free = [observation for observation in mine if observation.record_id not in others]
    return min(by_id or free, key=lambda s: abs(s.started_at - call.started_at), default=None)
