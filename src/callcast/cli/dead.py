"""`callcast dead`: the events that a sink never took. Look at them, send them again, or forget them."""

import argparse
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from callcast.cli.store_commands import EXIT_DONE, age, for_people, number_of, refuse, say, table, with_admin

if TYPE_CHECKING:
    from callcast.formats.cloudevents import Wire
    from callcast.outbox.sqlite.admin import OutboxAdmin, Which
    from callcast.ports.outbox import DeadLetter

    Act = Callable[[OutboxAdmin, Which], int]

_FILTERS = ("sink", "type", "reason", "older_than", "newer_than")
_TITLES = ("died", "sink", "type", "call", "from", "to", "reason", "attempts", "event")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Dead letters are events that a sink rejected, or did not take within give_up_after_h. They are kept for "
        "dead_letter_days. Works beside a running service, which notices within a second, and without one. "
        "Prints JSON, one object a line, when standard output is no terminal."
    )
    parser.epilog = "example: callcast dead list --sink crm --older-than 1h | jq -r .event_id"
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    _action(actions, "list", "the letters, the oldest first", _list)
    _action(actions, "show", "one letter with its event", _show, ids=True)
    _action(actions, "retry", "send letters again, with the same ids and a new shelf life", _retry, ids=True)
    _action(actions, "drop", "forget letters", _drop, ids=True)


def _action(actions: Any, name: str, summary: str, run: Callable[[argparse.Namespace], int], ids: bool = False) -> None:
    parser: argparse.ArgumentParser = actions.add_parser(
        name,
        help=summary,
        description=summary,
        allow_abbrev=False,
        epilog=f"example: callcast dead {name} {_USES[name]}",
    )
    parser.set_defaults(act=run)
    parser.add_argument("--config", metavar="PATH", type=Path, default=argparse.SUPPRESS, help="as for callcast dead")
    if ids:
        parser.add_argument("ids", metavar="EVENT_ID", nargs="+" if name == "show" else "*")
    parser.add_argument("--sink", metavar="NAME", help="only this sink's")
    if name != "show":
        parser.add_argument("--type", metavar="GLOB", help="only events of these types, such as 'call.*'")
        parser.add_argument("--reason", metavar="WORD", help="only those that failed for it last, such as http_413")
        parser.add_argument("--older-than", metavar="AGE", type=age, help="dead for longer: 90s, 15m, 2h, 7d")
        parser.add_argument("--newer-than", metavar="AGE", type=age, help="dead for less long")
    if name in ("retry", "drop"):
        parser.add_argument("--all", action="store_true", help="every letter of every sink")
    if name in ("list", "show"):
        parser.add_argument("--full", action="store_true", help="whole phone numbers instead of their last four digits")


_USES = {
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
        told = (_facts(dead_letter, wire) for dead_letter in admin.dead_letters(_which(args)))
        if for_people():
            print(_as_table(told))
        else:
            for one in told:
                say(one)
        return EXIT_DONE

    return with_admin(args, work)


def _show(args: argparse.Namespace) -> int:
    def work(admin: "OutboxAdmin") -> int:
        from callcast.formats.cloudevents import Wire

        wire = Wire("full" if args.full else "last4")
        dead_letters = list(admin.dead_letters(_which(args)))
        if missing := set(args.ids) - {dead_letter.event.id for dead_letter in dead_letters}:
            return refuse(_no_dead_letter(sorted(missing)))
        for dead_letter in dead_letters:
            _tell(dead_letter, wire)
        return EXIT_DONE

    return with_admin(args, work)


def _tell(dead_letter: "DeadLetter", wire: "Wire") -> None:
    whole = _facts(dead_letter, wire) | {"event": wire.event_dict(dead_letter.event)}
    if not for_people():
        say(whole)
        return
    import json

    print(json.dumps(whole, ensure_ascii=False, indent=2))


def _retry(args: argparse.Namespace) -> int:
    return _change(args, "retried", lambda admin, which: admin.retry(datetime.now(UTC), which))


def _drop(args: argparse.Namespace) -> int:
    return _change(args, "dropped", lambda admin, which: admin.drop(which))


def _change(args: argparse.Namespace, done: str, act: "Act") -> int:
    if unclear := _unclear(args):
        return refuse(f"callcast dead {args.action}: {unclear}")

    def work(admin: "OutboxAdmin") -> int:
        which = _which(args)
        if unknown := _unknown_sink(admin, args.sink):
            return refuse(unknown)
        if args.ids and (
            missing := which.event_ids - {dead_letter.event.id for dead_letter in admin.dead_letters(which)}
        ):
            return refuse(_no_dead_letter(sorted(missing)))
        count = act(admin, which)
        if for_people():
            print(f"{count} {'letter' if count == 1 else 'letters'} {done}")
        else:
            say({done: count})
        return EXIT_DONE

    return with_admin(args, work)


def _unclear(args: argparse.Namespace) -> str:
    """Why it cannot be told which dead letters are meant; empty when it can."""
    chosen = [key for key in _FILTERS if getattr(args, key) is not None]
    if args.all and (args.ids or chosen):
        return "--all means every letter: leave it out, or everything that chooses some"
    if args.ids and set(chosen) - {"sink"}:
        return "name events, or choose by type, reason or age, not both"
    if not (args.all or args.ids or chosen):
        return "which letters? name events, or say --sink NAME or another choice, or --all"
    return ""


def _which(args: argparse.Namespace) -> "Which":
    from callcast.outbox.sqlite.admin import Which

    now, given = datetime.now(UTC), vars(args)
    older, newer = given.get("older_than"), given.get("newer_than")
    return Which(
        sink=args.sink,
        event_ids=frozenset(given.get("ids") or ()),
        type_=given.get("type") or "*",
        reason=given.get("reason"),
        since=None if newer is None else now - newer,
        until=None if older is None else now - older,
    )


def _unknown_sink(admin: "OutboxAdmin", name: str | None) -> str:
    known = admin.sinks()
    if name is None or name in known:
        return ""
    return f"no sink {name!r} was ever here: there are {', '.join(known)}"


def _no_dead_letter(event_ids: list[str]) -> str:
    return f"no dead letter {', '.join(event_ids)}: callcast dead list shows those that there are"


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


def _as_table(told: "Iterable[dict[str, Any]]") -> str:
    keys = ("died_at", "sink", "type", "subject", "from", "to", "reason", "attempts", "event_id")
    rows = [tuple(str(one[key] or "-") for key in keys) for one in told]
    return table([_TITLES, *rows]) if rows else "no dead letters"
