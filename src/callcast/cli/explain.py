"""`callcast explain`: show everything the outbox knows about a call, from polls and events to delivery attempts."""

import argparse
from collections.abc import Sequence
from typing import Any

from callcast.calls.model import Call, CallEvent
from callcast.cli.failure import CommandFailed
from callcast.cli.outbox import opened_outbox, wire_of
from callcast.cli.output import for_people, number_of, print_json, table
from callcast.formats.cloudevents import Wire, rfc3339
from callcast.ports.outbox_admin import Attempt, CallHistory, EventHistory


def run(args: argparse.Namespace) -> None:
    wire = wire_of(args)
    with opened_outbox(args) as admin:
        if args.call.startswith("evt_"):
            calls, history = [], admin.history_around(args.call)
        else:
            calls = list(admin.find(args.call))
            history = admin.history_of(calls[0]) if len(calls) == 1 else None
        if history is not None:
            _show(history, wire)
        elif calls:
            _list(calls, wire)
        else:
            raise CommandFailed(
                f"no call or event matches {args.call!r}: give a call id, a session id, an event id, or the last four "
                "digits of a phone number; delivered events are kept for service.retention_h"
            )


def _list(calls: Sequence[Call], wire: Wire) -> None:
    rows = [wire.call_dict(call) for call in calls]
    if for_people():
        print(table([("started", "call", "direction", "state", "from", "to"), *map(_row, rows)]))
        print("\nSeveral calls match. To show one of them, run callcast explain with its call id.")
    else:
        for row in rows:
            print_json({"call": row})


def _row(call: dict[str, Any]) -> tuple[str, ...]:
    return (
        call["started_at"],
        call["call_id"],
        call["direction"],
        _state(call),
        number_of(call["from"]) or "unknown",
        number_of(call["to"]) or "unknown",
    )


def _state(call: dict[str, Any]) -> str:
    return f"{call['state']} ({call['disposition']})" if call["disposition"] else str(call["state"])


# The history of one call


def _show(history: CallHistory, wire: Wire) -> None:
    facts = _facts(history, wire)
    if for_people():
        print("\n".join(_lines(facts)))
    else:
        print_json(facts)


def _facts(history: CallHistory, wire: Wire) -> dict[str, Any]:
    events = history.events
    return {
        "call": None if history.call is None else wire.call_dict(history.call),
        "events": [_event(one, wire) for one in events],
        "pending": [{"sink": sink, "event_id": one.stored.event.id} for one in events for sink in one.pending],
    }


def _event(history: EventHistory, wire: Wire) -> dict[str, Any]:
    event = wire.event_dict(history.stored.event)
    hint = history.stored.event.hint if isinstance(history.stored.event, CallEvent) else None
    names = dict.fromkeys([*(attempt.sink for attempt in history.attempts), *history.pending, *history.dead])
    return {
        "event": event,
        "poll": event["data"].get("observation"),
        "hint": None if hint is None else {"via": hint.via, "seconds_before": round(hint.seconds_before, 3)},
        "recorded_at": rfc3339(history.stored.recorded_at),
        "sinks": [_sink(name, history) for name in names],
    }


def _sink(name: str, history: EventHistory) -> dict[str, Any]:
    attempts = [attempt for attempt in history.attempts if attempt.sink == name]
    return {"sink": name, "state": _state_at(name, history, attempts), "attempts": [_attempt(one) for one in attempts]}


def _state_at(name: str, history: EventHistory, attempts: Sequence[Attempt]) -> str:
    if name in history.pending:
        return "pending"
    if name in history.dead:
        return "dead"
    last = attempts[-1].outcome
    return last if last in ("delivered", "expired") else "dropped"


def _attempt(attempt: Attempt) -> dict[str, Any]:
    return {
        "number": attempt.number,
        "at": rfc3339(attempt.at),
        "outcome": attempt.outcome,
        "detail": attempt.detail,
        "took_s": attempt.took_s,
    }


def _lines(facts: dict[str, Any]) -> list[str]:
    call = facts["call"]
    head = ["The call itself has been deleted; these are its events:"] if call is None else _head(call)
    pending = [f"{one['event_id']} to {one['sink']}" for one in facts["pending"]]
    return [
        *head,
        *(line for event in facts["events"] for line in _event_lines(event)),
        "",
        f"pending: {', '.join(pending) or 'none'}",
    ]


def _head(call: dict[str, Any]) -> list[str]:
    times = [f"{key.removesuffix('_at')} {call[key]}" for key in ("started_at", "answered_at", "ended_at") if call[key]]
    return [
        f"{call['call_id']}: {call['direction']}, {_state(call)}",
        f"from {number_of(call['from']) or 'unknown'} to {number_of(call['to']) or 'unknown'}",
        ", ".join(times),
    ]


def _event_lines(entry: dict[str, Any]) -> list[str]:
    event, poll = entry["event"], entry["poll"]
    lines = ["", f"{event['type']}  {event['id']}", f"  happened {event['time']}, recorded {entry['recorded_at']}"]
    if poll is not None:
        when = f"between the polls of {poll['after']} and {poll['before']}" if poll["after"] else "at the first poll"
        exactness = "time is exact" if poll["exact"] else "time is that of the poll"
        lines.append(f"  detected by {poll['evidence']} {when}; {exactness}")
    if (hint := entry["hint"]) is not None:
        lines.append(f"  poll caused by a {hint['via']} hint {hint['seconds_before']:.1f} s before")
    for sink in entry["sinks"]:
        lines.append(f"  {sink['sink']}: {sink['state']}")
        lines += [f"    {_attempt_line(attempt)}" for attempt in sink["attempts"]]
    return lines


def _attempt_line(attempt: dict[str, Any]) -> str:
    took = "not sent" if attempt["took_s"] is None else f"{attempt['took_s'] * 1000:.1f} ms"
    detail = f": {attempt['detail']}" if attempt["detail"] else ""
    return f"{attempt['number']}. {attempt['at']}  {attempt['outcome']}  {took}{detail}"
