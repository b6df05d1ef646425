"""The command line: every command with its help and options.

It is separate from the commands, so that `--help` and the completion scripts import none of them.
"""

import argparse
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from callcast import __version__
from callcast.cli.values import (
    age,
    answers,
    count,
    duration,
    duration_range,
    factor,
    moment,
    offset,
    port,
    positive_duration,
    whole,
)
from callcast.settings.nearest import nearest

HELP_WIDTH = 100
CONFIG_HELP = "configuration file (default: $CALLCAST_CONFIG, then ./callcast.toml, then /etc/callcast/config.toml)"
FULL_HELP = "show complete phone numbers, not only the last four digits"
SCHEMAS = ("event", "config", "asyncapi")
LANGUAGES = ("python", "javascript", "php")
PRODUCTS = ("slack", "teams", "discord", "zammad")


class _Help(argparse.RawDescriptionHelpFormatter):
    """Wraps descriptions of one paragraph, and keeps the lines of all others."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=min(shutil.get_terminal_size().columns - 2, HELP_WIDTH))

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        kept = super()._fill_text(text, width, indent)
        return kept if "\n" in text else argparse.HelpFormatter._fill_text(self, text, width, indent)  # noqa: SLF001


class Parser(argparse.ArgumentParser):
    """Suggests the word that was meant in place of an unknown one."""

    def __init__(self, **given: Any) -> None:
        super().__init__(formatter_class=_Help, allow_abbrev=False, **given)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            raise argparse.ArgumentError(action, f"{value!r} is unknown{_suggestion(value, list(action.choices))}")

    def unknown_option(self, text: str) -> NoReturn:
        option = text.partition("=")[0]
        if not option.startswith("-"):
            self.error(f"{text!r} is one argument too many")
        options = [name for parser in subparsers(self) for name in parser._option_string_actions]  # noqa: SLF001
        self.error(f"unknown option {option}{_suggestion(option, [name for name in options if name[:2] == '--'])}")


def _suggestion(word: str, words: Sequence[str]) -> str:
    meant = nearest(word, words)
    *first, last = words
    return f": did you mean {meant}?" if meant else f": use {', '.join(first)}{' or ' if first else ''}{last}"


def subparsers(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """Return the parser and those of its actions, such as `dead list`."""
    found = [parser]
    for action in parser._actions:  # noqa: SLF001 (argparse has no public way to list options)
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            found += action.choices.values()
    return found


@dataclass(frozen=True)
class Command:
    """One command. `callcast.cli.<name>` defines `run(args)`; see `main` for what it returns and raises.

    config: whether the command takes --config.
    """

    summary: str
    description: str
    epilog: str
    arguments: Callable[[argparse.ArgumentParser], object] = lambda _: None
    config: bool = True


def build() -> tuple[Parser, dict[str, Parser]]:
    """Return the complete parser, and that of each command."""
    parser = Parser(
        prog="callcast",
        description="Forward RingCentral call events to webhooks, MQTT and standard output.",
        epilog="To try it out, run: callcast demo",
    )
    parser.add_argument("--version", action="version", version=f"callcast {__version__}")
    table = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    parsers: dict[str, Parser] = {}
    for name, command in COMMANDS.items():
        one = table.add_parser(name, help=command.summary, description=command.description, epilog=command.epilog)
        if command.config:
            one.add_argument("--config", metavar="PATH", type=Path, help=CONFIG_HELP)
        command.arguments(one)
        parsers[name] = one
    return parser, parsers


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line. Exits with 2 on wrong usage; `command` is None if no command is given."""
    parser, parsers = build()
    args, unknown = parser.parse_known_args(arguments)
    if unknown:
        parsers.get(args.command, parser).unknown_option(unknown[0])
    return args


def _listening(parser: argparse.ArgumentParser, default: int) -> None:
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    _port(parser, default)


def _port(parser: argparse.ArgumentParser, default: int) -> None:
    help_text = "port to listen on; 0 for any free port (default: %(default)s)"
    parser.add_argument("--port", type=port, default=default, metavar="N", help=help_text)


