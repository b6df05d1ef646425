"""`callcast run`: run the service."""

import argparse
import gc
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from callcast.exit_codes import ExitCode

if TYPE_CHECKING:
    from callcast.config import ValidationResult


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Run the service until SIGTERM or SIGINT. SIGHUP reloads the configuration. Standard output carries only "
        "the events of a stdout sink; logs go to standard error."
    )
    parser.epilog = "example: callcast run --config /etc/callcast/config.toml"


async def run(args: argparse.Namespace) -> int:
    from callcast import app
    from callcast.config import load, validate

    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a SIGHUP during start-up must not end the process
    path = Path(args.config)
    result = validate(path, os.environ)
    _report(result)
    if result.settings is None:
        return ExitCode.CONFIG
    gc.freeze()  # modules and settings are never freed; collecting them would block the event loop for 30 ms
    return await app.run(result.settings, read_config=lambda: load(path, os.environ))


def _report(result: "ValidationResult") -> None:
    """Log every error and warning of the configuration. On a terminal, errors are printed as a report instead."""
    from callcast.cli.check import report
    from callcast.observability import logs

    if result.settings is None and sys.stderr.isatty():
        print(report(result.errors), file=sys.stderr)
        return
    service = result.settings and result.settings.service
    logs.configure(service.log_level if service else "info", service.log_format if service else "auto")
    log = logs.bound()
    for write, event, findings in (
        (log.error, "configuration_invalid", result.errors),
        (log.warning, "configuration_warning", result.warnings),
    ):
        for one in findings:
            key = {"key": one.key} if one.key else {}
            write(event, where=one.where, **key, detail=one.problem, fix=one.fix)
