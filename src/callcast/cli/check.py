"""`callcast check`: everything that is wrong with a configuration, in one run; then the polling plan."""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from callcast.config import Settings
    from callcast.config.diagnostics import Finding
    from callcast.outbox.sqlite.summary import PendingDeliveries
    from callcast.ringcentral.settings import Plan

EXIT_CONFIG = 78


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Read the configuration as `run` would, and report every fault at once, each with file, line, key, what was "
        "given, what was expected and the likely fix; then print the polling plan. Asks nobody over the network, "
        "unless --online is given. Exit code 78 when there is a fault, 69 when a far side is not to be had."
    )
    parser.epilog = "example: callcast check --online --config /etc/callcast/config.toml"
    parser.add_argument(
        "--online",
        action="store_true",
        help="ask the far sides too, within ten seconds: token, permission, rate limit and clock of each source, and "
        "whether each sink can be reached; nothing is delivered",
    )
    parser.add_argument(
        "--send",
        action="store_true",
        help="--online, and each webhook and broker is sent a message of type callcast.check",
    )


def run(args: argparse.Namespace) -> int:
    from callcast.config import examine

    verdict = examine(args.config, os.environ, places=True)
    for warning in verdict.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if verdict.settings is not None:
        for delivery in left_behind(verdict.settings):
            print(f"warning: {delivery}", file=sys.stderr)
    if verdict.settings is None:
        print(report(verdict.faults), file=sys.stderr)
        return EXIT_CONFIG
    print(f"{args.config} is good: {_summary(verdict.settings)}\n")
    print(plan_table(verdict.settings))
    if not (args.online or args.send):
        return 0
    from callcast.cli.check_online import run as ask

    print()
    return ask(verdict.settings, send=args.send)


def report(faults: "Sequence[Finding]") -> str:
    """All faults, and how many they are."""
    count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
    return "\n".join(map(str, faults)) + f"\n{count}"


def _summary(settings: "Settings") -> str:
    sources = [f"{name} ({source.watch})" for name, source in settings.sources.items()]
    sinks = [f"{name} ({sink.type})" for name, sink in settings.sinks.items()]
    return f"from {', '.join(sources)} to {', '.join(sinks)}"


def left_behind(settings: "Settings") -> Iterator[str]:
    """What the outbox holds for sinks that the configuration does not name any more. Changes nothing."""
    from callcast.outbox.sqlite.summary import pending
    from callcast.ports.outbox import OutboxRefused, OutboxUnavailable

    try:
        found = pending(settings.service.data_dir)
    except (OutboxRefused, OutboxUnavailable) as error:
        yield f"service.data_dir: {error}\n    fix: check as the user who runs the service, or correct data_dir"
        return
    new = sorted(settings.sinks.keys() - {one.sink for one in found})
    for one in found:
        if one.sink not in settings.sinks and (one.pending or one.dead):
            yield _left_behind(one, new, settings.service.retention_h)


def _left_behind(one: "PendingDeliveries", new: Sequence[str], retention_h: float) -> str:
    events, dead_letters = _count(one.pending, "event"), _count(one.dead, "dead letter")
    what = " and ".join(text for text, n in ((events, one.pending), (dead_letters, one.dead)) if n)
    lost = f"{retention_h:g} h after the next start or reload"
    if one.removed_at is not None:
        lost = f"{one.removed_at + timedelta(hours=retention_h):%Y-%m-%d %H:%M} UTC"
    renamed = f" (nothing moves from it to {', '.join(new)})" if new else ""
    return (
        f"sinks.{one.sink}: is not in the configuration any more, and {what} wait for it{renamed}\n"
        f"    fix: put it back under this name to have them delivered; if not, they are lost {lost}"
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def plan_table(settings: "Settings") -> str:
    """How often each source looks, as text."""
    from callcast.ringcentral.settings import plan

    plans = [plan(name, source) for name, source in settings.sources.items()]
    rows = [("source", "watch", "extensions", "looks every", "a change is seen within", "requests a minute")]
    rows += [_row(one) for one in plans]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _row(one: "Plan") -> tuple[str, str, str, str, str, str]:
    return (
        one.source,
        one.watch,
        "all" if one.extensions is None else str(one.extensions),
        _seconds(one.cycle_s),
        _seconds(one.delay_s),
        f"{one.requests_per_minute:.3g} of {one.polls_per_minute:g}",
    )


def _seconds(value: float) -> str:
    return f"{value:.3g} s" if value < 100 else f"{value:.0f} s"