def _repeatable(parser: argparse.ArgumentParser, name: str, metavar: str, help_text: str) -> None:
    parser.add_argument(name, metavar=metavar, action="append", default=[], help=help_text)


def _seed_and_speed(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--seed",
        type=whole,
        default=1,
        metavar="N",
        help="random seed; the same seed gives the same calls (default: 1)",
    )
    add("--speed", type=factor, default=1.0, metavar="X", help="run calls X times as fast; the clock is unaffected")


def _demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--for", dest="for_s", type=positive_duration, metavar="D", help="stop after this long, such as 30s or 5m"
    )
    _seed_and_speed(parser)
    parser.add_argument("--port", type=port, metavar="N", help="port of the wallboard (default: 9469, or a free one)")


def _check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--online",
        action="store_true",
        help="also check the remote sides, within ten seconds: token, permission, rate limit and clock of each "
        "source, and whether each sink is reachable; delivers nothing",
    )
    parser.add_argument(
        "--send",
        action="store_true",
        help="like --online, and also send a message of type callcast.check to each webhook and broker",
    )


def _extensions(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--source", metavar="NAME", help="the source whose credential to use (default: the first)")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--names", action="store_true", help="print only the [names] table, as TOML")
    only.add_argument("--json", action="store_true", help="print one JSON object per line")


def _explain(parser: argparse.ArgumentParser) -> None:
    help_text = "a call id, a session id, an event id, or the last four digits of a phone number"
    parser.add_argument("call", metavar="CALL", help=help_text)
    parser.add_argument("--full", action="store_true", help=FULL_HELP)


