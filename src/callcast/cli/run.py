"""`callcast run`: run the service."""

import argparse
import gc
import os
import signal
import sys

from callcast import app
from callcast.cli.check import report
from callcast.config import ValidationResult, load, validate
from callcast.exit_codes import ExitCode
from callcast.observability import logs


async def run(args: argparse.Namespace) -> int:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a SIGHUP during start-up must not end the process
    result = validate(args.config, os.environ)
    _log_findings(result)
    if result.settings is None:
        return ExitCode.CONFIG
    gc.freeze()  # modules and settings are never freed; collecting them would block the event loop for 30 ms
    return await app.run(result.settings, read_config=lambda: load(args.config, os.environ))


def _log_findings(result: ValidationResult) -> None:
    """Log every error and warning of the configuration. On a terminal, errors are printed as a report instead."""
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
