"""What hints make the scheduler expect of a target's list, and how far they are trusted. Pure: time is a parameter.

A hint becomes an expectation: a poll, made when the list has probably caught up, should show the step. How late the
list is, is learned (`Offsets`). Whether hints announce what polls show is measured (`MissRate`).
"""

import math
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from msgspec import Struct

from callcast.calls.model import UNASSIGNED, CallObservation, State
from callcast.ports.hints import STEPS, Hint, Step, Via

EXPECTED_MAX = 64  # expectations of a target; the oldest gives way
PARTIES_MAX = 1000  # parties of a target that are remembered; the least recently hinted is forgotten
EXPIRES_S = 120.0
TRIES_MAX = 3  # after so many polls that did not show it, an expectation waits for the next poll of the target
RETRY_S = 0.8  # x 1.6 after each try: 1.3, 2, 3.3 s
RETRY_GROWTH = 1.6
END_SHOWN_S = 10.3  # documented: the list shows an end within 10 s, and a hint takes a moment
END_GROWTH = 1.35  # of the hint's age, from one try before that to the next
END_RETRY_S = 3.0
END_RETRY_GROWTH = 1.5
TEACHES_S = 1.0  # a first try made later than this after its due time says nothing about the offset
AGAIN_S = 0.5  # how soon what waits for free places is examined again
TOGETHER_S = 8.0  # parties of a session that are hinted as started within this ring at the same time

_LEVELS: Mapping[Step, int] = {step: level for level, step in enumerate(STEPS, 1)}
STARTED, ANSWERED, ENDED = _LEVELS.values()
_SHOWN = {State.RINGING: STARTED, State.DIALING: STARTED, State.CONNECTED: ANSWERED, State.ENDED: ENDED}


class Offsets:
    """Seconds from a hint to the first poll for it, for each level: about as late as the list is."""

    START_S = (0.8, 0.8, 6.5)
    STARTS_WITHIN_S = 0.2, 10.0
    ENDS_WITHIN_S = 1.0, END_SHOWN_S
    SLOW_S = 1.5  # an offset above this comes down after fewer hits in a row

    def __init__(self) -> None:
        self._seconds = dict(zip((STARTED, ANSWERED, ENDED), self.START_S, strict=True))
        self._hits = {STARTED: 0, ANSWERED: 0}  # in a row

    def __getitem__(self, level: int) -> float:
        return self._seconds[level]

    def learn(self, level: int, *, hit: bool) -> None:
        """A first try showed the step (`hit`), or a later poll did. Nine of ten starts and answers come to be hit, and
        half of the ends, because the platform's delay of an end varies by seconds.
        """
        if level == ENDED:
            self._change(level, 0.95 if hit else 1.04, self.ENDS_WITHIN_S)
            return
        hits = self._hits[level] = self._hits[level] + 1 if hit else 0
        has_come_down = hits > (8 if self._seconds[level] > self.SLOW_S else 20)
        self._change(level, (0.85 if has_come_down else 0.97) if hit else 1.3, self.STARTS_WITHIN_S)

    def _change(self, level: int, factor: float, within: tuple[float, float]) -> None:
        least, most = within
        self._seconds[level] = min(most, max(least, factor * self._seconds[level]))


class MissRate:
    """A moving average of misses, compared with two thresholds: too many from the upper one until below the lower."""

    def __init__(self, weight: float, upper: float, lower: float) -> None:
        self.rate = 0.0
        self.too_many = False
        self._weight, self._upper, self._lower = weight, upper, lower

    def add(self, missed: bool) -> None:
        self.rate += self._weight * (missed - self.rate)
        self.too_many = self.rate > (self._lower if self.too_many else self._upper)

    def reset(self) -> None:
        self.rate, self.too_many = 0.0, False


class Shown(Struct, frozen=True):
    """What a list shows of an extension in a session: how far its latest call is, and by which record."""

    level: int
    record_id: str
    answered: bool


