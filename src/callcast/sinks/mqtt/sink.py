"""The MQTT sink: publishes events with acknowledgement, and live calls as retained topics."""

import asyncio
import math
import random
import ssl
from collections.abc import Mapping
from contextlib import suppress

from msgspec import json, structs

from callcast.calls.model import CallEvent
from callcast.formats.cloudevents import attributes, rfc3339
from callcast.formats.payloads import Status
from callcast.ports.connectivity import ConnectivityRequest, ConnectivityResult
from callcast.ports.live_calls import LiveChange
from callcast.ports.sink import Delivered, Delivery, Outcome, Rejected, Retry, SinkContext
from callcast.sinks.mqtt import Settings
from callcast.sinks.mqtt.connection import (
    LOST,
    PACKET_TOO_LARGE,
    RETAIN_NOT_SUPPORTED,
    SESSION_TAKEN_OVER,
    Connection,
    Failure,
    fix_of_failure,
)
from callcast.sinks.mqtt.home_assistant import Devices
from callcast.sinks.mqtt.retained_topics import (
    ConnectionOutcome,
    RetainedTopics,
    RetainSupport,
    StaleTopics,
    UnreadableError,
)
from callcast.sinks.mqtt.wire import EncodedProperties, Message, Topics, correlation, expiry, user_properties

_STATE_AT_ONCE = 8  # concurrent retained messages, in addition to events
_MIRROR_EVERY_S = 0.25  # the first change is published at once; of many in a row only the newest
_SUMMARY_EVERY_S = 10.0  # `as_of` and `complete` change without a call
_BACKOFF_MAX_S = 60.0
_STEADY_S = 30.0  # a connection that lasted this long counts as successful
_SHORT_IN_A_ROW = 3
_GOODBYE_S = 2.0  # for the offline status
_PERMANENT = (0x90, 0x99)  # topic name invalid, payload format invalid
_EVENT_TYPE = "application/cloudevents+json; charset=utf-8"
_STATE_PROPERTIES = EncodedProperties("application/json")
_SAME_ID = "another client uses this client_id: give each client its own"
_MAYBE_SAME_ID = "the broker closes the connection repeatedly: check whether another client uses this client_id"
_NO_STATE = (
    "the broker does not support retained messages: events are sent without retained state and without a will; "
    "allow retained messages in the broker, or set retain = false"
)
_LEFT_BEHIND = "remove the retained messages below this topic and below homeassistant/device in the broker"
_OFFLINE = b'{"state":"offline"}'
_CHECK_EVENT = "check/events/callcast.check"
_CHECK_STATE = "check/check/state"
_NO_RETAINED = Failure("retain_not_supported", "the broker does not support retained messages", RETAIN_NOT_SUPPORTED)


