"""Opens the outbox of a running or stopped service, for the commands that work on it."""

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager

from callcast.cli.failure import CommandFailed
from callcast.config.partial import data_dir
from callcast.exit_codes import ExitCode
from callcast.formats.cloudevents import Wire
from callcast.outbox.opening import open_admin
from callcast.ports.outbox import OutboxRefused, OutboxUnavailable
from callcast.ports.outbox_admin import OutboxAdmin


@contextmanager
def opened_outbox(args: argparse.Namespace) -> Iterator[OutboxAdmin]:
    try:
        with open_admin(data_dir(args.config, os.environ)) as admin:
            yield admin
    except (OutboxRefused, OutboxUnavailable) as error:
        raise CommandFailed(str(error), ExitCode.UNAVAILABLE) from error


def wire_of(args: argparse.Namespace) -> Wire:
    """Return the form of events to print: with complete phone numbers only if --full is given."""
    return Wire("full" if args.full else "last4")
