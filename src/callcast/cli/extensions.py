"""`callcast extensions`: list the extensions that a credential can see, with the ids to use in the configuration."""

import argparse
import json
import os
import sys
from collections.abc import Sequence

from callcast.cli.event_line import plain
from callcast.cli.failure import CommandFailed
from callcast.cli.output import print_json, table
from callcast.cli.platform import platform_access
from callcast.config.partial import data_dir, source, sources
from callcast.exit_codes import ExitCode
from callcast.ports.upstream import PollFailed
from callcast.provider import Extension

HEADER = ("id", "number", "name", "type", "status")


async def run(args: argparse.Namespace) -> None:
    names = sources(args.config)
    if not names:
        raise CommandFailed(f"{args.config} has no source: add a table [sources.NAME]", ExitCode.CONFIG)
    name = args.source or names[0]
    if name not in names:
        raise CommandFailed(f"{args.config} has no source {name!r}: use one of {', '.join(names)}")
    settings, folder = source(args.config, os.environ, name), data_dir(args.config, os.environ)
    if args.source is None and len(names) > 1:
        print(f"using the credential of source {name}; use --source to choose another of {len(names)}", file=sys.stderr)
    try:
        async with platform_access(folder) as provider:
            found = await provider.extensions(settings)
    except PollFailed as failure:
        problem = f"source {name}: {failure.cause}\n    fix: {failure.fix}"
        raise CommandFailed(problem, ExitCode.UNAVAILABLE) from failure
    _show(found, args)


def _show(found: Sequence[Extension], args: argparse.Namespace) -> None:
    if args.json:
        for one in found:
            print_json({field: getattr(one, field) for field in HEADER})
        return
    if not args.names:
        print(table([HEADER, *[tuple(plain(getattr(one, field)) for field in HEADER) for one in found]]))
        print()
    print("[names]")
    for one in found:
        if one.name:  # a TOML basic string has the same escapes as JSON
            print(f"{one.id} = {json.dumps(plain(one.name), ensure_ascii=False)}")
