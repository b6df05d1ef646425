"""The MQTT sink: publishes events with acknowledgement, and live calls as retained topics."""

import asyncio
import math
import random
from collections.abc import Mapping
from contextlib import suppress

from msgspec import json, structs

from callcast.calls.model import CallEvent
from callcast.formats.cloudevents import attributes, rfc3339
from callcast.ports.live_calls import LiveChange
from callcast.ports.sink import Delivered, Delivery, Outcome, Rejected, Retry, SinkContext
from callcast.sinks.mqtt import Settings
from callcast.sinks.mqtt.connect_options import connect_options, remedy_of
from callcast.sinks.mqtt.connection import (
    LOST,
    PACKET_TOO_LARGE,
    SESSION_TAKEN_OVER,
    Connection,
    Failure,
    Message,
    PublishResult,
)
from callcast.sinks.mqtt.properties import EncodedProperties, correlation, expiry, user_properties
from callcast.sinks.mqtt.retain_support import ConnectionOutcome, RetainSupport
from callcast.sinks.mqtt.retained_topics import RetainedTopics, Topics
from callcast.sinks.mqtt.stale_topics import StaleTopics, UnreadableError

_STATE_AT_ONCE = 8  # concurrent retained messages, in addition to events
_MIRROR_EVERY_S = 0.25  # the first change is published at once; of many in a row only the newest
_SUMMARY_EVERY_S = 10.0  # `as_of` and `complete` change without a call
_BACKOFF_MAX_S = 60.0
_STEADY_S = 30.0  # a connection that lasted this long counts as successful
_SHORT_IN_A_ROW = 3
_GOODBYE_S = 2.0
_PERMANENT = (0x90, 0x99)  # topic name invalid, payload format invalid
_EVENT_TYPE = "application/cloudevents+json; charset=utf-8"
_STATE_PROPERTIES = EncodedProperties("application/json")
_SAME_ID = "another client uses this client_id: give each client its own"
_MAYBE_SAME_ID = "the broker closes the connection repeatedly: check whether another client uses this client_id"
_NO_STATE = (
    "the broker does not support retained messages: events are sent without retained state and without a will; "
    "allow retained messages in the broker, or set retain = false"
)
_OFFLINE = b'{"state":"offline"}'