class MqttSink:
    """Publishes events. Reconnects automatically; while it is disconnected, `send` returns `Retry`.

    `stay_connected` and `follow_live_calls` must run as tasks.
    """

    def __init__(self, settings: Settings, context: SinkContext) -> None:
        self._settings = settings
        self._tls = settings.tls_context()
        self._context = context
        self._version_5 = settings.protocol == "5"
        self._topics = Topics(settings.topic)
        devices = None
        if settings.discovery:
            devices = Devices(self._topics, settings.events, context.wire.numbers, context.version)
        self._retained = RetainedTopics(self._topics, context.wire, settings.filter(), settings.tombstone_s, devices)
        self._client_id = _client_id(settings, context)
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
            async with asyncio.timeout(self._settings.timeout_s):
                await self._tried.wait()
                if self._connection is None:
                    return Retry(self._failure.reason, self._failure.detail)
                return await self._publish(self._connection, delivery)
        except TimeoutError:
            return Retry("timeout", "the broker did not acknowledge in time")
        except ValueError as error:
            return Rejected("malformed", str(error))

    async def _publish(self, connection: Connection, delivery: Delivery) -> Outcome:
        event = delivery.event
        properties = self._event_properties(delivery) if self._version_5 else None
        message = Message(self._topics.event(event), self._context.wire.event(event), properties=properties)
        failure = await connection.publish(message)
        if failure is None:
            return Delivered()
        if failure.code == PACKET_TOO_LARGE:
            return Rejected(failure.reason, failure.detail)
        detail = failure.detail if connection.over.is_set() else f"{failure.detail} (to {message.topic})"
        if failure.code in _PERMANENT:
            return Rejected(failure.reason, detail, unless_alone=True)
        return Retry(failure.reason, detail)

    def fix(self, outcome: Retry | Rejected, /) -> str:
        return fix_of_failure(Failure(outcome.reason, outcome.detail), self._client_id)

    async def reconnected(self) -> None:
        await self._back.wait()
        self._back.clear()

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
            self._report(failure, failures)
            backoff_s = min(_BACKOFF_MAX_S, 2.0 ** min(failures - 1, 16)) * self._jitter.uniform(0.5, 1.0)
            await self._context.clock.sleep(backoff_s)

    def _report(self, failure: Failure, failures: int) -> None:
        if failure.code == SESSION_TAKEN_OVER:
            self._context.log("mqtt_session_taken_over", client_id=self._client_id, hint=_SAME_ID)
        elif failures == _SHORT_IN_A_ROW and failure == LOST:  # not every broker gives a reason
            self._context.log("mqtt_connection_unsteady", client_id=self._client_id, hint=_MAYBE_SAME_ID)
        elif failures == 1:
            self._context.log("mqtt_connection_lost", reason=failure.reason, detail=failure.detail)

    async def _one_connection(self, *, again: bool) -> tuple[ConnectionOutcome, Failure]:
        """Run one connection until it ends. Returns how far it got, and why it ended."""
        retaining = self._retaining.try_next
        will = self._state_message(self._topics.status, _OFFLINE) if retaining else None
        in_flight_max = self._settings.concurrency + _STATE_AT_ONCE
        connection = Connection(self._settings, self._tls, self._client_id, will, in_flight_max=in_flight_max)
        outcome, stale = ConnectionOutcome.FAILED, None
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                await connection.open()
                retaining = retaining and connection.takes_retained
                if retaining and not connection.over.is_set():
                    stale = await self._announce(connection)
            if not connection.over.is_set():
                outcome = ConnectionOutcome.RETAINING if retaining else ConnectionOutcome.EVENTS_ONLY
                if self._retaining.is_final(outcome, reported=not connection.takes_retained):
                    await self._use(connection, stale, again=again)
        except TimeoutError:
            connection.give_up(Failure("timeout", "the broker did not respond in time"))
        finally:
            self._connection = None
            if retaining and connection.accepted.is_set() and not connection.over.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(_GOODBYE_S):
                        await connection.publish(self._state_message(self._topics.status, _OFFLINE))
            await connection.close()
        return outcome, connection.failure

    async def _use(self, connection: Connection, stale: StaleTopics | None, *, again: bool) -> None:
        """Send events and state until the connection is over. `stale` is None if it has no retained topics."""
        self._connection = connection
        self._tried.set()
        if again:
            self._back.set()
        if self._retaining.to_announce():
            self._context.log("mqtt_state_left_out", hint=_NO_STATE)
        async with asyncio.TaskGroup() as tasks:
            if stale is not None:
                work = [
                    tasks.create_task(self._publish_changes(connection)),
                    tasks.create_task(self._remove_stale(connection, stale)),
                ]
            else:
                work = [tasks.create_task(self._discard_changes())]
            await connection.over.wait()
            for task in work:
                task.cancel()

    async def _announce(self, connection: Connection) -> StaleTopics:
        """Subscribe to the retained topics, then publish the online status; in this order on the connection."""
        since, version = rfc3339(self._context.clock.wall()), self._context.version
        birth = json.encode(Status("online", since, version, self._client_id))
        stale = StaleTopics(connection, self._topics, birth, self._client_id)
        failure = await connection.publish(self._state_message(self._topics.status, birth))
        if failure is not None and not connection.over.is_set():
            self._context.log("mqtt_state_refused", topic=self._topics.status, detail=failure.detail)
        return stale

    # The retained state

    async def follow_live_calls(self) -> None:
        live_calls, clock = self._context.live_calls, self._context.clock
        version = live_calls.version
        self._retained.mirror(live_calls, clock.monotonic())
        self._retained.describe(live_calls, self._context.names)
        self._dirty.set()
        while True:
            change = await self._next_change(version)
            if change is None:
                self._retained.count(live_calls.summaries())
            else:
                version = change.version
                self._retained.mirror(live_calls, clock.monotonic(), change.calls)
            self._retained.describe(live_calls, self._context.names)
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

    async def _publish_changes(self, connection: Connection) -> None:
        self._retained.publish_all()
        self._dirty.set()
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            await self._publish_state(connection, self._retained.take_dirty())

    async def _discard_changes(self) -> None:
        """Used with a broker that does not support retained messages."""
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
                failure = await connection.publish(self._state_message(topic, payload))
                if failure is not None:
                    refused[topic] = failure

        async with asyncio.TaskGroup() as tasks:
            for _ in range(min(_STATE_AT_ONCE, len(state))):
                tasks.create_task(publish())
        if refused and not connection.over.is_set():
            topic, failure = next(iter(refused.items()))
            self._context.log("mqtt_state_refused", topic=topic, detail=failure.detail, topics=len(refused))

    async def _remove_stale(self, connection: Connection, stale: StaleTopics) -> None:
        """Remove retained topics of calls that are no longer live, such as calls that ended while disconnected."""
        live_calls = self._context.live_calls
        try:
            found, unread = await stale.read()
        except UnreadableError as error:
            if not connection.over.is_set():
                self._context.log("mqtt_stale_state_kept", detail=str(error))
            return
        if unread and self._settings.discovery:
            self._context.log("mqtt_stale_state_kept", detail=unread)
        self._retained.found(found, live_calls)
        self._retained.mirror(live_calls, self._context.clock.monotonic(), ())
        self._retained.describe(live_calls, self._context.names)
        self._dirty.set()


