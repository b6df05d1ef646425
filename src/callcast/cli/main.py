"""The command line: which commands there are. Only the chosen one's module is imported."""

import argparse
import os
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from callcast import __version__

EXIT_DONE, EXIT_USAGE = 0, 2
CONFIG_HELP = "the configuration (default: $CALLCAST_CONFIG, else ./callcast.toml, else /etc/callcast/config.toml)"
LOCAL_FILE, SYSTEM_FILE = Path("callcast.toml"), Path("/etc/callcast/config.toml")
Run = int | Coroutine[Any, Any, int]


@dataclass(frozen=True)
class Command:
    """`module` under `callcast.cli` has `add_arguments(parser)` and `run(args)`: the exit code, perhaps awaited.

    config: it takes --config.
    """

    summary: str
    module: str
    config: bool = True


COMMANDS = {
    "run": Command("the service", "run"),
    "demo": Command("the service against a built-in fake RingCentral, no credentials needed", "demo", config=False),
    "check": Command("say everything that is wrong with the configuration, and show the polling plan", "check"),
    "extensions": Command("the extensions that a credential sees, and a table of their names", "extensions"),
    "explain": Command("everything that is known of a call, and what each sink said", "explain"),
    "dead": Command("the events that a sink never took: list, show, retry, drop", "dead"),
    "replay": Command("send recorded events to a sink again", "replay"),
    "tail": Command("follow a running service's events", "tail"),
    "listen": Command("a webhook receiver that verifies, shows and misbehaves", "listen", config=False),
    "simulate": Command("the fake RingCentral on a port, for tests of other programs", "simulate", config=False),
    "schema": Command("the JSON Schema of events or of the configuration, or AsyncAPI", "schema", config=False),
    "completion": Command("what bash, zsh or fish needs to complete all this", "completion", config=False),
    "healthcheck": Command("exit 0 when the running service answers", "healthcheck"),
}


def main(arguments: Sequence[str]) -> int:
    """Run one command; the exit code."""
    name = arguments[0] if arguments else ""
    parser, commands = _parsers()
    if name not in COMMANDS:
        parser.parse_args(arguments)  # answers --help and --version, and refuses everything else
        parser.print_help(sys.stderr)
        return EXIT_USAGE
    module = import_module(f"callcast.cli.{COMMANDS[name].module}")
    module.add_arguments(commands[name])
    args = parser.parse_args(arguments)
    args.described = described
    if COMMANDS[name].config and args.config is None:
        args.config = default_config(os.environ)
    return _finish(module.run, args)


def described() -> Iterator[tuple[str, str, argparse.ArgumentParser]]:
    """Every command with its summary and its whole parser, for `completion`."""
    _, parsers = _parsers()
    for name, command in COMMANDS.items():
        import_module(f"callcast.cli.{command.module}").add_arguments(parsers[name])
        yield name, command.summary, parsers[name]


def default_config(environ: Mapping[str, str]) -> Path:
    """Where the configuration is when nobody says: the variable, else here, else the system's."""
    if named := environ.get("CALLCAST_CONFIG"):
        return Path(named)
    return LOCAL_FILE if LOCAL_FILE.exists() else SYSTEM_FILE


def _parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    parser = argparse.ArgumentParser(
        prog="callcast",
        description="Forward call events from RingCentral's list of live calls to webhooks, MQTT and stdout.",
        epilog="Start with: callcast demo",
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
        return EXIT_DONE


def _loop(result: Coroutine[Any, Any, int]) -> int:
    import uvloop  # late: --help and --version do without

    return uvloop.run(result)
