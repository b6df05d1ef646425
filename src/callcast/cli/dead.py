"""`callcast dead`: list, show, retry or drop dead letters, the events that a sink rejected or gave up on."""

import argparse
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from callcast.cli.store_commands import age, for_people, number_of, print_json, refuse, table, with_admin
from callcast.exit_codes import ExitCode

if TYPE_CHECKING:
    from callcast.formats.cloudevents import Wire
    from callcast.ports.outbox_admin import DeadLetter, OutboxAdmin, Selection

    Act = Callable[[OutboxAdmin, Selection], int]

_FILTERS = ("sink", "type", "reason", "older_than", "newer_than")
_TITLES = ("died", "sink", "type", "call", "from", "to", "reason", "attempts", "event")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Dead letters are events that a sink rejected, or did not acknowledge within give_up_after_h. They are kept "
        "for dead_letter_days. Works whether or not the service is running; a running service picks up changes "
        "within a second. Prints one JSON object per line if standard output is not a terminal."
    )
    parser.epilog = "example: callcast dead list --sink crm --older-than 1h | jq -r .event_id"
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    _action(actions, "list", "list dead letters, oldest first", _list)
    _action(actions, "show", "show dead letters with their events", _show, ids=True)
    _action(actions, "retry", "send dead letters again, with the same ids and a new time to live", _retry, ids=True)
    _action(actions, "drop", "delete dead letters", _drop, ids=True)


def _action(actions: Any, name: str, summary: str, run: Callable[[argparse.Namespace], int], ids: bool = False) -> None:
    parser: argparse.ArgumentParser = actions.add_parser(
        name,
        help=summary,
        description=summary,
        allow_abbrev=False,
        epilog=f"example: callcast dead {name} {_EXAMPLES[name]}",
    )
    parser.set_defaults(act=run)
    parser.add_argument("--config", metavar="PATH", type=Path, default=argparse.SUPPRESS, help="as for callcast dead")
    if ids:
        parser.add_argument("ids", metavar="EVENT_ID", nargs="+" if name == "show" else "*")
    parser.add_argument("--sink", metavar="NAME", help="only dead letters of this sink")
    if name != "show":
        parser.add_argument("--type", metavar="GLOB", help="only events of these types, such as 'call.*'")
        parser.add_argument(
            "--reason", metavar="WORD", help="only with this reason for the last failure, e.g. http_413"
        )
        parser.add_argument("--older-than", metavar="AGE", type=age, help="dead for longer than 90s, 15m, 2h, 7d")
        parser.add_argument("--newer-than", metavar="AGE", type=age, help="dead for less than 90s, 15m, 2h, 7d")
    if name in ("retry", "drop"):
        parser.add_argument("--all", action="store_true", help="all dead letters of all sinks")
    if name in ("list", "show"):
        parser.add_argument(
            "--full", action="store_true", help="show complete phone numbers, not only the last four digits"
        )


_EXAMPLES = {
    "list": "--sink crm --reason http_413",
    "show": "evt_k3v9... --full",
    "retry": "--sink crm --newer-than 2d",
    "drop": "--all --config /etc/callcast/config.toml",
}


def run(args: argparse.Namespace) -> int:
    code: int = args.act(args)
    return code


def _list(args: argparse.Namespace) -> int:
    def work(admin: "OutboxAdmin") -> int:
        if unknown := _unknown_sink(admin, args.sink):
            return refuse(unknown)
        from callcast.formats.cloudevents import Wire

        wire = Wire("full" if args.full else "last4")
        rows = (_facts(dead_letter, wire) for dead_letter in admin.dead_letters(_selection(args)))
        if for_people():
            print(_as_table(rows))
        else:
            for row in rows:
                print_json(row)
        return ExitCode.DONE

    return with_admin(args, work)


def _show(args: argparse.Namespace) -> int:
    def work(admin: "OutboxAdmin") -> int:
        from callcast.formats.cloudevents import Wire

        wire = Wire("full" if args.full else "last4")
        dead_letters = list(admin.dead_letters(_selection(args)))
        if missing := set(args.ids) - {dead_letter.event.id for dead_letter in dead_letters}:
            return refuse(_no_dead_letter(sorted(missing)))
        for dead_letter in dead_letters:
            _print(dead_letter, wire)
        return ExitCode.DONE

    return with_admin(args, work)


def _print(dead_letter: "DeadLetter", wire: "Wire") -> None:
    facts = _facts(dead_letter, wire) | {"event": wire.event_dict(dead_letter.event)}
    if not for_people():
        print_json(facts)
        return
    import json

    print(json.dumps(facts, ensure_ascii=False, indent=2))


def _retry(args: argparse.Namespace) -> int:
    return _change(args, "retried", lambda admin, selection: admin.retry(datetime.now(UTC), selection))


def _drop(args: argparse.Namespace) -> int:
    return _change(args, "dropped", lambda admin, selection: admin.drop(selection))


def _change(args: argparse.Namespace, done: str, act: "Act") -> int:
    if problem := _selection_problem(args):
        return refuse(f"callcast dead {args.action}: {problem}")

    def work(admin: "OutboxAdmin") -> int:
        selection = _selection(args)
        if unknown := _unknown_sink(admin, args.sink):
            return refuse(unknown)
        if args.ids and (
            missing := selection.event_ids - {dead_letter.event.id for dead_letter in admin.dead_letters(selection)}
        ):
            return refuse(_no_dead_letter(sorted(missing)))
        count = act(admin, selection)
        if for_people():
            print(f"{count} dead {'letter' if count == 1 else 'letters'} {done}")
        else:
            print_json({done: count})
        return ExitCode.DONE

    return with_admin(args, work)


def _selection_problem(args: argparse.Namespace) -> str:
    """Why the arguments do not select dead letters unambiguously; empty if they do."""
    filters = [key for key in _FILTERS if getattr(args, key) is not None]
    if args.all and (args.ids or filters):
        return "--all cannot be combined with EVENT_ID or a filter"
    if args.ids and set(filters) - {"sink"}:
        return "EVENT_ID can be combined only with --sink, not with other filters"
    if not (args.all or args.ids or filters):
        return "no dead letters selected: give EVENT_ID, a filter such as --sink NAME, or --all"
    return ""


def _selection(args: argparse.Namespace) -> "Selection":
    from callcast.ports.outbox_admin import Selection

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


def _unknown_sink(admin: "OutboxAdmin", name: str | None) -> str:
    known = [one.sink for one in admin.sinks()]
    if name is None or name in known:
        return ""
    return f"unknown sink {name!r}: the outbox has {', '.join(known) or 'none'}"


def _no_dead_letter(event_ids: list[str]) -> str:
    return f"no dead letter {', '.join(event_ids)}: run callcast dead list to see all"


def _facts(dead_letter: "DeadLetter", wire: "Wire") -> dict[str, Any]:
    from callcast.formats.cloudevents import rfc3339

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


def _as_table(letters: "Iterable[dict[str, Any]]") -> str:
    keys = ("died_at", "sink", "type", "subject", "from", "to", "reason", "attempts", "event_id")
    rows = [tuple(str(one[key] or "-") for key in keys) for one in letters]
    return table([_TITLES, *rows]) if rows else "no dead letters"