async def remove_retained(settings: Settings, context: SinkContext) -> None:
    """Remove all retained topics of a sink that is closed and will not be opened again."""
    try:
        async with asyncio.timeout(settings.timeout_s):
            problem = await _remove_retained(settings, context, settings.tls_context())
    except OSError as error:  # TimeoutError is one; a certificate file may be gone with the sink
        problem = error.strerror or "the broker did not respond in time"
    if problem:
        context.log("mqtt_state_left_behind", topic=settings.topic, detail=problem, hint=_LEFT_BEHIND)


async def _remove_retained(settings: Settings, context: SinkContext, tls: ssl.SSLContext) -> str:
    """Returns what prevented it, or an empty text."""
    topics, client_id = Topics(settings.topic), _client_id(settings, context)
    connection = Connection(settings, tls, client_id, None, in_flight_max=1)
    try:
        await connection.open()
        if connection.over.is_set():
            return connection.failure.detail
        if not connection.takes_retained:
            return ""
        offline = json.encode(Status("offline", rfc3339(context.clock.wall()), context.version, client_id))
        stale = StaleTopics(connection, topics, offline, client_id)
        await connection.publish(Message(topics.status, offline, retain=True))
        found, problem = await stale.read()
        for topic in (*sorted(found, key=topics.is_state), topics.status):
            failure = await connection.publish(Message(topic, b"", retain=True))
            problem = problem or (f"{failure.detail} (to {topic})" if failure else "")
        return problem
    except UnreadableError as error:
        return str(error)
    finally:
        await connection.close()


def _client_id(settings: Settings, context: SinkContext) -> str:
    return settings.client_id or f"callcast-{context.installation}-{context.name}"


# The connectivity check


async def check_connectivity(settings: Settings, request: ConnectivityRequest) -> ConnectivityResult:
    """Do what the sink does, with a separate client id and separate topics, and leave nothing behind.

    Without `send`, only connect with a will. The broker never publishes the will, because the check disconnects
    properly.
    """
    url = settings.address()
    where = f"{url.scheme}://{url.hostname}"
    client_id = f"{settings.client_id or f'callcast-{request.name}'}-check"
    failure = await _try(settings, client_id, send=request.send, retain=settings.retain)
    if settings.retain and failure is not None and failure.reason in ("retain_not_supported", LOST.reason):
        # With MQTT 3.1.1 a broker without retained messages just closes the connection.
        without = await _try(settings, client_id, send=request.send, retain=False)
        if without is None:
            detail = "does not support retained messages: events are sent without retained state and without a will"
            return ConnectivityResult("warning", f"{where} {detail}", fix_of_failure(_NO_RETAINED, client_id))
        failure = without
    if failure is not None:
        only_state = f"{settings.topic}/{_CHECK_STATE}" in failure.detail  # events can still be published
        fix = fix_of_failure(failure, client_id)
        return ConnectivityResult("warning" if only_state else "failed", f"{where}: {failure.detail}", fix)
    if request.send:
        return ConnectivityResult("good", f"{where} accepted a message to {settings.topic}/{_CHECK_EVENT}")
    return ConnectivityResult("good", f"{where} authenticated (MQTT {settings.protocol})")


async def _try(settings: Settings, client_id: str, *, send: bool, retain: bool) -> Failure | None:
    will = Message(f"{settings.topic}/check/status", _OFFLINE, retain=True) if retain else None
    messages = [Message(f"{settings.topic}/{_CHECK_EVENT}", b'{"type":"callcast.check"}')]
    if retain:
        idle = b'{"state":"idle","calls":0,"since":null,"caller":null}'
        messages += [Message(f"{settings.topic}/{_CHECK_STATE}", each, retain=True) for each in (idle, b"")]
    connection = Connection(settings, settings.tls_context(), client_id, will, in_flight_max=1)
    try:
        async with asyncio.timeout(settings.timeout_s):
            await connection.open()
            if connection.over.is_set():
                return connection.failure
            if retain and not connection.takes_retained:
                return _NO_RETAINED
            for message in messages if send else ():
                failure = await connection.publish(message)
                if failure is not None:
                    return structs.replace(failure, detail=f"{failure.detail} (to {message.topic})")
            return None
    except TimeoutError:
        return Failure("timeout", "the broker did not respond in time")
    finally:
        await connection.close()
