"""Zammad's generic CTI hook (https://docs.zammad.org/en/latest/api/generic-cti/index.html).

Zammad has one entry for each `callId`, here the session. An entry begins with `newCall`; Zammad answers with an error
when an entry begins twice, or is answered or hung up before it has begun.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from urllib.parse import urlencode

from callcast.calls.model import CallEvent, Direction, Event
from callcast.formats.cloudevents import Wire
from callcast.formats.payloads import Party
from callcast.ports.live_calls import LiveCalls
from callcast.ports.sink import Delivered, Delivery, Filter, Outcome, Rejected, Retry
from callcast.sinks.webhook.messages import dialable, sides

ACTIONS = {
    "call.ringing": "newCall",
    "call.dialing": "newCall",
    "call.answered": "answer",
    "call.ended": "hangup",
}
_CAUSES = {
    "busy": "busy",
    "missed": "noAnswer",
    "no_answer": "noAnswer",
    "voicemail": "noAnswer",
    "declined": "noAnswer",
    "blocked": "noAnswer",
    "abandoned": "cancel",
    "cancelled": "cancel",
    "failed": "congestion",
    "transferred": "forwarded",
}
_WRONG_ORDER = ("http_422", "http_500")  # how Zammad answers a request that the entry's state does not allow
_ENTRIES_MAX = 5000  # entries remembered; an older one would begin again, which Zammad refuses without harm

Post = Callable[[bytes], Awaitable[Outcome]]


def form(wire: Wire, event: Event, action: str = "") -> bytes:
    """The request for an event, in the form encoding of the documentation; empty if Zammad has none for it."""
    action = action or ACTIONS.get(event.type, "")
    if not action or not isinstance(event, CallEvent):
        return b""
    call, data = event.call, wire.call_data(event.call, event)
    _, own = sides(call, data)
    fields = [
        ("event", action),
        ("from", _number(data.from_party)),
        ("to", _number(data.to_party)),
        ("direction", "in" if call.direction == Direction.INBOUND else "out"),
        ("callId", call.session_id),
    ]
    if own and own.name:
        fields.append(("user[]", own.name))
    if data.queue and action == "newCall":
        fields.append(("queue", data.queue.name))
    if action == "hangup":
        fields.append(("cause", _CAUSES.get(call.disposition or "", "normalClearing")))
    return urlencode(fields).encode()


def _number(party: Party | None) -> str:
    """Digits with the country code, as in the documentation; `anonymous` if the number is withheld or redacted."""
    number = party and (dialable(party.number) or dialable(party.extension_number))
    return (number or "anonymous").removeprefix("+")


class Entries:
    """Sends the events of a session's parts as one entry: it begins once, and ends with the last part.

    What has been sent is kept in memory. After a restart Zammad refuses to begin an entry again; the second attempt
    takes this as success and continues with the entry.
    """

    def __init__(self, wire: Wire, live_calls: LiveCalls, filter_: Filter) -> None:
        self._wire = wire
        self._live_calls = live_calls
        self._filter = filter_
        self._parts: OrderedDict[str, set[str]] = OrderedDict()  # of each entry that has begun: the parts that go on
        self._turn = asyncio.Lock()

    async def send(self, delivery: Delivery, post: Post) -> Outcome:
        event = delivery.event
        action = ACTIONS.get(event.type)
        if action is None or not isinstance(event, CallEvent):
            return Delivered(f"nothing sent: Zammad has no request for {event.type}")
        async with self._turn:
            return await self._send(delivery, event, action, post)

    async def _send(self, delivery: Delivery, event: CallEvent, action: str, post: Post) -> Outcome:
        session, part = event.call.session_id, event.call.call_id
        outcome: Outcome = Delivered("nothing sent: the entry of this session has begun")
        begins = session not in self._parts
        if begins:
            outcome = await post(form(self._wire, event, "newCall"))
            begun_before = delivery.attempt > 1 and _reason(outcome) in _WRONG_ORDER
            if not isinstance(outcome, Delivered) and not begun_before:
                return outcome
            if begun_before:
                outcome = Delivered("the entry of this session had begun before")
            self._remember(session)
        parts = self._parts[session]
        if action == "newCall":
            parts.add(part)
            return outcome
        if action == "hangup" and (parts - {part} or self._goes_on(event)):
            parts.discard(part)
            return Delivered("nothing sent: another part of this session goes on")
        if action == "hangup" and not begins and not parts:
            return Delivered("nothing sent: the entry of this session has ended")
        outcome = await post(form(self._wire, event))
        if isinstance(outcome, Delivered):
            parts.add(part) if action == "answer" else parts.discard(part)
        elif _reason(outcome) in _WRONG_ORDER:
            del self._parts[session]  # perhaps it has not begun: the next attempt begins it
        return outcome

    def _remember(self, session: str) -> None:
        self._parts[session] = set()
        while len(self._parts) > _ENTRIES_MAX:
            self._parts.popitem(last=False)

    def _goes_on(self, event: CallEvent) -> bool:
        """Whether another part of the session is live, of those whose end this sink gets."""
        ended = event.call
        return any(
            call.session_id == ended.session_id
            and call.call_id != ended.call_id
            and call.account_id == ended.account_id
            and self._filter.shows(call)
            for call in self._live_calls.calls()
        )


def _reason(outcome: Outcome) -> str:
    return outcome.reason if isinstance(outcome, Retry | Rejected) else ""
