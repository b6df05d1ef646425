"""What is known, and what is seen now -> what changed, and what to tell. Pure.

Each function compares with a `Picture` and gives a `Change`; once that is recorded, `Picture.apply` makes it known.
The sessions concerned must have been recalled before (`Picture.unknown_sessions`, `Picture.learn`).
"""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta

from msgspec import Struct

from callcast.calls.comparison import Scene
from callcast.calls.events import Seen
from callcast.calls.index import Picture, is_listed_live, is_open
from callcast.calls.lifecycle import end, settled_as, with_facts
from callcast.calls.matching import is_final, was_over
from callcast.calls.model import UNASSIGNED, Call, Change, Disposition, Evidence, Sighting, Snapshot, Target

__all__ = ["Picture", "Rules", "diff", "fill", "give_up", "lookups", "meet", "refuse", "settle", "unwatch"]


class Rules(Struct, frozen=True, kw_only=True):
    """settle_s: a provisional record that rings one extension counts after so long. call_log_after_s: what
    vanished or stays provisional so long is looked up. vanished_give_up_s: what vanished ends as unknown then.
    """

    settle_s: float = 30.0
    call_log_after_s: float = 30.0
    vanished_give_up_s: float = 900.0


def diff(picture: Picture, snapshot: Snapshot, rules: Rules) -> Change:
    """What a complete, successful look at a target changes."""
    target = snapshot.target
    at, own = picture.clamped(target, snapshot.taken_at), target.extension_id
    after = None if own is None else picture.looked_at(own)
    scene = Scene(picture, Seen(at=at, after=after, first_look=after is None), whole=own is None)
    shown = scene.take(snapshot.sightings, settle_s=rules.settle_s)
    missing = [call for call in picture.of(target) if call.call_id not in shown]
    for call in sorted(missing, key=lambda call: call.call_id):  # one order, also after a restart
        scene.miss(call)
    return scene.change()


def settle(picture: Picture, call_id: str, sightings: Iterable[Sighting], at: datetime, rules: Rules) -> Change:
    """The call log's answer for a call that vanished or is provisional; no event while it has no final word.

    An answer that comes when the list shows the call live again is dropped.
    """
    call = picture.call(call_id)
    if call is None or not is_open(call) or is_listed_live(call):
        return Change()
    scene = Scene(picture, _seen_late(picture, call, at, Evidence.CALL_LOG))
    said = tuple(sightings)
    final = [sighting for sighting in said if is_final(sighting)]
    own = _own_word(picture, call, final) or _own_word(picture, call, [s for s in said if s.disposition])
    if own is not None:
        scene.close(call, own)
    elif call.extension_id == UNASSIGNED:
        found = [sighting for sighting in final if sighting.session_id == call.session_id]
        scene.take(found, settle_s=rules.settle_s, listed=False)
    return scene.change()


def give_up(picture: Picture, call_id: str, at: datetime) -> Change:
    """A vanished call of which the call log has no final word: it ends as its last word reads, or as unknown.

    A call that has not vanished does not give up.
    """
    call = picture.call(call_id)
    if call is None or not is_open(call) or call.vanished_at is None:
        return Change()
    evidence = Evidence.CALL_LOG if call.provisional_disposition else Evidence.VANISHED
    scene = Scene(picture, _seen_late(picture, call, at, evidence))
    scene.put(call, end(call, settled_as(call), call.vanished_at, ended_at=call.provisional_ended_at))
    return scene.change()


def fill(
    picture: Picture,
    target: Target,
    sightings: Iterable[Sighting],
    at: datetime,
    rules: Rules,
    *,
    after: datetime | None = None,
) -> Change:
    """The call log's finished calls of a time in which nobody looked; `after`: the last good look before it."""
    scene = Scene(picture, Seen(at=at, after=after, evidence=Evidence.CALL_LOG))
    own = target.extension_id
    final = [s for s in sightings if is_final(s) and (own is None or s.extension_id == own)]
    scene.take(final, settle_s=rules.settle_s, listed=False)
    return scene.change()


def refuse(picture: Picture, target: Target, since: datetime, at: datetime) -> Change:
    """The platform has refused to show a target since then: its calls end as their last word reads, or as unknown."""
    since = picture.clamped(target, since)
    scene = Scene(picture, Seen(at=at, before=since, evidence=Evidence.REFUSED), whole=True)
    for call in picture.of(target):
        if is_open(call):
            gone_at = call.vanished_at or since
            ended = end(call, settled_as(call), gone_at, ended_at=call.provisional_ended_at)
            scene.put(call, with_facts(ended, {"vanished_at": gone_at}), silent=call.sequence == 0)
    return scene.change()


def meet(picture: Picture, session_id: str, at: datetime) -> Change:
    """An extension of another source answered in this session: what was missed here was answered elsewhere."""
    looks = (picture.looked_at(call.extension_id) for call in picture.session(session_id))
    scene = Scene(picture, Seen(at=max([at, *filter(None, looks)])), whole=True)
    scene.meet(session_id)
    return scene.change()


def unwatch(picture: Picture, extension_ids: Collection[str], at: datetime) -> Change:
    """Nobody looks at these extensions any more: their calls end as unknown."""
    scene = Scene(picture, Seen(at=at, evidence=Evidence.UNWATCHED))
    for call in picture.live_calls():
        if call.extension_id in extension_ids:
            ended = end(call, Disposition.UNKNOWN, at)
            gone = with_facts(ended, {"vanished_at": call.vanished_at or at})
            scene.put(call, gone, silent=call.sequence == 0)
    return scene.change()


def lookups(picture: Picture, at: datetime, rules: Rules) -> Sequence[Call]:
    """The calls that the call log must be asked about now: vanished, or provisional, for long enough."""
    due = at - timedelta(seconds=rules.call_log_after_s)
    return [call for call in picture.pending() if (call.vanished_at or call.provisional_since or at) <= due]


def _seen_late(picture: Picture, call: Call, at: datetime, evidence: Evidence) -> Seen:
    """The two looks around the end of a vanished call are those around its vanishing."""
    if call.vanished_at is None:
        return Seen(at=at, after=picture.looked_at(call.extension_id), evidence=evidence)
    return Seen(at=at, after=call.last_seen_at, before=call.vanished_at, evidence=evidence)


def _own_word(picture: Picture, call: Call, said: Sequence[Sighting]) -> Sighting | None:
    """The record of this very part: by its id, else the one of its session nearest in time that is no other part's."""
    own = [sighting for sighting in said if sighting.extension_id == call.extension_id]
    by_id = [sighting for sighting in own if sighting.record_id in call.record_ids]
    others = {id_ for part in picture.parts(call.extension_id, call.session_id) for id_ in part.record_ids}
    mine = [s for s in own if s.session_id == call.session_id and not was_over(s, call.started_at)]
    free = [sighting for sighting in mine if sighting.record_id not in others]
    return min(by_id or free, key=lambda s: abs(s.started_at - call.started_at), default=None)
