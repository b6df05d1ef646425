"""`callcast replay`: send recorded events to a sink again."""

import argparse
import os
from datetime import UTC, datetime

from callcast.cli.failure import CommandFailed
from callcast.cli.outbox import opened_outbox
from callcast.cli.output import counted, for_people, print_json
from callcast.config.partial import sink_filters


def run(args: argparse.Namespace) -> None:
    filters, now = sink_filters(args.config, os.environ), datetime.now(UTC)
    until = args.until or now
    if until < args.since:
        raise CommandFailed("--until is before --since: exchange them, or leave --until out for now")
    if args.sink not in filters:
        raise CommandFailed(f"{args.config} has no sink {args.sink!r}: it defines {', '.join(filters) or 'none'}")
    with opened_outbox(args) as admin:
        if args.sink not in [one.sink for one in admin.sinks()]:
            problem = f"the service has not run with a sink {args.sink!r} yet"
            raise CommandFailed(f"{problem}: start it, or reload its configuration")
        count = admin.replay(
            now, sink=args.sink, since=args.since, until=until, type_=args.type, only=filters[args.sink]
        )
    if for_people():
        print(f"{counted(count, 'event')} queued for {args.sink}")
    else:
        print_json({"replayed": count})
