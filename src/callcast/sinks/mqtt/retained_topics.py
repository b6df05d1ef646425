"""The retained topics: which ones the broker should have, which ones it still has, and whether it supports them."""

import asyncio
from collections.abc import Iterable
from datetime import datetime
from enum import Enum, auto

from msgspec import DecodeError, Struct, json, structs

from callcast.calls.model import Call, State
from callcast.calls.summary import Summary
from callcast.formats.cloudevents import Wire, rfc3339, summary_data
from callcast.formats.payloads import ExtensionState
from callcast.ports.live_calls import LiveCalls
from callcast.ports.sink import Filter
from callcast.sinks.mqtt.connection import LOST, RETAIN_NOT_SUPPORTED, Connection, Failure, ignore
from callcast.sinks.mqtt.wire import Topics

_Owner = tuple[str, str]  # source and extension
_READ_S = 10.0


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
        self._calls: dict[_Owner, dict[str, Call]] = {}  # by topic; ended ones until they are removed
        self._removals: dict[str, tuple[float, _Owner]] = {}  # by topic, in order
        self._ended: dict[_Owner, datetime] = {}
        self._watched: set[_Owner] = set()
        self._counted: dict[str, Summary] = {}  # as last published, by source

    def mirror(self, live_calls: LiveCalls, now_s: float, changed: Iterable[Call] | None = None) -> None:
        """Apply the changed calls, or all calls (None). Ended calls that were not known are not added."""
        calls = {self._topics.call(call): call for call in (live_calls.calls() if changed is None else changed)}
        summaries = live_calls.summaries()
        watched = {
            (each.source, extension_id)
            for each in summaries
            for extension_id in live_calls.extensions(each.source)
            if self._show.has(each.source, extension_id)
        }
        owners = watched ^ self._watched
        self._watched = watched
        if changed is None:
            owners |= watched
            for owner, topics in list(self._calls.items()):
                for topic in [topic for topic, call in topics.items() if call.live and topic not in calls]:
                    owners.add(self._remove_call(owner, topic))
        for topic, call in calls.items():
            owner = (call.source, call.extension_id)
            if self._show.shows(call):
                owners.add(self._put_call(owner, topic, call, now_s))
            elif topic in self._calls.get(owner, {}):
                owners.add(self._remove_call(owner, topic))
        for owner in owners:
            self._mirror_state(owner)
        self.count(each for each in summaries if self._counted.get(each.source) != _without_clocks(each))

    def count(self, summaries: Iterable[Summary]) -> None:
        """Update these summaries. Call it every few seconds with all, because their times change without a call."""
        for each in summaries:
            if self._show.has_source(each.source):
                self._counted[each.source] = _without_clocks(each)
                self._set(self._topics.summary(each.source), _encoded_summary(each))

    def remove_ended(self, now_s: float) -> None:
        """Remove calls that ended longer ago than `tombstone_s`."""
        for topic, (due_s, owner) in list(self._removals.items()):
            if due_s > now_s:
                return
            self._remove_call(owner, topic)

    def next_removal_s(self) -> float | None:
        return next((due_s for due_s, _ in self._removals.values()), None)

    def take_dirty(self) -> dict[str, bytes]:
        """The topics to publish with their messages; an empty message removes the topic."""
        taken = {topic: self.wanted.get(topic, b"") for topic in self.dirty}
        self.dirty.clear()
        return taken

    def publish_all(self) -> None:
        """Mark every topic as dirty, because the broker may have lost them."""
        self.dirty.update(self.wanted)

    def _put_call(self, owner: _Owner, topic: str, call: Call, now_s: float) -> _Owner:
        calls = self._calls.setdefault(owner, {})
        if not call.live:
            if call.ended_at is not None:
                self._ended[owner] = max(call.ended_at, self._ended.get(owner, call.ended_at))
            if topic not in calls:
                return owner
            self._removals.setdefault(topic, (now_s + self._tombstone_s, owner))
        calls[topic] = call
        self._set(topic, self._wire.call(call))
        return owner

    def _remove_call(self, owner: _Owner, topic: str) -> _Owner:
        del self._calls[owner][topic]
        self._removals.pop(topic, None)
        self._drop(topic)
        return owner

    def _mirror_state(self, owner: _Owner) -> None:
        topic = self._topics.state(*owner)
        live = [call for call in self._calls.get(owner, {}).values() if call.live]
        if live or owner in self._watched:
            self._set(topic, _encoded_state(live, self._ended.get(owner)))
        else:
            self._drop(topic)

    def _set(self, topic: str, message: bytes) -> None:
        if self.wanted.get(topic) != message:
            self.wanted[topic] = message
            self.dirty.add(topic)

    def _drop(self, topic: str) -> None:
        if self.wanted.pop(topic, None) is not None:
            self.dirty.add(topic)


