"""The retained topics: which ones the broker should have, which ones it still has, and whether it supports them."""

import asyncio
from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import Enum, auto

from msgspec import DecodeError, Struct, json, structs

from callcast.calls.model import Call, Direction, State
from callcast.calls.summary import Summary
from callcast.formats.cloudevents import Wire, rfc3339, summary_data
from callcast.formats.payloads import ExtensionState
from callcast.ports.live_calls import LiveCalls
from callcast.ports.sink import Filter
from callcast.sinks.mqtt.connection import LOST, RETAIN_NOT_SUPPORTED, Connection, Failure, ignore
from callcast.sinks.mqtt.home_assistant import Devices
from callcast.sinks.mqtt.wire import Topics

_Owner = tuple[str, str]  # source and extension
_READ_S = 10.0


class RetainedTopics:
    """Derives the retained topics from the live calls, and tracks which of them must be published.

    wanted: every retained topic and its message. dirty: the topics that changed since the last `take_dirty`; a dirty
    topic that is not in `wanted` must be removed. devices: None without discovery.
    """

    def __init__(
        self, topics: Topics, wire: Wire, show: Filter, tombstone_s: float, devices: Devices | None = None
    ) -> None:
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
        self._devices = devices
        self._kept: set[_Owner] = set()  # extensions whose device the broker had
        self._described: tuple[set[_Owner], dict[str, str]] = (set(), {})  # owners and names, as last published

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
        self._kept = {owner for owner in self._kept if live_calls.watches(*owner)}
        watched |= self._kept
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
        for source in self._counted.keys() - {each.source for each in summaries}:
            del self._counted[source]
            self._drop(self._topics.summary(source))
        self.count(each for each in summaries if self._counted.get(each.source) != _without_clocks(each))

    def describe(self, live_calls: LiveCalls, names: Mapping[str, str]) -> None:
        """Update the discovery messages; call it after `mirror`, and every few seconds for the names."""
        if self._devices is None:
            return
        owners = {owner for owner in self._watched if live_calls.watches(*owner)} | {
            (each, "") for each in self._counted
        }
        if (owners, names) == self._described:
            return
        for owner in self._described[0] - owners:
            self._drop(self._devices.topic(owner))
        for owner in sorted(owners):  # a source's device before those of its extensions
            self._set(self._devices.topic(owner), self._devices.message(owner, names))
        self._described = owners, dict(names)

    def found(self, topics: Iterable[str], live_calls: LiveCalls) -> None:
        """Remove those of the topics that the broker has and should not have.

        A device of an extension is kept until it is known that the extension is not watched: Home Assistant deletes a
        device with its settings as soon as its discovery message is removed.
        """
        stale = set(topics)
        if self._devices is not None:
            for topic in topics:
                owner = self._devices.owner(topic)
                if owner and owner[1] and self._show.has(*owner) and live_calls.watches(*owner):
                    self._kept.add(owner)
                    stale.discard(topic)
                    stale.discard(self._topics.state(*owner))
        self.dirty.update(stale - self.wanted.keys())

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
            self._set(topic, _encoded_state(self._wire, live, self._ended.get(owner)))
        else:
            self._drop(topic)

    def _set(self, topic: str, message: bytes) -> None:
        if self.wanted.get(topic) != message:
            self.wanted[topic] = message
            self.dirty.add(topic)

    def _drop(self, topic: str) -> None:
        if self.wanted.pop(topic, None) is not None:
            self.dirty.add(topic)


def _encoded_state(wire: Wire, calls: list[Call], idle_since: datetime | None) -> bytes:
    for state in State:  # the first that applies
        if chosen := sorted((call for call in calls if call.state is state), key=_since):
            inbound = next((call for call in chosen if call.direction is Direction.INBOUND), None)
            caller = wire.call_data(inbound).from_party if inbound else None
            return json.encode(ExtensionState(state, len(calls), rfc3339(_since(chosen[0])), caller))
    return json.encode(ExtensionState("idle", 0, None if idle_since is None else rfc3339(idle_since), None))


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
        self._filters = [*topics.retained, topics.devices]
        self._granted = connection.subscribe(self._filters)

    async def read(self) -> tuple[set[str], str]:
        """All retained topics but `status`, and why discovery topics cannot be read, if so. Raises UnreadableError."""
        denied = "the broker does not allow callcast to subscribe to its own topics"
        no_devices = ""
        try:
            async with asyncio.timeout(_READ_S):
                for topic_filter, reason in zip(self._filters, await self._granted, strict=False):
                    if reason.is_failure and topic_filter == self._topics.devices:
                        no_devices = f"the broker does not allow callcast to subscribe to {topic_filter}"
                    elif reason.is_failure:
                        raise UnreadableError(f"{denied}: {reason.getName()}")
                await self._complete.wait()
        except TimeoutError:
            raise UnreadableError(denied) from None
        finally:
            self._connection.on_message_received = ignore
        self._connection.unsubscribe(self._filters)
        if self._other:
            problem = f"the client {self._other} is online with the same topic"
            raise UnreadableError(f"{problem}: give each client its own topic")
        return self._retained, no_devices

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