class Party(Struct, eq=False):
    """What was hinted of one party: the highest step, and the expectation that it made, if that is still open.

    earlier: the records of earlier calls of the same extension and session, which say nothing of this one.
    first_due, due: when the first and the next try are due; infinite once the tries are used up.
    """

    session_id: str
    party_id: str | None
    extension_id: str | None
    level: int
    hinted_at: float
    via: Via
    earlier: frozenset[str] = frozenset()
    expires_at: float = 0.0
    first_due: float = 0.0
    due: float = 0.0
    tries: int = 0
    late_tries: int = 0  # of an end: those after `END_SHOWN_S`
    first_missed: bool = False

    def due_at(self, now: float, *, scarce: bool) -> float:
        """When the next try is due. `scarce`: places are short, so an end is not polled for before it must be shown."""
        if scarce and self.level == ENDED and not self.late_tries:
            return max(self.due, min(self.hinted_at + END_SHOWN_S, now + AGAIN_S))
        return self.due

    def tried(self, sent_at: float, answered_at: float, tries_max: int) -> None:
        """A poll did not show the step."""
        if sent_at < self.first_due:
            return
        self.first_missed = self.first_missed or (self.tries == 0 and sent_at <= self.first_due + TEACHES_S)
        self.tries += 1
        age_s = sent_at - self.hinted_at
        if self.level == ENDED and age_s >= END_SHOWN_S:
            self.late_tries += 1
            counted, pause_s = self.late_tries, END_RETRY_S * END_RETRY_GROWTH ** (self.late_tries - 1)
        else:
            counted, pause_s = self.tries, RETRY_S * RETRY_GROWTH**self.tries
        if self.level == ENDED and age_s < END_SHOWN_S:
            used_up = tries_max < TRIES_MAX
            self.due = self.hinted_at + min(END_SHOWN_S, END_GROWTH * age_s)
        else:
            used_up = counted >= tries_max
            self.due = answered_at + pause_s
        if used_up:
            self.due = math.inf


class Served(Struct, frozen=True):
    """An expectation that a poll has met. `hit`: by its first try, in time to teach; None: it teaches nothing."""

    level: int
    hinted_at: float
    hit: bool | None


class Expectations:
    """What was hinted of one target's calls, and what its list has shown of them.

    `expired`: how many of the expectations no poll has met.
    """

    def __init__(self) -> None:
        self.expired = MissRate(0.2, 0.3, 0.3)
        self.open: dict[tuple[str, str | None, str | None], Party] = {}
        self._parties: OrderedDict[tuple[str, str | None, str | None], Party] = OrderedDict()
        self._by_session: dict[str, list[Party]] = {}
        self._shown: dict[tuple[str, str], Shown] | None = None  # by the last list; None: there was none
        # Extensions that a list has shown, and (false) those of which an expectation expired although polls were made:
        # probably queues, whose calls the account's list shows only as those of their agents.
        self._listed: dict[str, bool] = {}
        self.is_live = False  # the last list shows a live call
        # The oldest hint that no poll followed late enough for the list to show it; and as it was at the last poll.
        self.unchecked_since = self.unchecked_until_poll = math.inf

    # Hints

    def hinted(self, hint: Hint, offset_s: float, *, expect: bool) -> bool | None:
        """Note a hint. True: the list has not shown it; False: it has; None: it says nothing new of its party.

        expect: make an expectation of it where the list has not shown it.
        """
        level = _LEVELS[hint.step]
        party = self._party(hint, level)
        if party is not None and party.level >= level:
            return None
        if party is None:
            party = self._remember(hint, level)
        party.level, party.hinted_at, party.via = level, hint.at, hint.via
        self.unchecked_since = min(self.unchecked_since, hint.at)
        if _level_of(party, self._shown or {}) >= level:
            self.open.pop(_key(party), None)
            return False
        is_listed = hint.target.extension_id is not None or self._listed.get(hint.extension_id or "", True)
        if expect and is_listed:
            self._expect(party, offset_s)
        return True

    def _expect(self, party: Party, offset_s: float) -> None:
        party.expires_at = party.hinted_at + EXPIRES_S
        party.first_due = party.due = party.hinted_at + offset_s
        party.tries = party.late_tries = 0
        party.first_missed = False
        self.open[_key(party)] = party
        if len(self.open) > EXPECTED_MAX:
            del self.open[min(self.open, key=lambda key: self.open[key].hinted_at)]

    def _party(self, hint: Hint, level: int) -> Party | None:
        """The party of a hint. One without an id is the latest of its extension in the session, unless it is over."""
        found = None
        for party in self._by_session.get(hint.session_id, ()):
            if party.extension_id != hint.extension_id:
                continue
            if party.party_id == hint.party_id and party.party_id is not None:
                return party
            if (party.party_id is None or hint.party_id is None) and (party.level < ENDED or level == ENDED):
                found = party
        return found

    def _remember(self, hint: Hint, level: int) -> Party:
        party = Party(hint.session_id, hint.party_id, hint.extension_id, level, hint.at, hint.via)
        of_session = self._by_session.setdefault(hint.session_id, [])
        is_later = any(other.extension_id == hint.extension_id for other in of_session)
        shown = _shown_of(party, self._shown or {})
        party.earlier = frozenset(one.record_id for one in shown if is_later or one.level == ENDED > level)
        of_session.append(party)
        if (replaced := self._parties.pop(_key(party), None)) is not None:
            of_session.remove(replaced)
        self._parties[_key(party)] = party
        if len(self._parties) > PARTIES_MAX:
            key, oldest = self._parties.popitem(last=False)
            self.open.pop(key, None)
            self._by_session[oldest.session_id].remove(oldest)
            if not self._by_session[oldest.session_id]:
                del self._by_session[oldest.session_id]
        return party

    def was_hinted(self, session_id: str, extension_id: str, level: int) -> bool:
        return any(
            party.level >= level and (party.extension_id in (None, extension_id) or extension_id == UNASSIGNED)
            for party in self._by_session.get(session_id, ())
        )

    def expire(self, now: float) -> None:
        for key, party in [one for one in self.open.items() if one[1].expires_at <= now]:
            del self.open[key]
            self.expired.add(True)
            if party.extension_id is not None and party.tries:
                self._listed.setdefault(party.extension_id, False)

    def postpone_expiry(self, seconds: float) -> None:
        for party in self.open.values():
            party.expires_at += seconds

    # Polls

    def polled(
        self, observations: Iterable[CallObservation], sent_at: float, answered_at: float
    ) -> tuple[list[Served], list[tuple[str, str, int]]]:
        """Compare a list with what was expected. Returns the expectations that it meets, and the steps that no list has
        shown before, as (session, extension, level); none for the first list, which shows what was before.
        """
        before, self._shown = self._shown, _shown(observations)
        self._listed.update((extension_id, True) for _, extension_id in self._shown)
        self.is_live = any(one.level < ENDED for one in self._shown.values())
        self.unchecked_until_poll = self.unchecked_since
        if sent_at >= self.unchecked_since + END_SHOWN_S:
            self.unchecked_since = math.inf
        served = [party for party in self.open.values() if self._is_met(party, before or {})]
        for party in served:
            del self.open[_key(party)]
            self.expired.add(False)
        tries_max = 1 if self.expired.too_many else TRIES_MAX
        for party in self.open.values():
            party.tried(sent_at, answered_at, tries_max)
        steps = [] if before is None else list(_new_steps(before, self._shown))
        return [_served(party, sent_at) for party in served], steps

    def _is_met(self, party: Party, before: Mapping[tuple[str, str], Shown]) -> bool:
        level = _level_of(party, self._shown or {})
        is_gone = not level and party.level == ENDED and _level_of(party, before)  # its absence also shows an end
        return level >= party.level or bool(is_gone)


