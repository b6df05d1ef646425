"""`callcast extensions`: list the extensions that a credential can see, with the ids to use in the configuration."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from callcast.cli.event_line import plain
from callcast.cli.store_commands import print_json, refuse, table
from callcast.exit_codes import ExitCode

if TYPE_CHECKING:
    from pathlib import Path

    from callcast.ringcentral.directory import Extension
    from callcast.ringcentral.settings import SourceSettings

HEADER = ("id", "number", "name", "type", "status")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "List the extensions of the account that a source's credential can see: id, number, name, type and status, "
        "followed by a [names] table for the configuration. The app needs the permission ReadAccounts. Exit codes: "
        "69 if the platform rejects the request or is unreachable, 78 if the configuration is invalid."
    )
    parser.epilog = "example: callcast extensions --source acme --names >> callcast.toml"
    parser.add_argument("--source", metavar="NAME", help="the source whose credential to use (default: the first)")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--names", action="store_true", help="print only the [names] table, as TOML")
    only.add_argument("--json", action="store_true", help="print one JSON object per line")


async def run(args: argparse.Namespace) -> int:
    from callcast.config import ConfigError
    from callcast.config import partial as partly
    from callcast.ports.upstream import PollFailed

    try:
        names = partly.sources(args.config)
        if not names:
            return refuse(f"callcast: {args.config} has no source: add a table [sources.NAME]", ExitCode.CONFIG)
        name = args.source or names[0]
        if name not in names:
            return refuse(f"callcast: {args.config} has no source {name}: use one of {', '.join(names)}")
        settings, folder = partly.source(args.config, os.environ, name), partly.data_dir(args.config, os.environ)
    except ConfigError as faults:
        return refuse(str(faults), ExitCode.CONFIG)
    if args.source is None and len(names) > 1:
        print(f"using the credential of source {name}; use --source to choose another of {len(names)}", file=sys.stderr)
    try:
        found = await _found(settings, folder)
    except PollFailed as failure:
        return refuse(f"callcast: source {name}: {failure.cause}\n    fix: {failure.fix}", ExitCode.UNAVAILABLE)
    _show(found, args)
    return ExitCode.DONE


async def _found(settings: "SourceSettings", folder: "Path") -> "Sequence[Extension]":
    import aiohttp

    from callcast import __version__
    from callcast.app import SystemClock
    from callcast.ringcentral.directory import extensions
    from callcast.ringcentral.sign_in import FILE, SignIns

    clock = SystemClock()
    sign_ins = SignIns(clock, path=folder / FILE, writes=False)
    await sign_ins.load()
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        return await extensions(settings, session=session, sign_ins=sign_ins, clock=clock, version=__version__)


def _show(found: "Sequence[Extension]", args: argparse.Namespace) -> None:
    if args.json:
        for one in found:
            print_json({field: getattr(one, field) for field in HEADER})
        return
    if not args.names:
        print(table([HEADER, *[tuple(plain(getattr(one, field)) for field in HEADER) for one in found]]))
        print()
    print("[names]")
    for one in found:
        if one.name:
            print(f"{one.id} = {_toml(one.name)}")


def _toml(text: str) -> str:
    """Return text as a TOML basic string, which uses the same escapes as JSON."""
    return json.dumps(plain(text), ensure_ascii=False)
