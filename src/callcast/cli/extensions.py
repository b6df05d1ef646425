"""`callcast extensions`: the extensions that a credential sees, with the ids that the configuration wants."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from callcast.cli.event_line import plain
from callcast.cli.store_commands import EXIT_CONFIG, EXIT_DONE, EXIT_UNAVAILABLE, refuse, say, table

if TYPE_CHECKING:
    from pathlib import Path

    from callcast.ringcentral.directory import Extension
    from callcast.ringcentral.settings import SourceSettings

HEADER = ("id", "number", "name", "type", "status")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "List the extensions of the account as a source's credential sees them: id, number, name, type and status; "
        "then a [names] table for the configuration, which is what --names prints alone. The app needs the permission "
        "ReadAccounts. Exit code 69 when the platform refuses or cannot be reached, 78 when the configuration is wrong."
    )
    parser.epilog = "example: callcast extensions --source acme --names >> callcast.toml"
    parser.add_argument("--source", metavar="NAME", help="whose credential is used (default: the first source)")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--names", action="store_true", help="only the [names] table, as TOML")
    only.add_argument("--json", action="store_true", help="one JSON object a line instead")


async def run(args: argparse.Namespace) -> int:
    from callcast.config import ConfigFaults
    from callcast.config import partial as partly
    from callcast.ports.upstream import PollFailed

    try:
        names = partly.sources(args.config)
        if not names:
            return refuse(f"callcast: {args.config} has no source: add a table [sources.NAME]", EXIT_CONFIG)
        name = args.source or names[0]
        if name not in names:
            return refuse(f"callcast: {args.config} has no source {name}: use one of {', '.join(names)}")
        settings, folder = partly.source(args.config, os.environ, name), partly.data_dir(args.config, os.environ)
    except ConfigFaults as faults:
        return refuse(str(faults), EXIT_CONFIG)
    if args.source is None and len(names) > 1:
        print(f"as source {name} sees them; --source chooses another of {len(names)}", file=sys.stderr)
    try:
        found = await _found(settings, folder)
    except PollFailed as failure:
        return refuse(f"callcast: source {name}: {failure.said}\n    fix: {failure.remedy}", EXIT_UNAVAILABLE)
    _show(found, args)
    return EXIT_DONE


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
            say({field: getattr(one, field) for field in HEADER})
        return
    if not args.names:
        print(table([HEADER, *[tuple(plain(getattr(one, field)) for field in HEADER) for one in found]]))
        print()
    print("[names]")
    for one in found:
        if one.name:
            print(f"{one.id} = {_toml(one.name)}")


def _toml(text: str) -> str:
    """A basic string of TOML: JSON's escapes are TOML's too."""
    return json.dumps(plain(text), ensure_ascii=False)
