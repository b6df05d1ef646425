"""Decides which target is polled when. Pure: every method is given the time, in seconds of a clock that only grows.

Without hints the polls of all targets lie evenly in the interval that the rate limit allows. With hints a target is
polled when a hint says that something happens there, and otherwise only now and then (keep-alives), because hints may
be lost. How far they are trusted is measured by what polls show; a source, or a target, whose hints are lost too often
is polled evenly as without hints, and hints only bring its polls forward.

The rate limit's window has a limited number of places. The fuller it is, the further apart the polls are, so that a
quiet source answers a hint at once and a busy one is polled evenly.
"""

import heapq
import math
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Struct

from callcast.calls.model import PollHint, Snapshot, Target
from callcast.polling.hints import (
    AGAIN_S,
    END_SHOWN_S,
    ENDED,
    STARTED,
    TOGETHER_S,
    Expectations,
    MissRate,
    Offsets,
    Party,
)
from callcast.ports.hints import KEEP_ALIVE_S, WITNESSED_S, Hint, Hints, HintsChange, Via
from callcast.ports.telemetry import Cause, Telemetry
from callcast.ports.upstream import Places

PLACE_S = 61.0  # how long a request counts, after its answer
WISHED_S = 30.0  # while places are free
WISHED_LIVE_S = 12.0  # with a live call
WISHED_AGAIN_S = 2.0  # how soon a wish that waits for free places is examined again
OVERDUE = 0.4  # of its interval: a keep-alive later than this goes first, so that it is sent before half of it passed
GAP_S = 5.0  # after an interval plus this long without a good poll, whole calls may have been missed
LISTED_S = 115.0  # a list shows a call that ended for 120 s
JUDGED_AFTER_S = 3.0  # a hint that comes so long after the poll that showed its step was no miss
SESSIONS_MAX = 1000  # sessions whose first ringing target is remembered

# The order of polls that are due.
_OVERDUE, _HINTED, _HINTED_END, _DUE, _DOUBTFUL, _WISHED = range(6)
_BEHIND = 10  # added for a target that holds half of the places


class Poll(Struct, frozen=True):
    """A poll to send now. `due`: since when it was due. `paced`: it keeps to the even grid of the rate limit. `hint`:
    what caused it.
    """

    target: Target
    cause: Cause
    due: float
    sent_at: float
    paced: bool
    hint: PollHint | None = None


class _TargetState(Struct, eq=False):
    """due: of the next keep-alive, or of the next poll of the even grid. `interval_s`: as when that was set.

    outdated: the poll in flight may not show what hints announce from now on.
    unanswered: since when the oldest poll was due that did not succeed, and none after it; infinite: none.
    not_before: the platform denies access, or the last poll failed.
    covered_since: since when a step would be hinted; infinite while it would not.
    """

    target: Target
    index: int
    due: float
    interval_s: float
    expected: Expectations
    misses: MissRate
    sent_at: float = -math.inf
    unanswered: float = math.inf
    polling: bool = False
    refused: bool = False
    failed: bool = False
    outdated: bool = False
    not_before: float = -math.inf
    witnessed: bool = False
    covered_since: float = math.inf
    places: deque[float] = deque()  # when each of its requests stops counting

    @property
    def due_at(self) -> float:
        """As `due`; a hint for which no poll was made late enough makes it due while the list must show a call."""
        return min(self.due, self.expected.unchecked_since + KEEP_ALIVE_S)


