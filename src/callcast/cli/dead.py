"""`callcast dead`: list, show, retry or drop dead letters, the events that a sink rejected or gave up on."""

import argparse
import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from callcast.cli.failure import CommandFailed
from callcast.cli.outbox import opened_outbox, wire_of
from callcast.cli.output import counted, for_people, number_of, print_json, table
from callcast.formats.cloudevents import Wire, rfc3339
from callcast.ports.outbox_admin import DeadLetter, OutboxAdmin, Selection

_COLUMNS = {
    "died": "died_at",
    "sink": "sink",
    "type": "type",
    "call": "subject",
    "from": "from",
    "to": "to",
    "reason": "reason",
    "attempts": "attempts",
    "event": "event_id",
}


def run(args: argparse.Namespace) -> None:
    if args.action in ("retry", "drop"):
        _check_selection(args)
    selection = _selection(args)
    with opened_outbox(args) as admin:
        if selection.sink is not None and selection.sink not in (known := [one.sink for one in admin.sinks()]):
            raise CommandFailed(f"unknown sink {selection.sink!r}: the outbox has {', '.join(known) or 'none'}")
        if missing := sorted(selection.event_ids - {one.event.id for one in _named(admin, selection)}):
            raise CommandFailed(f"no dead letter {', '.join(missing)}: run callcast dead list to see all")
        if args.action == "list":
            _list([_facts(one, wire_of(args)) for one in admin.dead_letters(selection)])
        elif args.action == "show":
            _show(admin.dead_letters(selection), wire_of(args))
        elif args.action == "retry":
            _changed("retried", admin.retry(datetime.now(UTC), selection))
        else:
            _changed("dropped", admin.drop(selection))


def _check_selection(args: argparse.Namespace) -> None:
    """Raise CommandFailed if the arguments do not select dead letters unambiguously."""
    filters = [key for key in ("sink", "type", "reason", "older_than", "newer_than") if getattr(args, key) is not None]
    if args.all and (args.ids or filters):
        raise CommandFailed("--all cannot be combined with EVENT_ID or a filter")
    if args.ids and set(filters) - {"sink"}:
        raise CommandFailed("EVENT_ID can be combined only with --sink, not with other filters")
    if not (args.all or args.ids or filters):
        raise CommandFailed("no dead letters selected: give EVENT_ID, a filter such as --sink NAME, or --all")


def _selection(args: argparse.Namespace) -> Selection:
    now, given = datetime.now(UTC), vars(args)
    older, newer = given.get("older_than"), given.get("newer_than")
    return Selection(
        sink=args.sink,
        event_ids=frozenset(given.get("ids") or ()),
        type_=given.get("type") or "*",
        reason=given.get("reason"),
        since=None if newer is None else now - newer,
        until=None if older is None else now - older,
    )


def _named(admin: OutboxAdmin, selection: Selection) -> Iterable[DeadLetter]:
    """Return the dead letters that are selected by id; none if they are selected otherwise."""
    return admin.dead_letters(selection) if selection.event_ids else ()


def _list(rows: list[dict[str, Any]]) -> None:
    if not for_people():
        for row in rows:
            print_json(row)
    elif rows:
        print(table([tuple(_COLUMNS), *(tuple(str(row[key] or "-") for key in _COLUMNS.values()) for row in rows)]))
    else:
        print("no dead letters")


def _show(dead_letters: Iterable[DeadLetter], wire: Wire) -> None:
    for one in dead_letters:
        facts = _facts(one, wire) | {"event": wire.event_dict(one.event)}
        if for_people():
            print(json.dumps(facts, ensure_ascii=False, indent=2))
        else:
            print_json(facts)


def _changed(done: str, count: int) -> None:
    if for_people():
        print(f"{counted(count, 'dead letter')} {done}")
    else:
        print_json({done: count})


def _facts(dead_letter: DeadLetter, wire: Wire) -> dict[str, Any]:
    data = wire.event_dict(dead_letter.event)["data"]
    return {
        "event_id": dead_letter.event.id,
        "type": dead_letter.event.type,
        "subject": dead_letter.event.key,
        "from": number_of(data.get("from")),
        "to": number_of(data.get("to")),
        "sink": dead_letter.sink,
        "died_at": rfc3339(dead_letter.dead_at),
        "attempts": dead_letter.attempts,
        "reason": dead_letter.reason,
        "detail": dead_letter.detail,
    }
