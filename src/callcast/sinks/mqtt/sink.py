"""The MQTT sink: events answered by the broker's acknowledgement, and the board mirrored in retained topics."""

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
from callcast.sinks.mqtt.connection import LOST, PACKET_TOO_LARGE, TAKEN_OVER, Answer, Link, Message, Trouble
from callcast.sinks.mqtt.properties import Packed, correlation, expiry, user_properties
from callcast.sinks.mqtt.retain_support import Greeting, RetainSupport
from callcast.sinks.mqtt.retained_topics import Retained, Topics
from callcast.sinks.mqtt.stale_topics import StaleTopics, UnreadableError

_STATE_AT_ONCE = 8  # retained messages under way at the same time, beside the events
_MIRROR_EVERY_S = 0.25  # a change after a quiet time is told at once; of many in a row only the newest
_SUMMARY_EVERY_S = 10.0  # `as_of` and `complete` change without a call
_BACKOFF_MAX_S = 60.0
_STEADY_S = 30.0  # a connection that lasted this long was a good one
_SHORT_IN_A_ROW = 3
_GOODBYE_S = 2.0
_NEVER_RIGHT = (0x90, 0x99)  # topic name invalid, payload format invalid
_EVENT_TYPE = "application/cloudevents+json; charset=utf-8"
_OF_STATE = Packed("application/json")
_SAME_ID = "another client uses this client_id: give each its own"
_MAYBE_SAME_ID = "the broker closes the connection again and again: perhaps another client uses this client_id"
_NO_STATE = (
    "the broker takes no retained messages, so it gets events without state and without a will: "
    "allow retained messages in the broker, or set retain = false"
)
_OFFLINE = b'{"state":"offline"}'


