"""`callcast run`: the service."""

import argparse
import gc
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from callcast.config import Verdict


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Run the service until SIGTERM or SIGINT. SIGHUP reads the configuration again. Standard output carries "
        "only the stdout sink's lines; logs go to standard error."
    )
    parser.epilog = "example: callcast run --config /etc/callcast/config.toml"


async def run(args: argparse.Namespace) -> int:
    from callcast import app
    from callcast.commands.check import report
    from callcast.config import examine, load

    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a reload that is asked for before there is anything to reload
    path = Path(args.config)
    verdict = examine(path, os.environ)
    if verdict.settings is None:
        print(report(verdict.faults), file=sys.stderr)
        return 78
    _warn(verdict)
    gc.freeze()  # what is loaded by now stays: to search all of it for garbage would hold the loop for 30 ms
    return await app.run(verdict.settings, read_again=lambda: load(path, os.environ))


def _warn(verdict: "Verdict") -> None:
    """What works and should not stay so: a line of the log each."""
    from callcast import logs

    if verdict.settings is not None:
        logs.configure(verdict.settings.service.log_level, verdict.settings.service.log_format)
    for one in verdict.warnings:
        key = {"key": one.key} if one.key else {}
        logs.bound().warning("configuration_doubted", where=one.where, **key, detail=one.problem, fix=one.fix)