def _encoded_state(calls: list[Call], idle_since: datetime | None) -> bytes:
    for state in State:  # the first that applies
        if times := [_since(call) for call in calls if call.state is state]:
            return json.encode(ExtensionState(state, len(calls), rfc3339(min(times))))
    return json.encode(ExtensionState("idle", 0, None if idle_since is None else rfc3339(idle_since)))


def _since(call: Call) -> datetime:
    return (call.answered_at or call.started_at) if call.state is State.CONNECTED else call.started_at


def _encoded_summary(summary: Summary) -> bytes:
    return json.encode(summary_data(summary))


def _without_clocks(summary: Summary) -> Summary:
    """The summary without the fields that change as time passes."""
    return structs.replace(summary, as_of=None, now=None, longest_wait_s=None)


class UnreadableError(Exception):
    """The topics cannot be read, or another client uses the same prefix."""


class _Status(Struct):
    state: str
    client_id: str = ""


class StaleTopics:
    """Reads the retained topics that the broker still has from before this connection.

    The subscription is sent before the birth message. So when that message arrives, all retained messages have
    arrived before it; if it does not arrive, the broker does not allow reading.
    """

    def __init__(self, connection: Connection, topics: Topics, birth: bytes, client_id: str) -> None:
        self._connection = connection
        self._topics = topics
        self._birth = birth
        self._client_id = client_id
        self._retained: set[str] = set()
        self._other = ""
        self._complete = asyncio.Event()
        connection.on_message_received = self._receive
        self._granted = connection.subscribe(topics.retained)

    async def read(self) -> set[str]:
        """All retained topics but `status`. Raises UnreadableError."""
        denied = "the broker does not allow callcast to subscribe to its own topics"
        try:
            async with asyncio.timeout(_READ_S):
                for reason in await self._granted:
                    if reason.is_failure:
                        raise UnreadableError(f"{denied}: {reason.getName()}")
                await self._complete.wait()
        except TimeoutError:
            raise UnreadableError(denied) from None
        finally:
            self._connection.on_message_received = ignore
        self._connection.unsubscribe(self._topics.retained)
        if self._other:
            problem = f"the client {self._other} is online with the same topic"
            raise UnreadableError(f"{problem}: give each client its own topic")
        return self._retained

    def _receive(self, topic: str, payload: bytes, retained: bool) -> None:
        if topic != self._topics.status:
            if retained and payload:
                self._retained.add(topic)
        elif payload == self._birth:
            self._complete.set()
        elif retained:
            try:
                status = json.decode(payload, type=_Status)
            except DecodeError:
                return
            if status.state == "online" and status.client_id != self._client_id:
                self._other = status.client_id


class ConnectionOutcome(Enum):
    """How far a connection got."""

    FAILED = auto()  # not accepted, or lost before the first retained message was acknowledged
    RETAINING = auto()  # accepted with a will, and the first retained message was acknowledged
    EVENTS_ONLY = auto()  # accepted without a will, or the broker reported that it has no retained messages


class RetainSupport:
    """Decides whether the next connection has a will and retained messages (`try_next`).

    With MQTT 5 the broker says whether it supports them. With MQTT 3.1.1 it just closes the connection, like a broker
    that restarts, or a proxy whose broker is down. So one accepted connection without retained messages proves
    nothing: the next connection tries them again at once, and only if that is closed too, the broker does not support
    them. Each outage starts with a connection that tries them, so that a reconfigured broker gets them.
    """

    def __init__(self, *, wanted: bool) -> None:
        self.try_next = wanted
        self._wanted = wanted
        self._refused = False  # the broker reported it, or see above
        self._accepted_without = False
        self._announced = False

    def is_final(self, outcome: ConnectionOutcome, *, reported: bool) -> bool:
        """Whether to keep this connection. `reported`: the broker reported that it has no retained messages."""
        if outcome is ConnectionOutcome.RETAINING:
            self._refused = self._accepted_without = self._announced = False
            return True
        self._refused = self._wanted and (self._refused or reported)
        return self._refused or not self._wanted

    def learn(self, outcome: ConnectionOutcome, failure: Failure) -> bool:
        """After the end of a connection. Returns whether the next one is to be tried at once."""
        tried, self.try_next = self.try_next, self._wanted
        if not self._wanted:
            return False
        if outcome is ConnectionOutcome.EVENTS_ONLY:
            at_once = not self._refused
            self._accepted_without = True
            return at_once
        if outcome is ConnectionOutcome.FAILED and tried:
            reported = failure.code == RETAIN_NOT_SUPPORTED
            if reported or (failure == LOST and self._accepted_without):
                self._refused = True
            self.try_next = not (reported or failure == LOST)
            return self._refused and not self.try_next
        self._accepted_without = False
        return False

    def to_announce(self) -> bool:
        """True once, when it is known that the broker does not support retained messages."""
        announce = self._refused and not self._announced
        self._announced = self._announced or announce
        return announce