class Scheduler:
    """The schedule of one source.

    interval_s: seconds between two polls of a target; None: as short as the rate limit allows.
    """

    def __init__(
        self, targets: Sequence[Target], *, interval_s: float | None, hints: Hints | None, telemetry: Telemetry
    ) -> None:
        self._interval_s = interval_s
        self._hints = hints
        self._telemetry = telemetry
        self._states = {
            target: _TargetState(target, n, 0.0, 0.0, Expectations(), MissRate(0.2, 0.45, 0.2), places=deque())
            for n, target in enumerate(targets)
        }
        self._shown = len(self._states)  # targets that are not refused
        self._heap: list[tuple[float, int, _TargetState]] = []  # while no hints come: due, tie-break, state
        self._pushed = 0
        self._last_sent = -math.inf
        self._in_flight = 0
        self._places: deque[float] = deque()  # when each request stops counting
        self._even = False  # the window is nearly full: polls are spacing_s apart
        self._silent_since: float | None = None
        self.offsets = Offsets()
        self.misses = MissRate(0.05, 0.15, 0.075)
        self._up: set[Via] = set()
        self._trusted = False
        self._judged: deque[tuple[float, _TargetState, str, str, int]] = deque()  # at, target, session, extension, step
        self._first_ringing: OrderedDict[str, tuple[Target, float]] = OrderedDict()  # by session

    @property
    def up(self) -> bool:
        """Whether hints come now by any way."""
        return bool(self._up)

    # The plan

    def plan_s(self, spacing_s: float) -> float:
        """Seconds between two polls of a target without hints, as the rate limit currently allows."""
        return max(self._interval_s or 0.0, spacing_s * max(1, self._shown))

    @property
    def promised_s(self) -> float:
        """The longest time after which a target is due again without any hint."""
        shown = [state.interval_s for state in self._states.values() if not state.refused]
        return max(shown, default=0.0)

    def is_gap(self, target: Target, passed_s: float, now: float, spacing_s: float) -> bool:
        """Whether whole calls may have been missed in the `passed_s` seconds since the target's last good poll: it was
        not polled for longer than planned. With hints: nor for longer than lists show calls that ended, and presence
        was not read, or announced something that no poll was made for. Asked of a poll after `succeeded`.
        """
        plan_s, state = self.plan_s(spacing_s), self._states[target]
        if self._hints is None:
            return passed_s > max(plan_s, state.interval_s) + GAP_S
        if passed_s > LISTED_S and (since := self._hints.witnessed_since(target)) is not None:
            passed_s = max(passed_s - (now - since), now - state.expected.unchecked_until_poll)
        return passed_s > max(plan_s + GAP_S, LISTED_S)

    def due(self, target: Target) -> float:
        return self._states[target].due

    def waiting_since(self, now: float) -> Mapping[Target, float] | None:
        """The targets that are not quiet by plan, each with the time from when on a good poll is missing. None without
        hints: the last good poll.
        """
        if self._hints is None:
            return None
        waiting = {}
        for state in self._states.values():
            due = min(state.due_at, state.unanswered)
            due -= state.interval_s if self._unhinted_cause(state) == "poll" else 0.0
            if due < now:
                waiting[state.target] = due
        return waiting

    def start(self, now: float, spacing_s: float) -> None:
        """Spread the first polls of all targets over the interval."""
        plan_s = self.plan_s(spacing_s)
        gap_s = plan_s / max(1, len(self._states))
        for state in self._states.values():
            state.due, state.interval_s = now + state.index * gap_s, plan_s
            self._push(state)

    def _push(self, state: _TargetState) -> None:
        if not self._up:
            self._pushed += 1  # the order of polls that are due at the same time
            heapq.heappush(self._heap, (state.due, self._pushed, state))

    def _keep_alive_s(self, state: _TargetState, plan_s: float) -> float:
        if self._unhinted_cause(state) == "poll":
            return plan_s
        longest_s = WITNESSED_S if state.witnessed else KEEP_ALIVE_S
        return max(plan_s, min(longest_s, self._interval_s or math.inf))

    # Hints

    def hint(self, hint: Hint) -> None:
        self._telemetry.hint_reported(hint)
        state = self._states.get(hint.target)
        if state is None:
            self._telemetry.hints_ignored("unwatched")
            return
        if hint.extension_id is None and hint.target.extension_id is not None:
            hint = msgspec.structs.replace(hint, extension_id=hint.target.extension_id)
        level = ENDED if hint.step == "ended" else STARTED if hint.step == "started" else STARTED + 1
        expect = level != STARTED or self._rings_first(hint)
        new = state.expected.hinted(hint, self.offsets[level], expect=expect)
        if not new:
            self._telemetry.hints_ignored("duplicate" if new is None else "no_change")

    def _rings_first(self, hint: Hint) -> bool:
        """Of the targets that a session rings at the same time only the first is polled at once: a ring group would
        fill the window.
        """
        first, at = self._first_ringing.get(hint.session_id, (hint.target, hint.at))
        if first != hint.target and hint.at - at <= TOGETHER_S:
            return False
        self._first_ringing[hint.session_id] = hint.target, hint.at
        if len(self._first_ringing) > SESSIONS_MAX:
            self._first_ringing.popitem(last=False)
        return True

    def change(self, change: HintsChange, places: Places) -> None:
        """Hints come from now on, or may be lost from now on: unless none was lost, every target is due now."""
        was_up = bool(self._up)
        if change.state == "lost":
            self._up.discard(change.via)
        else:
            if not was_up and change.state == "up":
                self.misses.reset()
            self._up.add(change.via)
        self._review_cover(change.at, places)
        if change.state != "recovered":
            for state in self._states.values():
                if not state.refused:
                    state.due = min(state.due, change.at)
                state.outdated = state.polling
        if was_up and not self._up:
            for state in sorted(self._states.values(), key=lambda state: (state.due, state.sent_at)):
                if not state.polling:
                    self._push(state)
        elif self._up:
            self._heap.clear()

    def review(self, now: float, places: Places) -> None:
        """The work of every second: judge what polls have shown, drop what has expired, follow the hints' coverage."""
        if self._hints is None:
            return
        while self._judged and self._judged[0][0] <= now:
            _, state, session_id, extension_id, level = self._judged.popleft()
            missed = not state.expected.was_hinted(session_id, extension_id, level)
            mute = [one.misses.too_many for one in self._states.values()]
            if not state.misses.too_many or all(mute):  # a mute target says nothing of the others
                self.misses.add(missed)
            state.misses.add(missed)
            if missed:
                self._telemetry.hint_missed()
        if self._silent_since is None:
            for state in self._states.values():
                state.expected.expire(now)
        self._review_cover(now, places)

    def _review_cover(self, now: float, places: Places) -> None:
        hints = self._hints
        if hints is None:
            return
        trusted = bool(self._up) and not self.misses.too_many
        if trusted != self._trusted:
            self._trusted = trusted
            self._telemetry.hints_trusted(trusted=trusted, deaf=self.misses.too_many)
        plan_s = self.plan_s(places.spacing_s)
        for state in self._states.values():
            state.witnessed = hints.witnessed_since(state.target) is not None
            if not hints.covers(state.target):
                state.covered_since = math.inf
            elif state.covered_since == math.inf:
                state.covered_since = now
            interval_s = self._keep_alive_s(state, plan_s)
            # A poll that failed, or is in flight, decides itself when the next one is due.
            if interval_s != state.interval_s and state.unanswered == math.inf and not state.refused:
                moved = state.due + interval_s - state.interval_s
                state.due = max(moved, min(state.due, now))  # so far it was quiet by plan
                state.interval_s = interval_s

    # Polls

    def next(self, now: float, places: Places, hold_s: float = 0.0) -> Poll | float:
        """Return the poll to send now, or the seconds until there may be one. `hold_s`: until requests may be sent."""
        if hold_s > 0:
            self._silent_since = now if self._silent_since is None else self._silent_since
            return hold_s
        if self._silent_since is not None:
            for state in self._states.values():
                state.expected.postpone_expiry(now - self._silent_since)
            self._silent_since = None
        return self._next_hinted(now, places) if self._up else self._next_even(now)

    def _next_even(self, now: float) -> Poll | float:
        if not self._heap:
            return math.inf
        if (due := self._heap[0][0]) > now:
            return due - now
        _, _, state = heapq.heappop(self._heap)
        return self._send(state, "poll", due, now)

    def _next_hinted(self, now: float, places: Places) -> Poll | float:
        if (wait_s := self._pause_s(now, places)) > 0:
            return min(wait_s, AGAIN_S)
        best: tuple[tuple[int, float, float, int], _TargetState, Cause, Party | None] | None = None
        later = math.inf
        for state in self._states.values():
            if state.polling:
                continue
            if state.not_before > now:
                later = min(later, state.not_before)
                continue
            rank, due, cause, hinted = self._candidate(state, now, places)
            if due > now:
                later = min(later, due)
                continue
            if rank != _OVERDUE and self._holds_half(state, now, places.limit):
                rank += _BEHIND
            order = (rank, due, state.sent_at, state.index)
            if best is None or order < best[0]:
                best = order, state, cause, hinted
        if best is None:
            return later - now
        order, state, cause, hinted = best
        if cause == "poll" and (wait_s := self._pause_s(now, places, even=True)) > 0:
            return min(wait_s, AGAIN_S)
        return self._send(state, cause, order[1], now, hinted)

    def _candidate(self, state: _TargetState, now: float, places: Places) -> tuple[int, float, Cause, Party | None]:
        """The most important poll of a target that is due; if none is, the one that is due first. With the party that
        was hinted, if a hint is the cause.
        """
        free, limit = places.limit - places.used, places.limit
        rank, due, cause = _DUE, state.due_at, self._unhinted_cause(state)
        if now - due > OVERDUE * state.interval_s:
            return _OVERDUE, due, cause, None
        if due > now and cause == "keep_alive" and state.sent_at > -math.inf:
            wished = state.sent_at + (WISHED_LIVE_S if state.expected.is_live else WISHED_S)
            if free * 8 <= limit * 5:
                wished = max(wished, now + WISHED_AGAIN_S)
            if wished < due:
                rank, due = _WISHED, wished
        hinted = None
        for party in state.expected.open.values():
            at = party.due_at(now, scarce=free * 2 <= limit)
            own = _HINTED_END if party.level == ENDED else _HINTED
            own = _DOUBTFUL if state.expected.expired.too_many else own
            if (own, at) < (rank, due) if at <= now and due <= now else at < due:
                rank, due, cause, hinted = own, at, "follow_up" if party.tries else "hint", party
        return rank, due, cause, hinted

    def _unhinted_cause(self, state: _TargetState) -> Cause:
        """Why the target is polled when no hint says so."""
        relies_on_hints = self._trusted and state.covered_since < math.inf and not state.misses.too_many
        return "keep_alive" if relies_on_hints else "poll"

    def _holds_half(self, state: _TargetState, now: float, limit: int) -> bool:
        _forget(state.places, now)
        return len(state.places) * 2 >= limit and self._shown > 1

    def _pause_s(self, now: float, places: Places, *, even: bool = False) -> float:
        """Seconds until the next poll may be sent: the fuller the window, the longer after the last one."""
        if places.used * 8 >= places.limit * 7:
            self._even = True
        elif places.used * 8 <= places.limit * 6:
            self._even = False
        _forget(self._places, now)
        share = 1.0 if even or self._even else (places.used / places.limit) ** 3
        at: float = self._last_sent + share * places.spacing_s
        most = max(1, int(PLACE_S / places.spacing_s))  # of ours; what others take is in the spacing
        if self._in_flight + len(self._places) >= most:
            at = max(at, self._places[0] if self._places else now + AGAIN_S)
        return at - now

    def _send(self, state: _TargetState, cause: Cause, due: float, now: float, hinted: Party | None = None) -> Poll:
        state.polling = True
        state.unanswered = min(state.unanswered, due)
        self._last_sent = now
        self._in_flight += 1
        hint = None if hinted is None else PollHint(via=hinted.via, seconds_before=now - hinted.hinted_at)
        return Poll(state.target, cause, due, now, paced=not self._up, hint=hint)

    def succeeded(self, poll: Poll, snapshot: Snapshot, now: float) -> None:
        """Note what a poll shows, when it is answered."""
        state = self._states[poll.target]
        self._set_refused(state, refused=False)
        before, state.sent_at, state.unanswered = state.sent_at, poll.sent_at, math.inf
        if self._hints is None:
            return
        self._free(state, now)
        served, steps = state.expected.polled(snapshot.observations, poll.sent_at, now)
        for one in served:
            self._telemetry.hint_seen(now - one.hinted_at)
            if one.hit is not None:
                self.offsets.learn(one.level, hit=one.hit)
        if before >= state.covered_since + END_SHOWN_S:  # so it had shown all that no hint could announce
            self._judged.extend((now + JUDGED_AFTER_S, state, *step) for step in steps)

    def failed(self, poll: Poll, now: float, *, refused: bool = False) -> None:
        """Note a failed poll. `refused`: the platform denies access to the target."""
        state = self._states[poll.target]
        self._set_refused(state, refused=refused)
        state.failed = True
        if self._hints is not None:
            self._free(state, now)

    def _free(self, state: _TargetState, now: float) -> None:
        """The poll's request is answered: its place is free some time later."""
        state.places.append(now + PLACE_S)
        self._places.append(now + PLACE_S)

    def _set_refused(self, state: _TargetState, *, refused: bool) -> None:
        self._shown += state.refused - refused
        state.refused = refused

    def reschedule(self, poll: Poll, now: float, places: Places, *, wait_s: float = 0.0) -> int:
        """Schedule the target's next poll, after one was answered or failed and is recorded.

        wait_s: how long the target must not be polled. Returns how many polls were skipped, because this one was slow.
        """
        state, plan_s = self._states[poll.target], self.plan_s(places.spacing_s)
        failed, state.failed, state.polling = state.failed, False, False
        outdated, state.outdated = state.outdated, False
        self._in_flight -= 1
        state.interval_s = plan_s if failed else self._keep_alive_s(state, plan_s)
        if failed:  # not faster than evenly: what a hint announced is still expected
            state.not_before = max(now + wait_s, poll.sent_at + places.spacing_s)
        skipped = int(max(0.0, now + wait_s - poll.due) // state.interval_s)
        if state.refused:
            state.due = now + wait_s
        elif poll.cause == "poll":  # at the same offset in the interval
            state.due = poll.due + (skipped + 1) * state.interval_s
        else:
            state.due = max(poll.sent_at + state.interval_s, now + wait_s)
        if outdated and not failed:
            state.due = now
        self._push(state)
        if wait_s:
            return 0
        return skipped if poll.paced else int((now - poll.sent_at) // state.interval_s)


def _forget(places: deque[float], now: float) -> None:
    while places and places[0] <= now:
        places.popleft()
