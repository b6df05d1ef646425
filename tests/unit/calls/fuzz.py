"""Plays random histories against the decoder and the tracker, and checks the events against what truly happened.

`python -m tests.unit.calls.fuzz N [SEED]` plays N histories (`make fuzz`); the tests play a thousand.
"""

import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from zlib import crc32

import msgspec

from callcast.calls.index import is_listed_live
from callcast.calls.model import (
    Call,
    CallEvent,
    CallObservation,
    ChangeSet,
    Disposition,
    Evidence,
    Known,
    Observation,
    PollRecord,
    State,
    Target,
)
from callcast.calls.shared_answers import SharedAnswers
from callcast.calls.tracker import (
    CallIndex,
    Rules,
    compare,
    correct_missed,
    due_lookups,
    fill_gap,
    give_up,
    resolve,
    unwatch,
)
from tests.unit.calls.histories import CALLER, EXTENSIONS, START, History, Json, Maker, Part
from tests.unit.ringcentral.decoded import Decoded, decode_page, observations_of, snapshot

SOURCE = "acme"
RULES = Rules()
RANK = {State.RINGING: 0, State.DIALING: 0, State.CONNECTED: 1, State.ENDED: 2}
_json = msgspec.json.Encoder().encode
_msgpack = msgspec.msgpack.Encoder().encode
_call = msgspec.msgpack.Decoder(Call)


@dataclass
class Disk:
    """The outbox as far as the tracker uses it: calls and polls, through bytes."""

    calls: dict[str, bytes] = field(default_factory=dict)
    sessions: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    polls: dict[Target, datetime] = field(default_factory=dict)
    events: list[CallEvent] = field(default_factory=list)

    def record(self, poll: PollRecord | None, change: ChangeSet) -> None:
        for call in change.calls:
            self.calls[call.call_id] = _msgpack(call)
            self.sessions[call.session_id].add(call.call_id)
        self.events += [event for event in change.events if isinstance(event, CallEvent)]
        if poll:
            self.polls[poll.target] = poll.taken_at

    def recall(self, index: CallIndex, seen: Sequence[CallObservation] = (), *sessions: str) -> None:
        """What is stored of the sessions that must be known before `seen` is compared."""
        names = index.sessions_to_recall(seen, sessions)
        calls = [self.call(id_) for session_id in names for id_ in sorted(self.sessions.get(session_id, ()))]
        index.learn(call for call in calls if call.source == index.source)

    def call(self, call_id: str) -> Call:
        return _call.decode(self.calls[call_id])

    def known(self, source: str) -> Known:
        calls = {id_: self.call(id_) for id_ in self.calls}
        kept = {
            id_: call for id_, call in calls.items() if call.source == source and (call.live or call.provisional_since)
        }
        polls = {target: at for target, at in self.polls.items() if target.source == source}
        return Known(calls=kept, polls=polls, notes={})


@dataclass
class ObservationWindow:
    """What was truly shown of a part: by polls and by the call log, in order."""

    shows: list[tuple[float, str, bool]] = field(default_factory=list)  # when, what, on a first poll
    inbound: bool = False  # a record read so


