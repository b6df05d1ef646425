"""The entry point: runs one command, and turns what it raises into a message and an exit code."""

import os
import sys
from collections.abc import Coroutine, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from callcast.cli.failure import CommandFailed
from callcast.cli.parser import COMMANDS, build, parse
from callcast.exit_codes import ExitCode

LOCAL_FILE, SYSTEM_FILE = Path("callcast.toml"), Path("/etc/callcast/config.toml")


def main(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code. Only the module of that command is imported."""
    args = parse(arguments)
    if args.command is None:
        build()[0].print_help(sys.stderr)
        return ExitCode.USAGE
    if COMMANDS[args.command].config and args.config is None:
        args.config = default_config(os.environ)
    try:
        result = import_module(f"callcast.cli.{args.command}").run(args)
        code: int | None = _loop(result) if isinstance(result, Coroutine) else result
    except KeyboardInterrupt:
        return ExitCode.DONE
    except CommandFailed as failure:
        print(f"callcast {args.command}: {failure}", file=sys.stderr)
        return failure.code
    except Exception as error:
        from callcast.config import ConfigError

        if not isinstance(error, ConfigError):
            raise
        print(error, file=sys.stderr)
        return ExitCode.CONFIG
    return ExitCode.DONE if code is None else code


def default_config(environ: Mapping[str, str]) -> Path:
    """Return the configuration file to use without --config."""
    if named := environ.get("CALLCAST_CONFIG"):
        return Path(named)
    return LOCAL_FILE if LOCAL_FILE.exists() else SYSTEM_FILE


def _loop(result: Coroutine[Any, Any, int | None]) -> int | None:
    import uvloop  # imported here because --help and --version do not need it

    return uvloop.run(result)
