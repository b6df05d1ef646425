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
    from callcast.config import examine, load

    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a reload that is asked for before there is anything to reload
    path = Path(args.config)
    verdict = examine(path, os.environ)
    _say(verdict)
    if verdict.settings is None:
        return 78
    gc.freeze()  # what is loaded by now stays: to search all of it for garbage would hold the loop for 30 ms
    return await app.run(verdict.settings, read_config=lambda: load(path, os.environ))


def _say(verdict: "Verdict") -> None:
    """What is wrong, and what works and should not stay so: a line of the log each, a report on a terminal."""
    from callcast.cli.check import report
    from callcast.observability import logs

    if verdict.settings is None and sys.stderr.isatty():
        print(report(verdict.faults), file=sys.stderr)
        return
    service = verdict.settings and verdict.settings.service
    logs.configure(service.log_level if service else "info", service.log_format if service else "auto")
    log = logs.bound()
    for say, event, findings in (
        (log.error, "configuration_refused", verdict.faults),
        (log.warning, "configuration_doubted", verdict.warnings),
    ):
        for one in findings:
            key = {"key": one.key} if one.key else {}
            say(event, where=one.where, **key, detail=one.problem, fix=one.fix)