class Play:
    """One history, polled with every kind of trouble."""

    def __init__(self, seed: int, *, restarts: bool) -> None:
        self.history: History = Maker(seed).history()
        self.random = Random(seed * 7 + 1)
        self.restarts = Random(seed * 7 + 2) if restarts else None
        self.disk = Disk()
        self.restart()
        self.polled: set[str] = set()  # extensions that a good poll has covered
        self.late: dict[str, float] = {}  # call id -> when the call log's answer comes
        self.seen: dict[int, ObservationWindow] = {id(part): ObservationWindow() for part in self.history.parts}
        self.watch(account_level=self.history.account_level)

    def watch(self, *, account_level: bool) -> None:
        self.account_level = account_level
        used = {part.extension_id for part in self.history.parts}
        ids = [None] if account_level else [id_ for id_ in EXTENSIONS if id_ in used]
        self.targets = [Target(source=self.source_of(id_), extension_id=id_) for id_ in ids]

    def source_of(self, extension_id: str | None) -> str:
        return f"{SOURCE}_{extension_id}" if self.history.own_sources else SOURCE

    def restart(self) -> None:
        """Nothing is known but what the disk holds."""
        answers = SharedAnswers()
        answers.shared = self.history.own_sources
        answers.learn(self.disk.call(call_id) for call_id in sorted(self.disk.calls))
        sources = dict.fromkeys(map(self.source_of, EXTENSIONS))
        self.pictures = {source: CallIndex(source, self.disk.known(source), answers) for source in sources}

    @property
    def index(self) -> CallIndex:
        """Of the only source."""
        return self.pictures[SOURCE]

    def turn(self, t: float) -> None:
        """A restart with another `watch`: calls that are no longer watched end."""
        self.restart()
        self.watch(account_level=not self.account_level)
        if not self.account_level:
            self.disk.recall(self.index)
            self.commit(self.index, None, unwatch(self.index, {"unassigned"}, at(t)))

    def run(self) -> None:
        random = self.random
        t = random.choice((-10.0, -10.0, -10.0, random.uniform(0, 30)))
        interval = random.choice((3.0, 5.0, 8.0))
        gap: tuple[float, float] | None = None
        blind, turned_at = self.history.blind, self.history.turned_at
        if blind is not None:
            t = min(t, blind[0] - 1)
        end = max(part.steps[-1].at for part in self.history.parts)
        while t < end + 2 * interval:
            self.polls(t)
            self.reconcile(t)
            if self.restarts and self.restarts.random() < 0.1:
                self.restart()
            if turned_at is not None and t > turned_at:
                turned_at = None
                self.turn(t)
            if blind is not None and t > blind[0]:
                before, t = t, max(t + 2, blind[1])
                blind, gap = None, (before, t + 40)
                continue
            if gap is not None and t >= gap[1]:
                self.fill_gap(gap[0], t)
                gap = None
            # Nothing happens any more while records only linger: poll rarely, or the test takes minutes.
            quiet = all(part.ends_at + 20 < t for part in self.history.parts)
            t += (interval * random.uniform(0.9, 1.1)) * (20 if quiet else 1)
        self.polls(t, until_stored=True)
        if gap is not None:
            self.fill_gap(gap[0], t + 40)
        for late in (40.0, 100.0, 2000.0, 2001.0):
            self.reconcile(t + late)

    def polls(self, t: float, *, until_stored: bool = False) -> None:
        for target in self.targets:
            if self.random.random() < 0.05 and not until_stored:
                continue  # a poll that failed is no poll
            skew = self.random.choice((0.0, 0.0, 0.0, -300.0, 3.0)) if self.random.random() < 0.05 else 0.0
            self.note(target, t)
            body = _json({"uri": "x", "records": self.history.listed(target.extension_id, t), "navigation": {}})
            page = decode_page(body)
            assert not page.bad
            assert not page.bad_fields
            shot = snapshot(target, [page], at(t + skew))
            index = self.pictures[target.source]
            self.disk.recall(index, shot.observations)
            change = compare(index, shot, RULES)
            poll = PollRecord(target=target, taken_at=index.clamped(target, shot.taken_at))
            self.commit(index, poll, change)
            if crc32(f"{t}".encode()) % 4:
                continue
            again = compare(index, shot, RULES)
            assert not again, f"the same poll again gave events: {again}"

    def commit(self, index: CallIndex, poll: PollRecord | None, change: ChangeSet) -> None:
        self.disk.record(poll, change)
        index.apply(poll, change)
        index.answers.learn(change.calls)

    def note(self, target: Target, t: float) -> None:
        for part in self.history.parts:
            if target.extension_id in (None, part.extension_id):
                step = part.step_at(t)
                if step is not None and step.shows is not None:
                    first = part.extension_id not in self.polled
                    if not step.named and not self.seen[id(part)].shows:
                        continue
                    self.seen[id(part)].shows.append((t, step.shows, first))
                    self.seen[id(part)].inbound |= any(record["direction"] == "Inbound" for record in step.records)
        whole = {part.extension_id for part in self.history.parts}
        self.polled |= whole if target.extension_id is None else {target.extension_id}

    def reconcile(self, t: float) -> None:
        """The call log, read as the service reads it; sometimes it does not answer, or not in time."""
        for index in self.pictures.values():
            self.disk.recall(index)
            self.answer_late(index, t)
            self.look_up(index, t)
        for index in self.pictures.values():
            for session_id in index.answers.due(index.source):
                index.answers.corrected(index.source, session_id)
                self.disk.recall(index, (), session_id)
                self.commit(index, None, correct_missed(index, session_id, at(t)))

    def look_up(self, index: CallIndex, t: float) -> None:
        for call in sorted(due_lookups(index, at(t), RULES), key=lambda call: call.call_id):
            if crc32(f"{call.call_id}{t}".encode()) % 2 and t < 1500:
                self.late.setdefault(call.call_id, t + 5)
                continue
            found = self.log_of(call, t)
            change = resolve(index, call.call_id, found, at(t), RULES)
            since = call.vanished_at or call.provisional_since
            if not change and since and (at(t) - since).total_seconds() >= RULES.vanished_give_up_s:
                change = give_up(index, call.call_id, at(t))
            self.commit(index, None, change)

    def answer_late(self, index: CallIndex, t: float) -> None:
        """The log's record from while the call was gone, midway: ignored if the list shows it live again."""
        for call_id in [call_id for call_id, due in self.late.items() if due <= t]:
            call = index.call(call_id)
            if call is None:
                continue
            del self.late[call_id]
            if is_listed_live(call):
                self.commit(index, None, resolve(index, call_id, [midway(call)], at(t), RULES))

    def log_of(self, call: Call, t: float) -> list[CallObservation]:
        """What the log holds of the call's session: finished after 15 s, before that as the list has it."""
        records: list[Json] = []
        for part in self.history.parts:
            names = {part.final.get("telephonySessionId"), part.final["sessionId"]} - {None, "0"}
            if part.extension_id == "unassigned" or not names & {call.session_id, call.provider.session_id}:
                continue
            if not self.account_level and part.extension_id != call.extension_id:
                continue
            if part.logged_at + 15 < t:
                records.append(part.final)
                mine = part.extension_id == call.extension_id and call.record_ids[0] in part.record_ids
                if mine or (call.extension_id == "unassigned" and part.named):
                    final = is_final_in_log(part)
                    self.seen[id(part)].shows.append((t, "ended" if final else "provisional", False))
        target = self.targets[0] if self.account_level else Target(source=call.source, extension_id=call.extension_id)
        return list(observations_of(page_of(records), target))

    def fill_gap(self, before: float, t: float) -> None:
        for target in self.targets:
            records = []
            for part in self.history.parts:
                ours = part.extension_id != "unassigned" and target.extension_id in (None, part.extension_id)
                if ours and before <= part.logged_at < t - 15:
                    records.append(part.final)
                    if is_final_in_log(part) and (part.named or self.seen[id(part)].shows):
                        self.seen[id(part)].shows.append((t, "ended", False))
            index = self.pictures[target.source]
            found = [*observations_of(page_of(records), target), *self.midways(target, before)]
            self.disk.recall(index, found)
            self.commit(index, None, fill_gap(index, target, found, at(t), RULES, after=at(before)))

    def midways(self, target: Target, before: float) -> list[CallObservation]:
        """The log's records of calls that are not over, where polls since the gap are newer."""
        index = self.pictures[target.source]
        live = [call for call in index.live_calls() if target.extension_id in (None, call.extension_id)]
        return [midway(call) for call in live if is_listed_live(call) and self.seen_since(call, before)]

    def seen_since(self, call: Call, t: float) -> bool:
        looked_at = self.pictures[call.source].last_poll_at(call.extension_id)
        return looked_at is not None and looked_at > at(t)

    # What must be true of the events

    def check(self) -> None:
        emitted: dict[str, list[CallEvent]] = defaultdict(list)
        for event in self.disk.events:
            emitted[event.call.call_id].append(event)
        for events in emitted.values():
            check_lifecycle(events)
        ids = [event.id for event in self.disk.events]
        assert len(set(ids)) == len(ids), "different facts share an id"
        for part in self.history.parts:
            self.check_part(part, emitted)
        claimed = {id_ for part in self.history.parts for id_ in part.record_ids}
        for call_id in emitted:
            assert set(self.disk.call(call_id).record_ids) <= claimed, f"{call_id} never happened"

    def check_part(self, part: Part, emitted: dict[str, list[CallEvent]]) -> None:
        mine = [
            events
            for events in emitted.values()
            if events[-1].call.extension_id == part.extension_id
            and set(self.disk.call(events[-1].call.call_id).record_ids) & part.record_ids
        ]
        assert len(mine) <= 1, f"one part, several calls: {[e[0].call.call_id for e in mine]}"
        kinds = [e.type for e in mine[0] if e.type not in ("call.updated", "call.corrected")] if mine else []
        expected = expected_kinds(self.seen[id(part)])
        if expected is not None:
            assert kinds == expected, f"{kinds} emitted, {expected} seen: {self.seen[id(part)].shows}"
        if mine and expected is not None:
            got = self.disk.call(mine[0][0].call.call_id).disposition
            wanted = self.expected_disposition(part)
            assert got in wanted, f"{got}, not {wanted}: {self.seen[id(part)].shows}"
            self.check_times(part, mine[0])
        for event in mine[0] if mine else ():
            inbound = part.inbound and (
                part.unseen is None or self.is_known(part) or part.final["direction"] == "Inbound"
            )
            assert event.call.direction == ("inbound" if inbound else "outbound")
            caller = event.call.from_party.number if event.call.from_party else None
            assert caller is None or (caller == CALLER) is inbound, "the parties swapped sides"

    def check_times(self, part: Part, events: list[CallEvent]) -> None:
        call = events[-1].call
        for event in events:
            if event.type == "call.answered" and event.observation.exact and part.answered_at is not None:
                off_s = abs((event.time - at(part.answered_at)).total_seconds())
                assert off_s < 0.002, f"answered {off_s} s off"
        if call.ended_exact and part.provisional is None and "ended" in [s for _, s, _ in self.seen[id(part)].shows]:
            off_s = abs((call.ended_at - at(part.ends_at)).total_seconds())
            assert off_s < 1.1, f"ended {off_s} s off"

    def expected_disposition(self, part: Part) -> set[str]:
        shows = [what for _, what, _ in self.seen[id(part)].shows]
        if part.extension_id == "unassigned":
            return {"transferred", "unknown"}
        if "ended" in shows:
            wanted = part.unseen if part.unseen and not self.is_known(part) else part.disposition
        elif "provisional" in shows:
            wanted = str(part.provisional)
        else:
            wanted = "unknown"
        if wanted == "missed" and part.inbound and self.answered_by_another(part):
            wanted = "answered_elsewhere"
        return {wanted}

    def is_known(self, part: Part) -> bool:
        """Something was shown that the end does not show: that it is inbound, or was answered."""
        seen = self.seen[id(part)]
        flipped = part.final["direction"] == "Outbound"
        return seen.inbound if flipped else "connected" in [what for _, what, _ in seen.shows]

    def answered_by_another(self, part: Part) -> bool:
        session = session_of(part)
        for other in self.history.parts:
            if (
                other.inbound
                and session_of(other) == session
                and other.extension_id not in (part.extension_id, "unassigned")
            ):
                shows = [what for _, what, _ in self.seen[id(other)].shows]
                if "connected" in shows or ("ended" in shows and other.disposition == "answered"):
                    return True
        return False


