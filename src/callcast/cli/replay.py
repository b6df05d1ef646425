"""`callcast replay`: send recorded events to a sink again."""

import argparse
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from callcast.cli.store_commands import for_people, moment, print_json, refuse, with_admin
from callcast.exit_codes import ExitCode

if TYPE_CHECKING:
    from callcast.ports.outbox_admin import OutboxAdmin
    from callcast.ports.sink import Filter


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Send recorded events to a sink again, with the same ids, oldest first, after all new events. The sink's "
        "filters (events, directions, extensions, sources) apply. Works whether or not the service is running; a "
        "running service starts sending within a second."
    )
    parser.epilog = "example: callcast replay --sink crm --since 2h --type 'call.ended'"
    parser.add_argument("--sink", metavar="NAME", required=True, help="the sink to send to")
    parser.add_argument(
        "--since",
        metavar="T",
        type=moment,
        required=True,
        help="start of the time range: RFC 3339, or an age such as 2h",
    )
    parser.add_argument("--until", metavar="T", type=moment, help="end of the time range (default: now)")
    parser.add_argument("--type", metavar="GLOB", default="*", help="only events of these types, such as 'call.*'")


def run(args: argparse.Namespace) -> int:
    from callcast.config.diagnostics import ConfigError
    from callcast.config.partial import sink_filters

    try:
        filters = sink_filters(args.config, os.environ)
    except ConfigError as faults:
        return refuse(str(faults), ExitCode.CONFIG)
    now = datetime.now(UTC)
    until = args.until or now
    if until < args.since:
        return refuse("callcast replay: --until is before --since")
    if args.sink not in filters:
        return refuse(f"{args.config} has no sink {args.sink!r}: it defines {', '.join(filters) or 'none'}")
    return with_admin(args, lambda admin: _replay(admin, args, now, until, filters[args.sink]))


def _replay(admin: "OutboxAdmin", args: argparse.Namespace, now: datetime, until: datetime, wish: "Filter") -> int:
    if args.sink not in [one.sink for one in admin.sinks()]:
        return refuse(f"the service has not run with a sink {args.sink!r} yet: start it, or reload its configuration")
    count = admin.replay(now, sink=args.sink, since=args.since, until=until, type_=args.type, wish=wish)
    if for_people():
        print(f"{count} {'event' if count == 1 else 'events'} queued for {args.sink}")
    else:
        print_json({"replayed": count})
    return ExitCode.DONE
