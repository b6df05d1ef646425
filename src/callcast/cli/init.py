"""`callcast init`: write a commented starter configuration."""

import argparse
import os
import sys
from importlib.resources import files

from callcast.cli.failure import CommandFailed
from callcast.cli.main import LOCAL_FILE
from callcast.exit_codes import ExitCode


def run(args: argparse.Namespace) -> None:  # noqa: ARG001 (as of every command)
    starter = files("callcast.cli").joinpath("starter.toml").read_bytes()
    try:
        with os.fdopen(os.open(LOCAL_FILE, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
            file.write(starter)
    except FileExistsError:
        raise CommandFailed(f"{LOCAL_FILE} exists already: edit it, or move it away") from None
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        problem = f"cannot write {LOCAL_FILE}: {why}; run it in a folder that you can write to"
        raise CommandFailed(problem, ExitCode.UNAVAILABLE) from error
    print(f"wrote {LOCAL_FILE}: fill in the credential, then run callcast check", file=sys.stderr)