def check_lifecycle(events: list[CallEvent]) -> None:
    """One end, nothing after it but corrections, no gap, states only forward, times in order."""
    kinds = [event.type for event in events]
    assert kinds.count("call.ended") == 1, kinds
    end = kinds.index("call.ended")
    assert all(kind == "call.corrected" for kind in kinds[end + 1 :]), kinds
    assert "call.corrected" not in kinds[:end], kinds
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    ranks = [RANK[event.call.state] for event in events]
    assert ranks == sorted(ranks), kinds
    assert events[0].previous_state is None
    for event in events:
        call = event.call
        assert call.answered_at is None or call.started_at <= call.answered_at
        assert call.ended_at is None or (call.answered_at or call.started_at) <= call.ended_at
        assert (call.disposition is None) == (call.state is not State.ENDED)
        assert event.observation.after is None or event.observation.after <= event.observation.before
        if event.type == "call.corrected":
            assert event.corrects == events[end].id


def expected_kinds(seen: ObservationWindow) -> list[str] | None:
    """The events that these shows make, `call.updated` and `call.corrected` aside; None where either is right."""
    kinds: list[str] = []
    state = None
    for _, what, first in sorted(seen.shows, key=lambda show: show[0]):
        if what == "ended" and state is None and first:
            return []
        if what == "provisional":
            if state is None and first:
                return None  # it may have ended before a poll saw it
            state = state or "provisional"
        elif what == "connected" and state != "connected":
            kinds.append("call.answered")
            state = "connected"
        elif what in ("ringing", "dialing") and state in (None, "provisional"):
            kinds.append(f"call.{what}")
            state = what
        elif what == "ended":
            state = "ended"
            break
    return [*kinds, "call.ended"] if state else []


