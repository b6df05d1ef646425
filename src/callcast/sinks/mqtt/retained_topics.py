"""The retained topics that the broker should have, with their messages. Does not use a connection."""

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
    """One topic level, with special and control characters percent-encoded."""
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


class RetainedTopics:
    """Derives the retained topics from the live calls, and tracks which of them must be published.

    wanted: every retained topic and its message. dirty: the topics that changed since the last `take_dirty`; a dirty
    topic that is not in `wanted` must be removed.
    """

    def __init__(self, topics: Topics, wire: Wire, show: Filter, tombstone_s: float) -> None:
        self.wanted: dict[str, bytes] = {}
        self.dirty: set[str] = set()
        self._topics = topics
        self._wire = wire
        self._show = show
        self._tombstone_s = tombstone_s
        self._owners: dict[str, _Owner] = {}  # by topic; of live calls, and of ended ones until they are removed
        self._removals: dict[str, float] = {}  # by topic, in order
        self._live: dict[_Owner, dict[str, Call]] = {}
        self._ended: dict[_Owner, datetime] = {}
        self._watched: set[_Owner] = set()
        self._counted: dict[str, Summary] = {}  # as last published, by source

    def mirror(self, live_calls: LiveCalls, now_s: float, changed: Iterable[Call] | None = None) -> None:
        """Apply the changed calls, or all calls (None). Ended calls that were not known are not added."""
        calls = tuple(live_calls.calls() if changed is None else changed)
        shown = [c for c in calls if self._shows(c)]
        summaries = [each for each in live_calls.summaries() if self._show.has_source(each.source)]
        watched = {
            (each.source, extension_id)
            for each in summaries
            for extension_id in live_calls.extensions(each.source)
            if self._show.has(each.source, extension_id)
        }
        changed_owners = watched ^ self._watched
        changed_owners |= self._forget({self._topics.call(call) for call in calls if not self._shows(call)})
        if changed is None:
            kept = {self._topics.call(call) for call in shown}
            live = {topic for calls_of_owner in self._live.values() for topic in calls_of_owner}
            changed_owners |= watched | self._forget(live - kept)
        changed_owners.update([self._take(call, now_s) for call in shown])
        self._watched = watched
        for owner in changed_owners:
            self._mirror_state(owner)
        self._count(each for each in summaries if self._counted.get(each.source) != _without_clocks(each))

    def count(self, summaries: Iterable[Summary]) -> None:
        """Update all summaries. Call it every few seconds, because their times change without a call."""
        self._count(each for each in summaries if self._show.has_source(each.source))

    def _count(self, summaries: Iterable[Summary]) -> None:
        for each in summaries:
            self._counted[each.source] = _without_clocks(each)
            self._set(self._topics.summary(each.source), _encoded_summary(each))

    def remove_ended(self, now_s: float) -> None:
        """Remove calls that ended longer ago than `tombstone_s`."""
        while self._removals:
            topic, due_s = next(iter(self._removals.items()))
            if due_s > now_s:
                return
            self._drop_call(topic)

    def next_removal_s(self) -> float | None:
        return next(iter(self._removals.values()), None)

    def take_dirty(self) -> dict[str, bytes]:
        """The topics to publish with their messages; an empty message removes the topic."""
        taken = {topic: self.wanted.get(topic, b"") for topic in self.dirty}
        self.dirty.clear()
        return taken

    def publish_all(self) -> None:
        """Mark every topic as dirty, because the broker may have lost them."""
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
            self._removals.setdefault(topic, now_s + self._tombstone_s)
        self._owners[topic] = owner
        self._set(topic, self._wire.call(call))
        return owner

    def _end(self, owner: _Owner, topic: str, call: Call) -> None:
        self._remove_live(owner, topic)
        if call.ended_at is not None:
            self._ended[owner] = max(call.ended_at, self._ended.get(owner, call.ended_at))

    def _remove_live(self, owner: _Owner, topic: str) -> None:
        live = self._live.get(owner, {})
        live.pop(topic, None)
        if not live:
            self._live.pop(owner, None)

    def _forget(self, topics: set[str]) -> set[_Owner]:
        """Remove the topics of calls that no longer exist or no longer match the filter."""
        gone = {topic: self._owners[topic] for topic in topics if topic in self._owners}
        for topic, owner in gone.items():
            self._remove_live(owner, topic)
            self._drop_call(topic)
        return set(gone.values())

    def _drop_call(self, topic: str) -> None:
        del self._owners[topic]
        self._removals.pop(topic, None)
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
    """The summary without the fields that change as time passes."""
    return structs.replace(summary, as_of=None, now=None, longest_wait_s=None)