class MqttSink:
    """Stays connected by itself; while it is not, it says `Retry`. `follow_live_calls` and `stay_connected` run
    along.
    """

    def __init__(self, settings: Settings, context: SinkContext) -> None:
        self._context = context
        self._timeout_s = settings.timeout_s
        self._version_5 = settings.protocol == "5"
        self._topics = Topics(settings.topic)
        self._retained = Retained(self._topics, context.wire, settings.filter(), settings.tombstone_s)
        self._client_id = settings.client_id or f"callcast-{context.installation}-{context.name}"
        will = self._state_message(self._topics.status, _OFFLINE)
        self._access = connect_options(
            settings, self._client_id, will, in_flight_max=settings.concurrency + _STATE_AT_ONCE
        )
        self._retaining = RetainSupport(wanted=settings.retain)
        self._link: Link | None = None
        self._trouble = Trouble("disconnected", "not connected yet")
        self._tried = asyncio.Event()
        self._back = asyncio.Event()
        self._dirty = asyncio.Event()
        # Apart from others that lost the same broker at the same moment, and the same in every run.
        self._jitter = random.Random(self._client_id)  # noqa: S311

    # Events

    async def send(self, delivery: Delivery, /) -> Outcome:
        try:
            if self._link is not None and self._link.has_room():  # then its own limit is enough
                return await self._publish(self._link, delivery)
            async with asyncio.timeout(self._timeout_s):
                await self._tried.wait()
                if self._link is None:
                    return Retry(self._trouble.reason, self._trouble.detail)
                return await self._publish(self._link, delivery)
        except TimeoutError:
            return Retry("timeout", "the broker did not acknowledge in time")
        except ValueError as error:
            return Rejected("malformed", str(error))

    async def _publish(self, link: Link, delivery: Delivery) -> Outcome:
        message = self._event_message(delivery)
        answer = await link.publish(message)
        return _outcome(answer, refused="" if link.over.is_set() else message.topic)

    def advice(self, outcome: Retry | Rejected, /) -> str:
        return remedy_of(Trouble(outcome.reason, outcome.detail), self._client_id)

    async def reconnected(self) -> None:
        await self._back.wait()
        self._back.clear()

    def _event_message(self, delivery: Delivery) -> Message:
        event = delivery.event
        properties = self._event_properties(delivery) if self._version_5 else None
        return Message(self._topics.event(event), self._context.wire.event(event), properties=properties)

    def _event_properties(self, delivery: Delivery) -> Packed:
        event = delivery.event
        told = attributes(event)
        del told["datacontenttype"]  # of the event's data; the message's own type is that of the whole event
        more = [user_properties(told)]
        if isinstance(event, CallEvent):
            more.append(correlation(event.call.call_id))
        if delivery.expires_at is not None:
            left_s = (delivery.expires_at - self._context.clock.now()).total_seconds()
            more.append(expiry(math.ceil(left_s)))
        return Packed(_EVENT_TYPE, *more)

    def _state_message(self, topic: str, payload: bytes) -> Message:
        return Message(topic, payload, True, _OF_STATE if self._version_5 and payload else None)

    # The connection

    async def stay_connected(self) -> None:
        failures = 0
        while True:
            began_s = self._context.clock.monotonic()
            outcome, trouble = await self._one_connection(again=failures > 0)
            if self._retaining.learn(outcome, trouble):
                continue
            self._trouble = trouble
            self._tried.set()
            steady = self._context.clock.monotonic() - began_s >= _STEADY_S
            failures = 1 if steady else failures + 1
            self._tell(failures)
            await self._context.clock.sleep(self._backoff_s(failures))

    def _backoff_s(self, failures: int) -> float:
        return min(_BACKOFF_MAX_S, 2.0 ** min(failures - 1, 16)) * self._jitter.uniform(0.5, 1.0)

    def _tell(self, failures: int) -> None:
        trouble = self._trouble
        if trouble.code == TAKEN_OVER:
            self._context.log("mqtt_session_taken_over", client_id=self._client_id, hint=_SAME_ID)
        elif failures == _SHORT_IN_A_ROW and trouble == LOST:  # not every broker says why
            self._context.log("mqtt_connection_unsteady", client_id=self._client_id, hint=_MAYBE_SAME_ID)
        elif failures == 1:
            self._context.log("mqtt_connection_lost", reason=trouble.reason, detail=trouble.detail)

    async def _one_connection(self, *, again: bool) -> tuple[Greeting, Trouble]:
        """From the first packet to the last. Returns how far it came, and why it is over."""
        retaining = self._retaining.try_next
        link = Link(self._access if retaining else structs.replace(self._access, will=None))
        outcome = Greeting.FAILED
        try:
            async with asyncio.timeout(self._timeout_s):
                await link.opened.wait()
                retaining = retaining and link.takes_retained
                own = await self._greet(link) if retaining and not link.over.is_set() else None
            if not link.over.is_set():
                outcome = Greeting.RETAINING if retaining else Greeting.EVENTS_ONLY
                if self._retaining.settles(outcome, said=not link.takes_retained):
                    await self._stay(link, own, again=again)
        except TimeoutError:
            link.give_up(Trouble("timeout", "the broker did not answer in time"))
        finally:
            self._link = None
            await self._leave(link, retaining=retaining)
        return outcome, link.trouble

    async def _stay(self, link: Link, own: StaleTopics | None, *, again: bool) -> None:
        self._link = link
        self._tried.set()
        if again:
            self._back.set()
        if self._retaining.to_announce():
            self._context.log("mqtt_state_left_out", hint=_NO_STATE)
        await self._work_while_up(link, own)

    async def _greet(self, link: Link) -> StaleTopics:
        """Ask what the broker still remembers, then say that we are here; in this order on the wire."""
        birth = json.encode(
            {
                "state": "online",
                "since": rfc3339(self._context.clock.wall()),
                "version": self._context.version,
                "client_id": self._client_id,
            }
        )
        own = StaleTopics(link, self._topics, birth, self._client_id)
        refusal = await link.publish(self._state_message(self._topics.status, birth))
        if refusal is not None and not link.over.is_set():
            self._context.log("mqtt_state_refused", topic=self._topics.status, detail=refusal.detail)
        return own

    async def _work_while_up(self, link: Link, own: StaleTopics | None) -> None:
        async with asyncio.TaskGroup() as tasks:
            if own is not None:
                work = [tasks.create_task(self._publish_one_state(link)), tasks.create_task(self._sweep(link, own))]
            else:
                work = [tasks.create_task(self._drop_state())]
            await link.over.wait()
            for task in work:
                task.cancel()

    async def _leave(self, link: Link, *, retaining: bool) -> None:
        if not link.opened.is_set():
            link.give_up(link.trouble)
            return
        if retaining:
            with suppress(TimeoutError):
                async with asyncio.timeout(_GOODBYE_S):
                    await link.publish(self._state_message(self._topics.status, _OFFLINE))
        link.give_up(link.trouble)
        with suppress(TimeoutError):
            async with asyncio.timeout(_GOODBYE_S):
                await link.gone.wait()

    # The retained state

    async def follow_live_calls(self) -> None:
        live_calls, clock = self._context.live_calls, self._context.clock
        version = live_calls.version
        self._retained.mirror(live_calls, clock.monotonic())
        self._dirty.set()
        while True:
            turn = await self._next_turn(version)
            if turn is None:
                self._retained.count(live_calls.summaries())
            else:
                version = turn.version
                self._retained.mirror(live_calls, clock.monotonic(), turn.calls)
            self._retained.bury(clock.monotonic())
            self._dirty.set()
            await clock.sleep(_MIRROR_EVERY_S)

    async def _next_turn(self, version: int) -> LiveChange | None:
        """What changed; None when it is time for a burial or the summary."""
        clock = self._context.clock
        due_s = self._retained.next_burial_s()
        wait_s = _SUMMARY_EVERY_S if due_s is None else min(_SUMMARY_EVERY_S, max(0.0, due_s - clock.monotonic()))
        changed = asyncio.ensure_future(self._context.live_calls.changed(version))
        slept = asyncio.ensure_future(clock.sleep(wait_s))
        try:
            await asyncio.wait({changed, slept}, return_when=asyncio.FIRST_COMPLETED)
            return changed.result() if changed.done() else None
        finally:
            changed.cancel()
            slept.cancel()

    async def _publish_one_state(self, link: Link) -> None:
        self._retained.publish_all()
        self._dirty.set()
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            await self._publish_state(link, self._retained.take_dirty())

    async def _drop_state(self) -> None:
        """A broker without retained messages is never sent what waits; so it must not pile up."""
        while True:
            self._retained.take_dirty()
            self._dirty.clear()
            await self._dirty.wait()

    async def _publish_state(self, link: Link, state: Mapping[str, bytes]) -> None:
        """A few at a time, each topic once: so the order of a topic's messages is kept."""
        left = iter(state.items())
        refused: dict[str, Trouble] = {}

        async def publish() -> None:
            for topic, payload in left:
                refusal = await link.publish(self._state_message(topic, payload))
                if refusal is not None:
                    refused[topic] = refusal

        async with asyncio.TaskGroup() as tasks:
            for _ in range(min(_STATE_AT_ONCE, len(state))):
                tasks.create_task(publish())
        if refused and not link.over.is_set():
            topic, refusal = next(iter(refused.items()))
            self._context.log("mqtt_state_refused", topic=topic, detail=refusal.detail, topics=len(refused))

    async def _sweep(self, link: Link, own: StaleTopics) -> None:
        """Remove what the broker still remembers of us and the board does not show: calls that ended unseen."""
        try:
            stale = await own.read() - self._retained.wanted.keys()
        except UnreadableError as error:
            if not link.over.is_set():
                self._context.log("mqtt_stale_state_kept", detail=str(error))
            return
        self._retained.dirty.update(stale)
        self._dirty.set()


def _outcome(answer: Answer, *, refused: str) -> Outcome:
    """`refused`: the topic, where the broker said so and stayed."""
    if answer is None:
        return Delivered()
    if answer.code == PACKET_TOO_LARGE:
        return Rejected(answer.reason, answer.detail)
    detail = f"{answer.detail} (to {refused})" if refused else answer.detail
    if answer.code in _NEVER_RIGHT:
        return Rejected(answer.reason, detail, unless_alone=True)
    return Retry(answer.reason, detail)
