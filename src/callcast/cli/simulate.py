"""`callcast simulate`: run the RingCentral simulator on a port, for testing other programs."""

import argparse
import asyncio
import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import get_args

import msgspec

from callcast.cli.failure import CommandFailed
from callcast.cli.server import listening_on, set_on_signal
from callcast.settings.nearest import nearest
from callcast.simulator import Credential, Fault, Limits, Platform, SimulatedClock, scenarios
from callcast.simulator.faults import Kind
from callcast.simulator.script import ScenarioError
from callcast.simulator.story import Listing
from callcast.simulator.tokens import ALL_PERMISSIONS, PUSH_PERMISSIONS

_TYPES = {
    "int": "a whole number",
    "float": "a number",
    "str": "a string",
    "bool": "true or false",
    "object": "a JSON object",
}
UNLIMITED = """\
poll_interval_s = 1
heavy_per_minute = 10000              # the simulator enforces no rate limit
"""


async def run(args: argparse.Namespace) -> None:
    credential = Credential() if args.push else Credential(permissions=ALL_PERMISSIONS - PUSH_PERMISSIONS)
    clock = SimulatedClock(datetime.now(UTC) + timedelta(seconds=args.skew))
    faults = [_fault(text) for text in args.fault]
    try:
        scenario = scenarios.load(
            args.scenario,
            clock.now(),
            seed=args.seed,
            speed=args.speed,
            listing=_listing(args),
            extensions=args.extensions,
            calls_per_minute=args.calls_per_minute,
        )
    except (ScenarioError, OSError) as error:
        raise CommandFailed(f"--scenario {args.scenario}: {_cause(error)}") from error
    platform = Platform(
        scenario,
        clock=clock,
        credentials=[credential],
        limits=Limits(heavy=args.heavy_per_minute) if args.rate_limit else None,
        faults=faults,
        token_ttl_s=args.token_ttl,
        refresh_tokens=args.refresh_tokens,
    )
    stop = asyncio.Event()
    set_on_signal(stop)
    with listening_on(args.host, args.port):
        async with platform.serve(args.host, args.port) as url:
            print(_snippet(url, credential, platform), flush=True)
            await stop.wait()


def _listing(args: argparse.Namespace) -> Listing:
    kept_s = scenarios.LOG_KEPT_BUSY_S if args.scenario == "busy" else Listing().log_kept_s
    return Listing(
        start_lateness_s=args.lateness,
        end_lateness_s=args.end_lateness or args.lateness,
        linger_s=args.linger,
        log_delay_s=args.log_delay,
        log_kept_s=kept_s,
    )


def _fault(text: str) -> Fault:
    try:
        return msgspec.json.decode(text, type=Fault)
    except msgspec.ValidationError as error:
        problem = _fault_problem(str(error))
    except msgspec.DecodeError:
        problem = 'is not JSON: write it as \'{"kind":"reset"}\''
    raise CommandFailed(f"--fault {text}: {problem}")


def _fault_problem(message: str) -> str:
    """Return a message of `msgspec` without its types and paths, with the words that can be used."""
    if match := re.match(r"Invalid enum value '(.*)' - at `\$\.kind`", message):
        return f"unknown kind {match[1]!r}{_suggestion(match[1], get_args(Kind))}"
    if match := re.match(r"Object contains unknown field `(.*)`", message):
        return f"unknown key {match[1]!r}{_suggestion(match[1], Fault.__struct_fields__)}"
    if message.startswith("Object missing required field"):
        return f'the kind is missing: add "kind":"status", or another of {", ".join(get_args(Kind))}'
    if message.startswith("status: "):
        return message
    key = re.search(r"\$\.(\w+)", message)
    if bound := re.match(r"Expected `\w+` (>=?|<=?) (\S+)", message):
        return f"{key[1] if key else 'the fault'}: expected a number {bound[1]} {float(bound[2]):g}"
    expected = [_TYPES[one] for one in re.findall(r"\w+", message.partition(",")[0]) if one in _TYPES]
    return f"{key[1] if key else 'the fault'}: expected {' or '.join(expected)}"


def _suggestion(word: str, words: Sequence[str]) -> str:
    meant = nearest(word, words)
    return f": did you mean {meant!r}?" if meant else f": use one of {', '.join(words)}"


def _cause(error: Exception) -> str:
    """Return why a scenario cannot be played."""
    return (error.strerror or str(error)).lower() if isinstance(error, OSError) else str(error)


def _snippet(url: str, credential: Credential, platform: Platform) -> str:
    """Return a matching source configuration, as valid TOML."""
    limited = platform.limits.limits is not None
    shown = ", ".join(json.dumps(extension) for extension in platform.scenario.extension_ids()[:12])
    return f"""\
# The RingCentral simulator listens on {url}
[sources.simulated]
server = "{url}"
client_id = "{credential.client_id}"
client_secret = "{credential.client_secret}"
jwt = "{credential.jwt}"
watch = "extensions"                  # or "account"
extensions = [{shown}]
{"" if limited else UNLIMITED}"""
