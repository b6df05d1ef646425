"""The entry point: the table of commands, and the parser that runs one of them.

Only the module of the chosen command is imported, so that `--help` and short commands start fast.
"""

import argparse
import os
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from callcast import __version__
from callcast.exit_codes import ExitCode

CONFIG_HELP = "configuration file (default: $CALLCAST_CONFIG, then ./callcast.toml, then /etc/callcast/config.toml)"
LOCAL_FILE, SYSTEM_FILE = Path("callcast.toml"), Path("/etc/callcast/config.toml")
Run = int | Coroutine[Any, Any, int]


@dataclass(frozen=True)
class Command:
    """One command. `callcast.cli.<module>` defines `add_arguments(parser)` and `run(args)`.

    `run` returns the exit code, or a coroutine that returns it.
    config: whether the command takes --config.
    """

    summary: str
    module: str
    config: bool = True


COMMANDS = {
    "run": Command("run the service", "run"),
    "demo": Command("run the service against a built-in simulator, no credentials needed", "demo", config=False),
    "check": Command("check the configuration and print the polling plan", "check"),
    "extensions": Command("list the extensions that a credential can see", "extensions"),
    "explain": Command("show everything known about a call, with each delivery attempt", "explain"),
    "dead": Command("list, show, retry or drop dead letters", "dead"),
    "replay": Command("send recorded events to a sink again", "replay"),
    "tail": Command("follow the events of a running service", "tail"),
    "listen": Command("run a local webhook receiver for testing", "listen", config=False),
    "simulate": Command("run the RingCentral simulator, for testing other programs", "simulate", config=False),
    "schema": Command("print the JSON Schema of events or configuration, or AsyncAPI", "schema", config=False),
    "completion": Command("print a completion script for bash, zsh or fish", "completion", config=False),
    "healthcheck": Command("exit with 0 if the running service is healthy", "healthcheck"),
}


def main(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code."""
    name = arguments[0] if arguments else ""
    parser, commands = _parsers()
    if name not in COMMANDS:
        parser.parse_args(arguments)  # handles --help and --version, and exits with 2 on anything else
        parser.print_help(sys.stderr)
        return ExitCode.USAGE
    module = import_module(f"callcast.cli.{COMMANDS[name].module}")
    module.add_arguments(commands[name])
    args = parser.parse_args(arguments)
    args.described = described
    if COMMANDS[name].config and args.config is None:
        args.config = default_config(os.environ)
    return _finish(module.run, args)


def described() -> Iterator[tuple[str, str, argparse.ArgumentParser]]:
    """Yield the name, summary and complete parser of every command, for `completion`."""
    _, parsers = _parsers()
    for name, command in COMMANDS.items():
        import_module(f"callcast.cli.{command.module}").add_arguments(parsers[name])
        yield name, command.summary, parsers[name]


def default_config(environ: Mapping[str, str]) -> Path:
    """Return the configuration file to use without --config."""
    if named := environ.get("CALLCAST_CONFIG"):
        return Path(named)
    return LOCAL_FILE if LOCAL_FILE.exists() else SYSTEM_FILE


def _parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    parser = argparse.ArgumentParser(
        prog="callcast",
        description="Forward RingCentral call events to webhooks, MQTT and standard output.",
        epilog="To try it out, run: callcast demo",
    )
    parser.add_argument("--version", action="version", version=f"callcast {__version__}")
    table = parser.add_subparsers(metavar="COMMAND", title="commands")
    commands = {}
    for name, command in COMMANDS.items():
        commands[name] = table.add_parser(name, help=command.summary, allow_abbrev=False)
        if command.config:
            commands[name].add_argument("--config", metavar="PATH", type=Path, help=CONFIG_HELP)
    return parser, commands


def _finish(run: Callable[[argparse.Namespace], Run], args: argparse.Namespace) -> int:
    try:
        result = run(args)
        return result if isinstance(result, int) else _loop(result)
    except KeyboardInterrupt:
        return ExitCode.DONE


def _loop(result: Coroutine[Any, Any, int]) -> int:
    import uvloop  # imported here because --help and --version do not need it

    return uvloop.run(result)
