"""Counts of live conversations, and of those since midnight: in total, by source and by extension.

The total and the sources count conversations: a session of an account counts once, however many parts it has. An
extension counts its parts. When a part changes, its conversation is evaluated again from all parts and the difference
is counted. So neither the order of updates nor a repeated update changes the result.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from callcast.calls.model import UNASSIGNED, Call, Direction, Disposition, State
from callcast.calls.sessions import session_of
from callcast.calls.summary import Counts
from callcast.ports.clock import Clock

CONVERSATIONS_MAX = 5_000  # ended ones in memory; a change of an older one is counted as a new conversation
RECENT_MAX = 500  # recently ended conversations that are counted again after a restart, because they may still change
RECENT = timedelta(minutes=30)
MISSED = (Disposition.MISSED, Disposition.VOICEMAIL, Disposition.DECLINED, Disposition.BUSY)

_Key = tuple[str, str]  # account (or source, where it is not known) and session
_Part = tuple[str, str]  # source and call id
_Scope = tuple[str, str]  # source and extension; "" means all of them
_Detail = tuple[str, str, str]  # a scope, and in an extension's scope the call id


class _Share(Struct, frozen=True, gc=False):
    """What a conversation, or a part of it, adds to a scope.

    outcome: what it counts as; None: it is not counted, not today, or not yet.
    wait_s: seconds from its start to the answer or the end; None: not known.
    """

    state: State
    waiting_since: datetime | None = None
    outcome: Literal["answered", "missed", "abandoned"] | None = None
    wait_s: float | None = None


class _DayCounts(Struct, frozen=True, array_like=True):
    """Counts since midnight, as they are stored.

    timed: answers with a known wait; speed_sum_s: the sum of these waits, in seconds.
    within: answered within the service level's limit. late: abandoned after it.
    """

    answered: int = 0
    missed: int = 0
    abandoned: int = 0
    timed: int = 0
    speed_sum_s: float = 0.0
    within: int = 0
    late: int = 0

    def plus(self, share: _Share, sign: int, sla_s: float) -> "_DayCounts":
        outcome, wait_s = share.outcome, share.wait_s
        if outcome is None:
            return self
        timed = outcome == "answered" and wait_s is not None
        in_time = wait_s is not None and wait_s <= sla_s
        return _DayCounts(
            answered=self.answered + sign * (outcome == "answered"),
            missed=self.missed + sign * (outcome == "missed"),
            abandoned=self.abandoned + sign * (outcome == "abandoned"),
            timed=self.timed + sign * timed,
            speed_sum_s=self.speed_sum_s + sign * ((wait_s or 0.0) if timed else 0.0),
            within=self.within + sign * (timed and in_time),
            late=self.late + sign * (outcome == "abandoned" and not in_time),
        )

    def __bool__(self) -> bool:
        return bool(self.answered or self.missed or self.abandoned)


class _Tally:
    """The sums of one scope."""

    def __init__(self) -> None:
        self.counts = _DayCounts()
        self.states: Counter[State] = Counter()
        self.waiting: dict[tuple[_Key, str], datetime] = {}

    def add(self, key: tuple[_Key, str], share: _Share, sign: int, sla_s: float) -> None:
        self.states[share.state] += sign
        if share.waiting_since is not None:
            if sign > 0:
                self.waiting[key] = share.waiting_since
            else:
                del self.waiting[key]
        self.counts = self.counts.plus(share, sign, sla_s)


class _Conversation:
    def __init__(self) -> None:
        self.parts: dict[_Part, Call] = {}
        self.shares: dict[_Detail, _Share] = {}
        self.live = False
        self.changed_at = datetime.min.replace(tzinfo=UTC)


class _StoredCounts(Struct, array_like=True):
    """The stored form of the counts, without the conversations that are counted again at start.

    seq: the newest event that is certainly included.
    recent: source and session of the ended conversations to count again, and of live ones that several sources see
    (other live sessions are known from their live calls).
    """

    seq: int
    day: date
    counts: list[tuple[str, str, _DayCounts]]
    recent: list[tuple[str, str]]


class DailyStatistics:
    """The counts of all scopes.

    timezone: decides when midnight is; None: this machine's timezone.
    sla_s: the service level's limit, in seconds.
    """

    def __init__(self, clock: Clock, timezone: tzinfo | None, sla_s: float) -> None:
        self._clock = clock
        self._timezone = timezone
        self._sla_s = sla_s
        self._day = self._date(clock.wall())
        self._tallies: dict[_Scope, _Tally] = {}
        self._conversations: dict[_Key, _Conversation] = {}  # the last changed at the end
        self._ended = 0  # conversations in memory that have ended

    # Updates.

    def count(self, calls: Iterable[Call]) -> None:
        """Count calls in their newest state."""
        self._reset_at_midnight()
        touched: dict[_Key, set[_Part]] = {}
        for call in calls:
            if not call.sequence:  # without an event: it ended before the first poll, or its record is provisional
                continue
            key = (call.account_id or call.source, call.session_id)
            parts = self._conversations.setdefault(key, _Conversation()).parts
            part = (call.source, call.call_id)
            known = parts.get(part)
            if known is None or known.sequence <= call.sequence:
                parts[part] = call
                touched.setdefault(key, set()).add(part)
        for key, changed in touched.items():
            self._recount(key, changed)
        self._forget_oldest()

    def forget_source(self, source: str) -> None:
        """Remove a source from the live counts."""
        for key, conversation in list(self._conversations.items()):
            gone = {part for part in conversation.parts if part[0] == source}
            for part in gone:
                del conversation.parts[part]
            if gone:
                self._recount(key, gone)
        self._tallies = {scope: tally for scope, tally in self._tallies.items() if scope[0] != source}

    def configure(self, timezone: tzinfo | None, sla_s: float) -> None:
        """Set timezone and service level. If this changes the day, only conversations in memory are counted."""
        self._timezone = timezone
        self._reset_at_midnight()
        if sla_s != self._sla_s:
            for conversation in self._conversations.values():
                for detail, share in conversation.shares.items():
                    tally = self._tallies[detail[:2]]
                    tally.counts = tally.counts.plus(share, -1, self._sla_s).plus(share, +1, sla_s)
            self._sla_s = sla_s

    # Reading.

    def counts(self, now: datetime, source: str = "", extension_id: str = "") -> Counts:
        """The counts of one scope. `now`: the platform's time, for the longest wait."""
        self._reset_at_midnight()
        tally = self._tallies.get((source, extension_id))
        if tally is None:
            return Counts()
        today = tally.counts
        since = min(tally.waiting.values(), default=None)
        answerable = today.answered + today.missed + today.late
        return Counts(
            ringing=tally.states[State.RINGING],
            dialing=tally.states[State.DIALING],
            connected=tally.states[State.CONNECTED],
            waiting=len(tally.waiting),
            longest_waiting_since=since,
            longest_wait_s=_seconds(since, now) if since else None,
            answered_today=today.answered,
            missed_today=today.missed,
            abandoned_today=today.abandoned,
            average_speed_of_answer_s=max(0.0, today.speed_sum_s / today.timed) if today.timed else None,
            service_level=today.within / answerable if answerable else None,
        )

    def extensions(self, source: str) -> list[str]:
        """The extensions of a source with counts since midnight."""
        return [scope[1] for scope, tally in self._tallies.items() if scope[0] == source and scope[1] and tally.counts]

    # Across a restart.

    def dump(self, seq: int) -> bytes:
        """Encode the counts for `restore`. `seq`: the newest event that is certainly included."""
        self._reset_at_midnight()
        recent = self._recent()
        rest = {scope: tally.counts for scope, tally in self._tallies.items()}
        sessions: set[tuple[str, str]] = set()
        for key, conversation in self._conversations.items():
            if not (conversation.live or key in recent):
                continue
            for detail, share in conversation.shares.items():
                rest[detail[:2]] = rest[detail[:2]].plus(share, -1, self._sla_s)
            sources = {source for source, _ in conversation.parts}
            if key in recent or len(sources) > 1:
                sessions |= {(source, key[1]) for source in sources}
        counts = [(*scope, counts) for scope, counts in rest.items() if counts]
        return msgspec.msgpack.encode(_StoredCounts(seq, self._day, counts, sorted(sessions)))

    def restore(self, raw: bytes) -> tuple[int, Collection[tuple[str, str]]]:
        """Load stored counts. Returns their `seq`, and source and session of the calls to count again."""
        try:
            stored = msgspec.msgpack.decode(raw, type=_StoredCounts)
        except msgspec.MsgspecError:
            return 0, ()
        self._reset_at_midnight()
        self._conversations.clear()
        self._tallies.clear()
        self._ended = 0
        if stored.day == self._day:
            for source, extension_id, counts in stored.counts:
                self._tally((source, extension_id)).counts = counts
        return stored.seq, stored.recent

    # One conversation.

    def _recount(self, key: _Key, changed: Collection[_Part]) -> None:
        """Evaluate a conversation again. `changed`: its parts that have changed."""
        conversation = self._conversations.pop(key)
        self._ended -= bool(conversation.shares) and not conversation.live
        before = conversation.shares
        # The shares of unchanged parts stay; those of sources and of the total are always made again.
        after = {detail: one for detail, one in before.items() if detail[1] and (detail[0], detail[2]) not in changed}
        if conversation.parts:
            after |= self._shares(conversation.parts, changed)
            self._conversations[key] = conversation  # at the end
        for shares, others, sign in ((before, after, -1), (after, before, +1)):
            for detail, share in shares.items():
                if others.get(detail) != share:
                    self._tally(detail[:2]).add((key, detail[2]), share, sign, self._sla_s)
        conversation.shares = after
        conversation.live = any(call.live for call in conversation.parts.values())
        conversation.changed_at = self._clock.wall()
        self._ended += bool(conversation.parts) and not conversation.live

    def _shares(self, parts: Mapping[_Part, Call], changed: Collection[_Part]) -> dict[_Detail, _Share]:
        by_source: dict[str, list[Call]] = {}
        for (source, _), call in parts.items():
            by_source.setdefault(source, []).append(call)
        shares = {(source, "", ""): self._share(calls) for source, calls in by_source.items()}
        first, *others = by_source
        shares["", "", ""] = self._share(parts.values()) if others else shares[first, "", ""]
        for source, call_id in changed:
            part = parts.get((source, call_id))
            if part is not None and part.extension_id != UNASSIGNED:
                shares[source, part.extension_id, call_id] = self._share([part])
        return shares

    def _share(self, parts: Iterable[Call]) -> _Share:
        session = session_of(parts)
        if session.direction is not Direction.INBOUND or session.internal:
            return _Share(session.state)
        outcome: Literal["answered", "missed", "abandoned"] | None = None
        at = session.ended_at
        if session.answered:
            outcome, at = "answered", session.answered_at or session.started_at
        elif session.disposition is Disposition.ABANDONED:
            outcome = "abandoned"
        elif session.disposition in MISSED:
            outcome = "missed"
        is_known = not session.answered or session.answer_known
        return _Share(
            state=session.state,
            waiting_since=session.started_at if session.state is State.RINGING and not session.answered else None,
            outcome=outcome if at is not None and self._date(at) == self._day else None,
            wait_s=_seconds(session.started_at, at) if at is not None and is_known else None,
        )

    # All conversations.

    def _tally(self, scope: _Scope) -> _Tally:
        tally = self._tallies.get(scope)
        if tally is None:
            tally = self._tallies[scope] = _Tally()
        return tally

    def _forget_oldest(self) -> None:
        """Drop the oldest ended conversations; their counts stay."""
        if self._ended <= CONVERSATIONS_MAX:
            return
        for key in [key for key, one in self._conversations.items() if not one.live][: CONVERSATIONS_MAX // 10]:
            for detail, share in self._conversations.pop(key).shares.items():
                self._tally(detail[:2]).add((key, detail[2]), replace(share, outcome=None), -1, self._sla_s)
            self._ended -= 1

    def _recent(self) -> set[_Key]:
        since = self._clock.wall() - RECENT
        recent: set[_Key] = set()
        for key, conversation in reversed(self._conversations.items()):
            if len(recent) == RECENT_MAX:
                break
            if not conversation.live and conversation.changed_at >= since:
                recent.add(key)
        return recent

    def _reset_at_midnight(self) -> None:
        """Reset the counts at midnight, except for conversations that the platform's clock puts into the new day."""
        today = self._date(self._clock.wall())
        if today == self._day:
            return
        self._day = today
        for tally in self._tallies.values():
            tally.counts = _DayCounts()
        for key, conversation in list(self._conversations.items()):
            conversation.shares = {one: replace(share, outcome=None) for one, share in conversation.shares.items()}
            times = (call.ended_at or call.answered_at or call.started_at for call in conversation.parts.values())
            if any(self._date(at) == today for at in times):
                changed_at = conversation.changed_at
                self._recount(key, list(conversation.parts))
                conversation.changed_at = changed_at

    def _date(self, at: datetime) -> date:
        return at.astimezone(self._timezone).date()


def _seconds(start: datetime, end: datetime) -> float:
    return max(0.0, (end - start).total_seconds())