def is_final_in_log(part: Part) -> bool:
    return part.provisional is None or part.final["result"] not in ("Stopped", "IP Phone Offline")


def midway(call: Call) -> CallObservation:
    """The call log's record of a call that goes on, and reads finished."""
    return CallObservation(
        extension_id=call.extension_id,
        session_id=call.session_id,
        account_id=call.account_id,
        record_id=call.record_ids[0],
        direction=call.direction,
        state=State.ENDED,
        disposition=Disposition.BLOCKED,
        started_at=call.started_at,
        ended_at=call.started_at + timedelta(seconds=1),
        provider=call.provider,
    )


def session_of(part: Part) -> str:
    record = part.final
    return record.get("telephonySessionId") or (record["id"] if record["sessionId"] == "0" else record["sessionId"])


def page_of(records: list[Json]) -> Decoded:
    return decode_page(_json({"records": records}))


def at(t: float) -> datetime:
    return START + timedelta(seconds=t)


def told_of(event: CallEvent, own_sources: bool) -> CallEvent:
    """The event as a consumer sees it: when a record left the list is ours alone. When a source learns what happened at
    another one is no fact of the call: it is learned at the start, or at the next poll.
    """
    call = msgspec.structs.replace(event.call, vanished_at=None, last_seen_at=None)
    if own_sources and event.type == "call.corrected":
        call = msgspec.structs.replace(call, observation=None)
        event = msgspec.structs.replace(event, time=START, observation=NO_POLLS)
    return msgspec.structs.replace(event, call=call)


NO_POLLS = Observation(after=None, before=START, exact=False, evidence=Evidence.ACTIVE_CALLS, first_poll=False)


def play(seed: int) -> int:
    """Plays one history without and with restarts; gives the number of events. Raises with the seed in its note."""
    try:
        calm = Play(seed, restarts=False)
        calm.run()
        calm.check()
        if seed % 8 == 0:
            shaken = Play(seed, restarts=True)
            shaken.run()
            assert [e.id for e in shaken.disk.events] == [e.id for e in calm.disk.events], "a restart changed ids"
            own = calm.history.own_sources
            assert [told_of(e, own) for e in shaken.disk.events] == [told_of(e, own) for e in calm.disk.events]
    except Exception as error:
        error.add_note(f"seed {seed}")
        raise
    return len(calm.disk.events)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    first = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    events = sum(play(seed) for seed in range(first, first + count))
    print(f"{count} histories, {events} events, all of them true")


if __name__ == "__main__":
    main()