def _level_of(party: Party, shown: Mapping[tuple[str, str], Shown]) -> int:
    """How far a list shows the party; 0: not at all."""
    return max((one.level for one in _shown_of(party, shown)), default=0)


def _shown_of(party: Party, shown: Mapping[tuple[str, str], Shown]) -> Sequence[Shown]:
    if party.extension_id is None:
        found = [one for (session_id, _), one in shown.items() if session_id == party.session_id]
    else:
        one = shown.get((party.session_id, party.extension_id))
        found = [] if one is None else [one]
    return [one for one in found if one.record_id not in party.earlier]


def _key(party: Party) -> tuple[str, str | None, str | None]:
    return party.session_id, party.party_id, party.extension_id


def _served(party: Party, sent_at: float) -> Served:
    in_time = party.tries == 0 and party.first_due <= sent_at <= party.first_due + TEACHES_S
    return Served(party.level, party.hinted_at, True if in_time else False if party.first_missed else None)


def _shown(observations: Iterable[CallObservation]) -> dict[tuple[str, str], Shown]:
    """By session and extension: the live call that is furthest, else the last one that ended."""
    shown: dict[tuple[str, str], tuple[tuple[bool, float], CallObservation]] = {}
    for one in observations:
        level = _SHOWN[one.state]
        rank = (True, level) if level < ENDED else (False, one.started_at.timestamp())
        key = one.session_id, one.extension_id
        if key not in shown or rank > shown[key][0]:
            shown[key] = rank, one
    return {
        key: Shown(_SHOWN[one.state], one.record_id, one.state is State.CONNECTED or one.disposition == "answered")
        for key, (_, one) in shown.items()
    }


def _new_steps(
    before: Mapping[tuple[str, str], Shown], now: Mapping[tuple[str, str], Shown]
) -> Iterator[tuple[str, str, int]]:
    for key, shown in now.items():
        known = before.get(key)
        reached = 0 if known is None or known.level > shown.level else known.level
        for level in range(reached + 1, shown.level + 1):
            if level != ANSWERED or shown.answered:
                yield *key, level
