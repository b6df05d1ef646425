"""`callcast check`: report every error in a configuration in one run, then print the polling plan."""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from datetime import timedelta

from callcast.cli.failure import CommandFailed
from callcast.cli.output import counted, table
from callcast.config import Settings, validate
from callcast.config.diagnostics import Finding
from callcast.exit_codes import ExitCode
from callcast.outbox.opening import open_admin
from callcast.ports.outbox import OutboxRefused, OutboxUnavailable, SinkStats
from callcast.ports.outbox_admin import OutboxMissing
from callcast.provider import Plan, plan


def run(args: argparse.Namespace) -> int:
    result = validate(args.config, os.environ, check_folders=True)
    for warning in result.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if result.settings is None:
        print(report(result.errors), file=sys.stderr)
        return ExitCode.CONFIG
    for warning_text in _removed_sinks(result.settings):
        print(f"warning: {warning_text}", file=sys.stderr)
    print(f"{args.config} is valid: {_summary(result.settings)}\n")
    print(_plans(result.settings))
    if not (args.online or args.send):
        return ExitCode.DONE
    from callcast.cli.check_online import check_online  # imported here because the check itself needs no HTTP client

    print()
    return check_online(result.settings, send=args.send)


def report(errors: Sequence[Finding]) -> str:
    """Return all errors as text, with their number on the last line."""
    return "\n".join(map(str, errors)) + f"\n{counted(len(errors), 'error')}"


def _summary(settings: Settings) -> str:
    sources = [f"{name} ({source.watch})" for name, source in settings.sources.items()]
    sinks = [f"{name} ({sink.type})" for name, sink in settings.sinks.items()]
    return f"from {', '.join(sources)} to {', '.join(sinks)}"


def _removed_sinks(settings: Settings) -> Iterator[str]:
    """Yield a warning for each sink that was removed from the configuration while the outbox holds events for it.

    Only reads the outbox.
    """
    try:
        with open_admin(settings.service.data_dir, read_only=True) as admin:
            found = admin.sinks()
    except OutboxMissing:
        return
    except OutboxRefused as error:  # the service would not start with it either
        raise CommandFailed(f"service.data_dir: {error}", ExitCode.UNAVAILABLE) from error
    except OutboxUnavailable as error:
        yield f"service.data_dir: {error}\n    fix: run this as the user that runs the service, or correct data_dir"
        return
    new = sorted(settings.sinks.keys() - {one.sink for one in found})
    for one in found:
        if one.sink not in settings.sinks and (one.pending or one.dead):
            yield _removed_sink(one, new, settings.service.retention_h)


def _removed_sink(one: SinkStats, new: Sequence[str], retention_h: float) -> str:
    events, dead_letters = counted(one.pending, "event"), counted(one.dead, "dead letter")
    what = " and ".join(text for text, n in ((events, one.pending), (dead_letters, one.dead)) if n)
    deadline = f"{retention_h:g} h after the next start or reload"
    if one.removed_at is not None:
        deadline = f"at {one.removed_at + timedelta(hours=retention_h):%Y-%m-%d %H:%M} UTC"
    renamed = f" (they are not moved to {', '.join(new)})" if new else ""
    return (
        f"sinks.{one.sink}: no longer in the configuration, but the outbox holds {what} for it{renamed}\n"
        f"    fix: add the sink again under this name to deliver them; otherwise they are deleted {deadline}"
    )


def _plans(settings: Settings) -> str:
    """Return how often each source polls its targets, without hints and with them, as tables."""
    plans = [plan(name, source) for name, source in settings.sources.items()]
    titles = ("source", "watch", "extensions", "polled every", "changes detected within", "requests per minute")
    text = table([titles, *map(_row, plans)])
    hinted = [one for one in plans if one.ways]
    if hinted:
        titles_hinted = ("source", "hints by", "otherwise polled every", "where presence is read")
        rows = table([titles_hinted, *map(_hinted_row, hinted)])
        text = f"{text}\n\nwith hints (where RingCentral permits them), at once when something happens, and:\n{rows}"
    return text


def _hinted_row(one: Plan) -> tuple[str, str, str, str]:
    presence = "-"
    if one.witnessed_s is not None:
        presence = f"{_late(one.witnessed_s)}, read every {_seconds(one.presence_s)}"
    elif "presence" in one.ways:
        presence = f"not read: {one.extensions} extensions are too many"
    return one.source, " and ".join(one.ways), _late(one.quiet_s), presence


def _late(due_s: float) -> str:
    """A poll that no hint asks for may wait for others."""
    return f"{_seconds(due_s).removesuffix(' s')} to {_seconds(1.5 * due_s)}"


def _row(one: Plan) -> tuple[str, str, str, str, str, str]:
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
