"""`callcast replay`: sends recorded events to a sink again."""

import argparse
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from callcast.cli.store_commands import EXIT_CONFIG, EXIT_DONE, for_people, moment, refuse, say, with_admin

if TYPE_CHECKING:
    from callcast.outbox.sqlite.admin import OutboxAdmin
    from callcast.ports.sink import Filter


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Send recorded events to a sink again, with the same ids, the oldest first, behind everything that is new. "
        "Of what was recorded in that time the sink gets what its events, directions and extensions let through. "
        "Works beside a running service, which notices within a second, and without one."
    )
    parser.epilog = "example: callcast replay --sink crm --since 2h --type 'call.ended'"
    parser.add_argument("--sink", metavar="NAME", required=True, help="who gets them")
    parser.add_argument(
        "--since", metavar="T", type=moment, required=True, help="recorded since: RFC 3339, or an age such as 2h"
    )
    parser.add_argument("--until", metavar="T", type=moment, help="recorded until (default: now)")
    parser.add_argument("--type", metavar="GLOB", default="*", help="only events of these types, such as 'call.*'")


def run(args: argparse.Namespace) -> int:
    from callcast.config.diagnostics import ConfigFaults
    from callcast.config.partial import sink_filters

    try:
        filters = sink_filters(args.config, os.environ)
    except ConfigFaults as faults:
        return refuse(str(faults), EXIT_CONFIG)
    now = datetime.now(UTC)
    until = args.until or now
    if until < args.since:
        return refuse("--until is before --since: nothing lies between them")
    if args.sink not in filters:
        return refuse(f"{args.config} has no sink {args.sink!r}: there are {', '.join(filters) or 'none'}")
    return with_admin(args, lambda admin: _replay(admin, args, now, until, filters[args.sink]))


def _replay(admin: "OutboxAdmin", args: argparse.Namespace, now: datetime, until: datetime, wish: "Filter") -> int:
    if args.sink not in admin.sinks():
        return refuse(f"the service has never run with a sink {args.sink!r}: start it, or reload its configuration")
    count = admin.replay(now, sink=args.sink, since=args.since, until=until, type_=args.type, wish=wish)
    if for_people():
        print(f"{count} {'event goes' if count == 1 else 'events go'} to {args.sink} again")
    else:
        say({"replayed": count})
    return EXIT_DONE
