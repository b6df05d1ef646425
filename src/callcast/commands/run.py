"""`callcast run`: the service."""

import argparse
import os
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Run the service until SIGTERM or SIGINT. SIGHUP reads the configuration again. Standard output carries "
        "only the stdout sink's lines; logs go to standard error."
    )
    parser.epilog = "example: callcast run --config /etc/callcast/config.toml"


async def run(args: argparse.Namespace) -> int:
    from callcast import app
    from callcast.config import load
    from callcast.config.findings import ConfigFaults

    path = Path(args.config)
    try:
        settings = load(path, os.environ)
    except ConfigFaults as faults:
        print(faults, file=sys.stderr)
        return 78
    return await app.run(settings, read_again=lambda: load(path, os.environ))
