"""`callcast explain`: everything the outbox knows of a call, from the polls that showed it to each sink's answers."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from callcast.cli.store_commands import EXIT_DONE, for_people, number_of, refuse, say, table, with_admin

if TYPE_CHECKING:
    from callcast.calls.model import Call
    from callcast.formats.cloudevents import Wire
    from callcast.outbox.sqlite.admin import OutboxAdmin
    from callcast.ports.outbox import Attempt, CallHistory, EventHistory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Tell everything that is known of a call: the looks that showed a change, the events, each sink's attempts "
        "with outcome and time taken, and what is still owed. Several matches are listed instead. Works beside a "
        "running service and without one. Prints JSON, one object a line, when standard output is no terminal."
    )
    parser.epilog = "example: callcast explain 6662"
    parser.add_argument(
        "call", metavar="CALL", help="a call id, a session id, an event id, or the last four digits of a number"
    )
    parser.add_argument("--full", action="store_true", help="whole phone numbers instead of their last four digits")


def run(args: argparse.Namespace) -> int:
    def work(admin: "OutboxAdmin") -> int:
        from callcast.formats.cloudevents import Wire

        wire = Wire("full" if args.full else "last4")
        if args.call.startswith("evt_"):
            story = admin.story_of(args.call)
            return _nothing(args.call) if story is None else _tell(story, wire)
        calls = admin.find(args.call)
        if not calls:
            return _nothing(args.call)
        return _tell(admin.story(calls[0]), wire) if len(calls) == 1 else _list(calls, wire)

    return with_admin(args, work)


def _nothing(what: str) -> int:
    return refuse(
        f"nothing is known of {what!r}: expected a call id, a session id, an event id, or the last four digits of a "
        "number; settled events are kept for service.retention_h"
    )


def _list(calls: "Sequence[Call]", wire: "Wire") -> int:
    told = [wire.call_dict(call) for call in calls]
    if for_people():
        print(table([("started", "call", "direction", "state", "from", "to"), *map(_row, told)]))
        print("\nSeveral calls match; callcast explain CALL tells one of them.")
    else:
        for one in told:
            say({"call": one})
    return EXIT_DONE


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


# One story


def _tell(story: "CallHistory", wire: "Wire") -> int:
    facts = _facts(story, wire)
    if for_people():
        print("\n".join(_lines(facts)))
    else:
        say(facts)
    return EXIT_DONE


def _facts(story: "CallHistory", wire: "Wire") -> dict[str, Any]:
    return {
        "call": None if story.call is None else wire.call_dict(story.call),
        "events": [_event(told, wire) for told in story.events],
        "owed": [{"sink": sink, "event_id": told.stored.event.id} for told in story.events for sink in told.pending],
    }


def _event(told: "EventHistory", wire: "Wire") -> dict[str, Any]:
    from callcast.formats.cloudevents import rfc3339

    event = wire.event_dict(told.stored.event)
    names = dict.fromkeys([*(attempt.sink for attempt in told.attempts), *told.pending, *told.dead])
    return {
        "event": event,
        "look": event["data"].get("observation"),
        "recorded_at": rfc3339(told.stored.recorded_at),
        "sinks": [_sink(name, told) for name in names],
    }


def _sink(name: str, told: "EventHistory") -> dict[str, Any]:
    attempts = [attempt for attempt in told.attempts if attempt.sink == name]
    return {"sink": name, "state": _outcome(name, told, attempts), "attempts": [_attempt(one) for one in attempts]}


def _outcome(name: str, told: "EventHistory", attempts: "Sequence[Attempt]") -> str:
    if name in told.pending:
        return "owed"
    if name in told.dead:
        return "dead"
    last = attempts[-1].word
    return last if last in ("delivered", "expired") else "dropped"


def _attempt(attempt: "Attempt") -> dict[str, Any]:
    from callcast.formats.cloudevents import rfc3339

    return {
        "number": attempt.number,
        "at": rfc3339(attempt.at),
        "outcome": attempt.word,
        "detail": attempt.detail,
        "took_s": attempt.took_s,
    }


def _lines(facts: dict[str, Any]) -> list[str]:
    call = facts["call"]
    head = ["what is known of the call itself is gone; its events:"] if call is None else _head(call)
    pending = [f"{one['event_id']} to {one['sink']}" for one in facts["owed"]]
    return [
        *head,
        *(line for event in facts["events"] for line in _event_lines(event)),
        "",
        f"still owed: {', '.join(pending) or 'nothing'}",
    ]


def _head(call: dict[str, Any]) -> list[str]:
    times = [f"{key.removesuffix('_at')} {call[key]}" for key in ("started_at", "answered_at", "ended_at") if call[key]]
    return [
        f"{call['call_id']}: {call['direction']}, {_state(call)}",
        f"from {number_of(call['from']) or 'unknown'} to {number_of(call['to']) or 'unknown'}",
        ", ".join(times),
    ]


def _event_lines(told: dict[str, Any]) -> list[str]:
    event, poll = told["event"], told["look"]
    lines = ["", f"{event['type']}  {event['id']}", f"  happened {event['time']}, recorded {told['recorded_at']}"]
    if poll is not None:
        how = "exactly so" if poll["exact"] else "the time of the look"
        lines.append(f"  seen by {poll['evidence']} after {poll['after'] or 'no poll'}, before {poll['before']}; {how}")
    for sink in told["sinks"]:
        lines.append(f"  {sink['sink']}: {sink['state']}")
        lines += [f"    {_attempt_line(attempt)}" for attempt in sink["attempts"]]
    return lines


def _attempt_line(attempt: dict[str, Any]) -> str:
    took = "not sent" if attempt["took_s"] is None else f"{attempt['took_s'] * 1000:.1f} ms"
    detail = f": {attempt['detail']}" if attempt["detail"] else ""
    return f"{attempt['number']}. {attempt['at']}  {attempt['outcome']}  {took}{detail}"