def _dead(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, (summary, example) in DEAD_ACTIONS.items():
        epilog = f"example: callcast dead {name} {example}"
        one = actions.add_parser(name, help=summary, description=summary, epilog=epilog)
        _dead_action(one, name)


def _dead_action(parser: argparse.ArgumentParser, name: str) -> None:
    add = parser.add_argument
    add("--config", metavar="PATH", type=Path, default=argparse.SUPPRESS, help="as for callcast dead")
    if name != "list":
        add("ids", metavar="EVENT_ID", nargs="+" if name == "show" else "*")
    add("--sink", metavar="NAME", help="only dead letters of this sink")
    if name != "show":
        add("--type", metavar="GLOB", help="only events of these types, such as 'call.*'")
        add("--reason", metavar="WORD", help="only with this reason for the last failure, such as http_413")
        add("--older-than", metavar="AGE", type=age, help="dead for longer than this, such as 90s, 15m, 2h or 7d")
        add("--newer-than", metavar="AGE", type=age, help="dead for less than this")
    if name in ("retry", "drop"):
        add("--all", action="store_true", help="all dead letters of all sinks")
    else:
        add("--full", action="store_true", help=FULL_HELP)


DEAD_ACTIONS = {
    "list": ("list dead letters, oldest first", "--sink crm --reason http_413"),
    "show": ("show dead letters with their events", "evt_k3v9... --full"),
    "retry": ("send dead letters again, with the same ids and a new time to live", "--sink crm --newer-than 2d"),
    "drop": ("delete dead letters", "--all --config /etc/callcast/config.toml"),
}


def _replay(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--sink", metavar="NAME", required=True, help="the sink to send to")
    start = "start of the time range: RFC 3339, or an age such as 2h"
    add("--since", metavar="T", type=moment, required=True, help=start)
    add("--until", metavar="T", type=moment, help="end of the time range (default: now)")
    add("--type", metavar="GLOB", default="*", help="only events of these types, such as 'call.*'")


def _tail(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--url", help="base URL of the service (default: from the configuration)")
    add("--type", metavar="GLOB", default="*", help="only events of these types, such as call.ended")
    _repeatable(parser, "--extension", "ID", "only this extension; may be repeated")
    add("--last", metavar="N", type=whole, default=0, help="start with the last N events, at most 100")


def _listen(parser: argparse.ArgumentParser) -> None:
    _listening(parser, 8088)
    _repeatable(parser, "--secret", "WHSEC", "the sink's secret, whsec_...; repeat it for rotation")
    add = parser.add_argument
    add("--unsigned", action="store_true", help="do not generate a secret: the sink has none")
    product = "stand in for a product: check requests by its rules, and answer as it does"
    add("--as", dest="product", choices=PRODUCTS, help=product)
    add("--answer", metavar="WHAT[:N],...", type=answers, help="what to answer and how often; see below")
    retry = "Retry-After header for answers other than 2xx, such as 30s"
    add("--retry-after", metavar="D", type=duration, help=retry)
    add("--slow", metavar="D", type=duration, default=20.0, help="delay of slow answers (default: 20s)")
    add("--json", action="store_true", help="print one JSON object per request")
    add("--brief", action="store_true", help="do not print request bodies")
    add("--code", choices=LANGUAGES, help="print sample code that verifies signatures, and exit")


def _simulate(parser: argparse.ArgumentParser) -> None:
    _listening(parser, 8078)
    add = parser.add_argument
    add("--scenario", default="office", metavar="NAME", help="see above (default: %(default)s)")
    _seed_and_speed(parser)
    add("--rate-limit", action=argparse.BooleanOptionalAction, default=False, help="enforce the documented rate limits")
    add(
        "--heavy-per-minute",
        type=count,
        default=10,
        metavar="N",
        help="limit of the heavy group (default: %(default)s)",
    )
    late = "delay of new and answered calls in the list of live calls; assumed of the real platform: 0.5s-1s"
    add("--lateness", type=duration_range, default=(0.0, 0.0), metavar="D[-D]", help=late)
    end_late = "delay of ended calls there; 3s-10s on the real platform (default: as --lateness)"
    add("--end-lateness", type=duration_range, metavar="D[-D]", help=end_late)
    linger = "how long ended calls stay listed; up to 302 s was measured (default: 120s)"
    add("--linger", type=duration, default=120.0, metavar="D", help=linger)
    delay = "time until a call is in the call log (default: 15s-30s)"
    add("--log-delay", type=duration_range, default=(15.0, 30.0), metavar="D[-D]", help=delay)
    add("--skew", type=offset, default=0.0, metavar="D", help="how far the platform's clock is ahead")
    add(
        "--token-ttl",
        type=positive_duration,
        default=3600.0,
        metavar="D",
        help="lifetime of access tokens (default: 1h)",
    )
    add("--refresh-tokens", action="store_true", help="issue refresh tokens, too")
    push = "grant push over a WebSocket, and presence (default: yes)"
    add("--push", action=argparse.BooleanOptionalAction, default=True, help=push)
    add("--extensions", type=count, default=50, metavar="N", help="for busy: extensions (default: %(default)s)")
    add("--calls-per-minute", type=factor, default=60.0, metavar="N", help="for busy: calls (default: 60)")
    _repeatable(parser, "--fault", "JSON", "a fault to start with; may be repeated")


def _schema(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what",
        choices=SCHEMAS,
        help="event: events as they are sent; config: the configuration file, with the sink types installed here; "
        "asyncapi: the webhook and the MQTT topics",
    )


def _completion(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="the shell to print a script for")
    parser.add_argument("words", nargs="*", default=[], help=argparse.SUPPRESS)  # those of a command line to complete


def _healthcheck(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ready", action="store_true", help="check /readyz instead: every source was polled recently")
    parser.add_argument("--url", help="base URL of the service, such as http://127.0.0.1:9469")


COMMANDS = {
    "run": Command(
        "run the service",
        "Run the service until SIGTERM or SIGINT. SIGHUP reloads the configuration. Standard output carries only "
        "the events of a stdout sink; logs go to standard error.",
        "example: callcast run --config /etc/callcast/config.toml",
    ),
    "demo": Command(
        "run the service against a built-in simulator, no credentials needed",
        "Run the service against a built-in RingCentral simulator with scripted and random calls. Events go to "
        "standard output; the wallboard is on http://127.0.0.1:9469/. Needs no configuration, keeps no data "
        "and does not use the network.",
        "example: callcast demo --for 60s --seed 7 --speed 2 | jq -r .type",
        _demo,
        config=False,
    ),
    "init": Command(
        "write a commented starter configuration",
        "Write a commented starter configuration to ./callcast.toml, readable by you only. An existing file is never "
        "overwritten.",
        "example: callcast init",
        config=False,
    ),
    "check": Command(
        "check the configuration and print the polling plan",
        "Read the configuration as `run` does and report all errors at once, each with file, line, key, the value "
        "given, the value expected and a likely fix. Without errors, print the polling plan. No network access "
        "unless --online is given. Exit codes: 78 if the configuration has errors, 69 if an online check fails.",
        "example: callcast check --online --config /etc/callcast/config.toml",
        _check,
    ),
    "extensions": Command(
        "list the extensions that a credential can see",
        "List the extensions of the account that a source's credential can see: id, number, name, type and status, "
        "followed by a [names] table for the configuration. The app needs the permission ReadAccounts. Exit codes: "
        "69 if the platform rejects the request or is unreachable, 78 if the configuration is invalid.",
        "example: callcast extensions --source acme --names >> callcast.toml",
        _extensions,
    ),
    "explain": Command(
        "show everything known about a call, with each delivery attempt",
        "Show everything known about a call: its events with the poll that detected each, every sink's delivery "
        "attempts with outcome and duration, and pending deliveries. If several calls match, list them instead. Works "
        "whether or not the service is running. Prints one JSON object per line if standard output is not a terminal.",
        "example: callcast explain 6662",
        _explain,
    ),
    "dead": Command(
        "list, show, retry or drop dead letters",
        "Dead letters are events that a sink rejected, or did not acknowledge within give_up_after_h. They are kept "
        "for dead_letter_days. Works whether or not the service is running; a running service picks up changes "
        "within a second. Prints one JSON object per line if standard output is not a terminal.",
        "example: callcast dead list --sink crm --older-than 1h | jq -r .event_id",
        _dead,
    ),
    "replay": Command(
        "send recorded events to a sink again",
        "Send recorded events to a sink again, with the same ids, oldest first, after all new events. The sink's "
        "filters apply. Works whether or not the service is running; a running "
        "service starts sending within a second.",
        "example: callcast replay --sink crm --since 2h --type 'call.ended'",
        _replay,
    ),
    "tail": Command(
        "follow the events of a running service",
        "Follow the events of a running service. Prints coloured lines on a terminal, and one JSON object per line "
        "otherwise. Reconnects automatically and continues where it stopped. Phone numbers are shown as set by "
        "service.numbers.",
        """\
examples
  callcast tail
  callcast tail --type 'call.e*' --extension 62264425016 --last 20
  callcast tail --url https://wallboard.example.com | jq -r .data.disposition

If the service requires a token, it is taken from $CALLCAST_HTTP_TOKEN or service.http_token in
the configuration.
""",
        _tail,
    ),
    "listen": Command(
        "run a local webhook receiver for testing",
        "Run a local webhook receiver. It verifies each signature and explains why one is invalid, prints every event "
        "as it was sent, detects duplicates, and answers as you choose. Without --secret it generates one. It prints "
        "the sink to configure.",
        """\
answers
  204, 429, 500 ...   that status             slow    204 after 20 s (--slow)
  reset               reset the connection    never   no answer at all
  Add a count to repeat an answer; an answer without a count is used from then on:
  --answer 429:3,slow:1,204
  Without --answer, requests with an invalid signature are answered 401, and all others 204.

examples
  callcast listen --secret whsec_... --answer 500:2,204
  callcast listen --as slack
  callcast listen --json | jq -r .event.type
  callcast listen --code python > verify.py
""",
        _listen,
        config=False,
    ),
    "simulate": Command(
        "run the RingCentral simulator, for testing other programs",
        """\
Run a RingCentral simulator: tokens, active calls and the call log of extensions and of the
account, the list of extensions, telephony sessions, presence, push over a WebSocket, rate
limits, and faults on demand. It does not use the network.

scenarios
  office       six extensions and two queues; one call of each kind in the first minute, then
               random calls (default)
  seed         six recorded answers of a direct and a queue call; each poll returns the next one
  seed-timed   the same, advancing with time
  busy         --extensions extensions with --calls-per-minute random calls
  quiet        two extensions without calls
  PATH.toml    your own scenario, in the format of callcast/simulator/scenarios/office.toml

rate limits (--rate-limit)
  Requests per 60 seconds for each credential and group. A request above the limit gets 429 with
  Retry-After and starts a penalty of 60 seconds, which every further request restarts. Answers
  have the X-Rate-Limit headers of their group.
  heavy 10     active calls and the call log, together (--heavy-per-minute)
  medium 40    the list of extensions, subscriptions
  light 50     telephony sessions, presence (up to 30 extensions in one request)
  auth 5       tokens, for all credentials of an app; a sixth session of a credential ends its
               oldest (401 OAU-213)
  Two identical requests at the same time are rejected as well (CMN-304).
""",
        """\
control (no token needed)
  POST   /simulator/calls      start a call: {"kind":"inbound","extension":"101",
                               "number":"+15550100299","talks_s":9}
  POST   /simulator/faults     add a fault or a list of faults; GET lists them, DELETE removes one
                               (/ID) or all
  GET    /simulator/requests   list requests and answers (?path=call-log); DELETE clears the list
  GET    /simulator/truth      list what really happened, for verification
  POST   /simulator/clock      {"turn_s": 60} moves the platform's clock
  PUT    /simulator/limits     {"heavy": 10} sets rate limits; null removes them
  DELETE /simulator/tokens     revoke all tokens

faults
  {"kind":"status","status":503,"retry_after":5,"count":3}
                               500, 502, 503, 504, 403, 404 ...; "code":"CMN-211"
  {"kind":"status","status":429,"headers":false}
                               without rate limit headers
  {"kind":"slow","delay_s":8,"path":"*-calls"}
                               also hang, reset, truncated, huge, html, not_json, charset,
                               redirect, empty, bad_records
  {"kind":"half","from_s":30,"for_s":60}
                               a list has a next page, which fails
  {"kind":"ws_drop","from_s":20}
                               also ws_expire, ws_garbage, ws_huge: once to each open connection,
                               with for_s to later ones, too
  {"kind":"ws_refuse","status":503,"count":3}
                               401, 403, 503, 4400 (the close code), 0 (no answer)
  {"kind":"ws_silence","for_s":60}
                               neither frames nor pongs; also ws_unrecoverable
  {"kind":"ws_lose","p":0.3,"path":"*/extension/400100101/*"}
                               also ws_deaf, ws_duplicate, ws_reorder, and ws_delay with delay_s
                               and delay_most_s
  A scenario file may have faults, too: [[faults]] with the same keys.

example
  callcast simulate --port 8080 --speed 2 --fault '{"kind":"reset","from_s":20,"for_s":10}'
""",
        _simulate,
        config=False,
    ),
    "schema": Command(
        "print the JSON Schema of events or configuration, or AsyncAPI",
        "Print a machine-readable description: JSON Schema 2020-12 or AsyncAPI 3.",
        """\
examples
  callcast schema config > callcast.schema.json      # then start callcast.toml with:
                                                     #:schema ./callcast.schema.json
  callcast schema event > event.schema.json
  callcast schema asyncapi > callcast.asyncapi.json
""",
        _schema,
        config=False,
    ),
    "completion": Command(
        "print a completion script for bash, zsh or fish",
        "Print a completion script for your shell. It covers the commands and options of this version.",
        """\
examples
  callcast completion bash > ~/.local/share/bash-completion/completions/callcast
  callcast completion zsh  > ~/.zfunc/_callcast
                             # with: fpath+=~/.zfunc; autoload -Uz compinit; compinit
  callcast completion fish > ~/.config/fish/completions/callcast.fish
""",
        _completion,
        config=False,
    ),
    "healthcheck": Command(
        "exit with 0 if the running service is healthy",
        "Exit with 0 if /healthz of the running service answers 200, otherwise with 69 and the reason. The service's "
        "address is read from the configuration, or given by --url.",
        "example: callcast healthcheck --ready --url http://127.0.0.1:9469",
        _healthcheck,
    ),
}
