"""What the broker should remember of the board: topic -> message. Nothing here knows a broker."""

import re
from collections.abc import Iterable
from datetime import datetime
from urllib.parse import quote

from msgspec import json, structs

from callcast.calls.model import Call, Event, SourceEvent, State
from callcast.calls.summary import Summary
from callcast.formats.cloudevents import Wire, rfc3339, summary_dict
from callcast.ports.live_calls import LiveCalls
from callcast.ports.sink import Filter

_Owner = tuple[str, str]  # source and extension
_SPECIAL = re.compile(r"[/+#%]")
_STATE_WORDS = (State.RINGING, State.DIALING, State.CONNECTED)  # the first that applies


def encoded(part: str) -> str:
    """One level of a topic: whatever a topic gives a meaning to, and control characters, percent-encoded."""
    if part.isprintable() and not _SPECIAL.search(part):
        return part
    return "".join(quote(c, safe="") if c in "/+#%" or not c.isprintable() else c for c in part)


class Topics:
    """The names of all topics under one prefix."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.status = f"{prefix}/status"

    def event(self, event: Event) -> str:
        if isinstance(event, SourceEvent):
            return f"{self._prefix}/{event.source}/events/{event.type}"
        return f"{self._prefix}/{event.source}/{encoded(event.call.extension_id)}/events/{event.type}"

    def call(self, call: Call) -> str:
        part = call.call_id.partition("/")[2]
        return f"{self._prefix}/{call.source}/{encoded(call.extension_id)}/calls/{encoded(part)}"

    def state(self, source: str, extension_id: str) -> str:
        return f"{self._prefix}/{source}/{encoded(extension_id)}/state"

    def summary(self, source: str) -> str:
        return f"{self._prefix}/{source}/summary"

    def filters(self) -> list[str]:
        """What to subscribe to in order to read every retained topic, and no event."""
        below = ("+/+/calls/+", "+/+/state", "+/summary")
        return [self.status, *(f"{self._prefix}/{each}" for each in below)]


class Retained:
    """Follows the board, and knows which topics the broker has not been told yet.

    wanted: every retained topic and its message. dirty: the topics that have changed since they were taken; one
    that is not wanted any more is to be removed.
    """

    def __init__(self, topics: Topics, wire: Wire, show: Filter, tombstone_s: float) -> None:
        self.wanted: dict[str, bytes] = {}
        self.dirty: set[str] = set()
        self._topics = topics
        self._wire = wire
        self._show = show
        self._tombstone_s = tombstone_s
        self._owners: dict[str, _Owner] = {}  # by topic: of live calls, and of ended ones until they are buried
        self._burials: dict[str, float] = {}  # by topic, in order
        self._live: dict[_Owner, dict[str, Call]] = {}
        self._ended: dict[_Owner, datetime] = {}
        self._watched: set[_Owner] = set()
        self._counted: dict[str, Summary] = {}  # as last told, by source

    def mirror(self, live_calls: LiveCalls, now_s: float, changed: Iterable[Call] | None = None) -> None:
        """Take over what changed, or everything (None). An ended call that was not there before is not added."""
        calls = tuple(live_calls.calls() if changed is None else changed)
        shown = [c for c in calls if self._shows(c)]
        summaries = live_calls.summaries()
        watched = {
            (each.source, extension_id)
            for each in summaries
            for extension_id in live_calls.extensions(each.source)
            if not self._show.extensions or extension_id in self._show.extensions
        }
        touched = watched ^ self._watched
        touched |= self._forget({self._topics.call(call) for call in calls if not self._shows(call)})
        if changed is None:
            kept = {self._topics.call(call) for call in shown}
            live = {topic for calls_of_owner in self._live.values() for topic in calls_of_owner}
            touched |= watched | self._forget(live - kept)
        touched.update([self._take(call, now_s) for call in shown])
        self._watched = watched
        for owner in touched:
            self._mirror_state(owner)
        self._count(each for each in summaries if self._counted.get(each.source) != _without_clocks(each))

    def count(self, summaries: Iterable[Summary]) -> None:
        """Take over every summary; of one in which only times go on this is enough every few seconds."""
        self._count(summaries)

    def _count(self, summaries: Iterable[Summary]) -> None:
        for each in summaries:
            self._counted[each.source] = _without_clocks(each)
            self._set(self._topics.summary(each.source), _encoded_summary(each))

    def bury(self, now_s: float) -> None:
        """Remove the calls whose time after their end is over."""
        while self._burials:
            topic, due_s = next(iter(self._burials.items()))
            if due_s > now_s:
                return
            self._drop_call(topic)

    def next_burial_s(self) -> float | None:
        return next(iter(self._burials.values()), None)

    def take_dirty(self) -> dict[str, bytes]:
        """The topics to tell the broker of, with their messages; empty ones remove the topic."""
        taken = {topic: self.wanted.get(topic, b"") for topic in self.dirty}
        self.dirty.clear()
        return taken

    def publish_all(self) -> None:
        """The broker may have forgotten everything."""
        self.dirty.update(self.wanted)

    def _shows(self, call: Call) -> bool:
        return self._show.shows(call)

    def _take(self, call: Call, now_s: float) -> _Owner:
        topic = self._topics.call(call)
        owner = (call.source, call.extension_id)
        if call.live:
            self._live.setdefault(owner, {})[topic] = call
        else:
            self._end(owner, topic, call)
            if topic not in self._owners:
                return owner
            self._burials.setdefault(topic, now_s + self._tombstone_s)
        self._owners[topic] = owner
        self._set(topic, self._wire.call(call))
        return owner

    def _end(self, owner: _Owner, topic: str, call: Call) -> None:
        self._live_no_more(owner, topic)
        if call.ended_at is not None:
            self._ended[owner] = max(call.ended_at, self._ended.get(owner, call.ended_at))

    def _live_no_more(self, owner: _Owner, topic: str) -> None:
        live = self._live.get(owner, {})
        live.pop(topic, None)
        if not live:
            self._live.pop(owner, None)

    def _forget(self, topics: set[str]) -> set[_Owner]:
        """Remove these calls now: they are gone, or shown no longer."""
        gone = {topic: self._owners[topic] for topic in topics if topic in self._owners}
        for topic, owner in gone.items():
            self._live_no_more(owner, topic)
            self._drop_call(topic)
        return set(gone.values())

    def _drop_call(self, topic: str) -> None:
        del self._owners[topic]
        self._burials.pop(topic, None)
        self._drop(topic)

    def _mirror_state(self, owner: _Owner) -> None:
        topic = self._topics.state(*owner)
        live = self._live.get(owner)
        if live or owner in self._watched:
            self._set(topic, _encoded_state(list((live or {}).values()), self._ended.get(owner)))
        else:
            self._drop(topic)

    def _set(self, topic: str, message: bytes) -> None:
        if self.wanted.get(topic) != message:
            self.wanted[topic] = message
            self.dirty.add(topic)

    def _drop(self, topic: str) -> None:
        if self.wanted.pop(topic, None) is not None:
            self.dirty.add(topic)


def _since(call: Call) -> datetime:
    return (call.answered_at or call.started_at) if call.state is State.CONNECTED else call.started_at


def _encoded_state(calls: list[Call], idle_since: datetime | None) -> bytes:
    word, since = "idle", idle_since
    for state in reversed(_STATE_WORDS):
        if times := [_since(call) for call in calls if call.state is state]:
            word, since = state.value, min(times)
    return json.encode({"state": word, "calls": len(calls), "since": since and rfc3339(since)})


def _encoded_summary(summary: Summary) -> bytes:
    return json.encode(summary_dict(summary))


def _without_clocks(summary: Summary) -> Summary:
    """What of it does not change by itself as time goes on."""
    return structs.replace(summary, as_of=None, now=None, longest_wait_s=None)