class MqttSink:
    """Publishes events. Reconnects automatically; while it is disconnected, `send` returns `Retry`.

    `stay_connected` and `follow_live_calls` must run as tasks.
    """

    def __init__(self, settings: Settings, context: SinkContext) -> None:
        self._context = context
        self._timeout_s = settings.timeout_s
        self._version_5 = settings.protocol == "5"
        self._topics = Topics(settings.topic)
        self._retained = RetainedTopics(self._topics, context.wire, settings.filter(), settings.tombstone_s)
        self._client_id = settings.client_id or f"callcast-{context.installation}-{context.name}"
        will = self._state_message(self._topics.status, _OFFLINE)
        self._options = connect_options(
            settings, self._client_id, will, in_flight_max=settings.concurrency + _STATE_AT_ONCE
        )
        self._retaining = RetainSupport(wanted=settings.retain)
        self._connection: Connection | None = None
        self._failure = Failure("disconnected", "not connected yet")
        self._tried = asyncio.Event()
        self._back = asyncio.Event()
        self._dirty = asyncio.Event()
        # Differs between clients that lose the same broker at the same time, and is reproducible.
        self._jitter = random.Random(self._client_id)  # noqa: S311

    # Events

    async def send(self, delivery: Delivery, /) -> Outcome:
        try:
            if self._connection is not None and self._connection.has_room():  # then `publish` has its own time limit
                return await self._publish(self._connection, delivery)
            async with asyncio.timeout(self._timeout_s):
                await self._tried.wait()
                if self._connection is None:
                    return Retry(self._failure.reason, self._failure.detail)
                return await self._publish(self._connection, delivery)
        except TimeoutError:
            return Retry("timeout", "the broker did not acknowledge in time")
        except ValueError as error:
            return Rejected("malformed", str(error))

    async def _publish(self, connection: Connection, delivery: Delivery) -> Outcome:
        message = self._event_message(delivery)
        answer = await connection.publish(message)
        return _outcome(answer, refused="" if connection.over.is_set() else message.topic)

    def advice(self, outcome: Retry | Rejected, /) -> str:
        return remedy_of(Failure(outcome.reason, outcome.detail), self._client_id)

    async def reconnected(self) -> None:
        await self._back.wait()
        self._back.clear()

    def _event_message(self, delivery: Delivery) -> Message:
        event = delivery.event
        properties = self._event_properties(delivery) if self._version_5 else None
        return Message(self._topics.event(event), self._context.wire.event(event), properties=properties)

    def _event_properties(self, delivery: Delivery) -> EncodedProperties:
        event = delivery.event
        names = attributes(event)
        del names["datacontenttype"]  # the content type of the data; the message has that of the whole event
        more = [user_properties(names)]
        if isinstance(event, CallEvent):
            more.append(correlation(event.call.call_id))
        if delivery.expires_at is not None:
            left_s = (delivery.expires_at - self._context.clock.now()).total_seconds()
            more.append(expiry(math.ceil(left_s)))
        return EncodedProperties(_EVENT_TYPE, *more)

    def _state_message(self, topic: str, payload: bytes) -> Message:
        return Message(topic, payload, True, _STATE_PROPERTIES if self._version_5 and payload else None)

    # The connection

    async def stay_connected(self) -> None:
        failures = 0
        while True:
            began_s = self._context.clock.monotonic()
            outcome, failure = await self._one_connection(again=failures > 0)
            if self._retaining.learn(outcome, failure):
                continue
            self._failure = failure
            self._tried.set()
            steady = self._context.clock.monotonic() - began_s >= _STEADY_S
            failures = 1 if steady else failures + 1
            self._report(failures)
            await self._context.clock.sleep(self._backoff_s(failures))

    def _backoff_s(self, failures: int) -> float:
        return min(_BACKOFF_MAX_S, 2.0 ** min(failures - 1, 16)) * self._jitter.uniform(0.5, 1.0)

    def _report(self, failures: int) -> None:
        failure = self._failure
        if failure.code == SESSION_TAKEN_OVER:
            self._context.log("mqtt_session_taken_over", client_id=self._client_id, hint=_SAME_ID)
        elif failures == _SHORT_IN_A_ROW and failure == LOST:  # not every broker gives a reason
            self._context.log("mqtt_connection_unsteady", client_id=self._client_id, hint=_MAYBE_SAME_ID)
        elif failures == 1:
            self._context.log("mqtt_connection_lost", reason=failure.reason, detail=failure.detail)

    async def _one_connection(self, *, again: bool) -> tuple[ConnectionOutcome, Failure]:
        """Run one connection until it ends. Returns how far it got, and why it ended."""
        retaining = self._retaining.try_next
        connection = Connection(self._options if retaining else structs.replace(self._options, will=None))
        outcome = ConnectionOutcome.FAILED
        try:
            async with asyncio.timeout(self._timeout_s):
                await connection.opened.wait()
                retaining = retaining and connection.takes_retained
                own = await self._announce(connection) if retaining and not connection.over.is_set() else None
            if not connection.over.is_set():
                outcome = ConnectionOutcome.RETAINING if retaining else ConnectionOutcome.EVENTS_ONLY
                if self._retaining.is_final(outcome, said=not connection.takes_retained):
                    await self._stay(connection, own, again=again)
        except TimeoutError:
            connection.give_up(Failure("timeout", "the broker did not respond in time"))
        finally:
            self._connection = None
            await self._leave(connection, retaining=retaining)
        return outcome, connection.failure

    async def _stay(self, connection: Connection, own: StaleTopics | None, *, again: bool) -> None:
        self._connection = connection
        self._tried.set()
        if again:
            self._back.set()
        if self._retaining.to_announce():
            self._context.log("mqtt_state_left_out", hint=_NO_STATE)
        await self._work_while_up(connection, own)

    async def _announce(self, connection: Connection) -> StaleTopics:
        """Subscribe to the retained topics, then publish the online status; in this order on the connection."""
        birth = json.encode(
            {
                "state": "online",
                "since": rfc3339(self._context.clock.wall()),
                "version": self._context.version,
                "client_id": self._client_id,
            }
        )
        own = StaleTopics(connection, self._topics, birth, self._client_id)
        refusal = await connection.publish(self._state_message(self._topics.status, birth))
        if refusal is not None and not connection.over.is_set():
            self._context.log("mqtt_state_refused", topic=self._topics.status, detail=refusal.detail)
        return own

    async def _work_while_up(self, connection: Connection, own: StaleTopics | None) -> None:
        async with asyncio.TaskGroup() as tasks:
            if own is not None:
                work = [
                    tasks.create_task(self._publish_one_state(connection)),
                    tasks.create_task(self._sweep(connection, own)),
                ]
            else:
                work = [tasks.create_task(self._drop_state())]
            await connection.over.wait()
            for task in work:
                task.cancel()

    async def _leave(self, connection: Connection, *, retaining: bool) -> None:
        if not connection.opened.is_set():
            connection.give_up(connection.failure)
            return
        if retaining:
            with suppress(TimeoutError):
                async with asyncio.timeout(_GOODBYE_S):
                    await connection.publish(self._state_message(self._topics.status, _OFFLINE))
        connection.give_up(connection.failure)
        with suppress(TimeoutError):
            async with asyncio.timeout(_GOODBYE_S):
                await connection.gone.wait()

    # The retained state

    async def follow_live_calls(self) -> None:
        live_calls, clock = self._context.live_calls, self._context.clock
        version = live_calls.version
        self._retained.mirror(live_calls, clock.monotonic())
        self._dirty.set()
        while True:
            change = await self._next_change(version)
            if change is None:
                self._retained.count(live_calls.summaries())
            else:
                version = change.version
                self._retained.mirror(live_calls, clock.monotonic(), change.calls)
            self._retained.remove_ended(clock.monotonic())
            self._dirty.set()
            await clock.sleep(_MIRROR_EVERY_S)

    async def _next_change(self, version: int) -> LiveChange | None:
        """The next change; None when ended calls must be removed or a summary is due."""
        clock = self._context.clock
        due_s = self._retained.next_removal_s()
        wait_s = _SUMMARY_EVERY_S if due_s is None else min(_SUMMARY_EVERY_S, max(0.0, due_s - clock.monotonic()))
        changed = asyncio.ensure_future(self._context.live_calls.changed(version))
        slept = asyncio.ensure_future(clock.sleep(wait_s))
        try:
            await asyncio.wait({changed, slept}, return_when=asyncio.FIRST_COMPLETED)
            return changed.result() if changed.done() else None
        finally:
            changed.cancel()
            slept.cancel()

    async def _publish_one_state(self, connection: Connection) -> None:
        self._retained.publish_all()
        self._dirty.set()
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            await self._publish_state(connection, self._retained.take_dirty())

    async def _drop_state(self) -> None:
        """Discard changes of state, because this broker does not support retained messages."""
        while True:
            self._retained.take_dirty()
            self._dirty.clear()
            await self._dirty.wait()

    async def _publish_state(self, connection: Connection, state: Mapping[str, bytes]) -> None:
        """Publish a few topics at a time, each one once, so that the messages of a topic stay in order."""
        left = iter(state.items())
        refused: dict[str, Failure] = {}

        async def publish() -> None:
            for topic, payload in left:
                refusal = await connection.publish(self._state_message(topic, payload))
                if refusal is not None:
                    refused[topic] = refusal

        async with asyncio.TaskGroup() as tasks:
            for _ in range(min(_STATE_AT_ONCE, len(state))):
                tasks.create_task(publish())
        if refused and not connection.over.is_set():
            topic, refusal = next(iter(refused.items()))
            self._context.log("mqtt_state_refused", topic=topic, detail=refusal.detail, topics=len(refused))

    async def _sweep(self, connection: Connection, own: StaleTopics) -> None:
        """Remove retained topics of calls that are no longer live, such as calls that ended while disconnected."""
        try:
            stale = await own.read() - self._retained.wanted.keys()
        except UnreadableError as error:
            if not connection.over.is_set():
                self._context.log("mqtt_stale_state_kept", detail=str(error))
            return
        self._retained.dirty.update(stale)
        self._dirty.set()


def _outcome(answer: PublishResult, *, refused: str) -> Outcome:
    """`refused`: the topic of a rejected message; empty if the connection has ended."""
    if answer is None:
        return Delivered()
    if answer.code == PACKET_TOO_LARGE:
        return Rejected(answer.reason, answer.detail)
    detail = f"{answer.detail} (to {refused})" if refused else answer.detail
    if answer.code in _PERMANENT:
        return Rejected(answer.reason, detail, unless_alone=True)
    return Retry(answer.reason, detail)
