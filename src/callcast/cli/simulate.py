"""`callcast simulate`: run the RingCentral simulator on a port, for testing other programs."""

import argparse
import asyncio
import json
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from callcast.exit_codes import ExitCode

if TYPE_CHECKING:  # imported late: starting other commands must not load the web server
    from callcast.simulator import Credential, Fault, Platform, Scenario
    from callcast.simulator.story import Listing

DESCRIPTION = """\
Run a RingCentral simulator: tokens, active calls and the call log of extensions and of the account, the list of
extensions, telephony sessions, rate limits, and faults on demand. It does not use the network.

scenarios
  office       six extensions and two queues; one call of each kind in the first minute, then random calls (default)
  seed         six recorded answers of a direct and a queue call; each poll returns the next one
  seed-timed   the same, advancing with time
  busy         --extensions extensions with --calls-per-minute random calls
  quiet        two extensions without calls
  PATH.toml    your own scenario, in the format of callcast/simulator/scenarios/office.toml

rate limits (--rate-limit)
  Requests per 60 seconds for each credential and group. A request above the limit gets 429 with Retry-After and starts
  a penalty of 60 seconds, which every further request restarts. Answers have the X-Rate-Limit headers of their group.
  heavy 10     active calls and the call log, together (--heavy-per-minute)
  medium 40    the list of extensions
  light 50     telephony sessions
  auth 5       tokens, for all credentials of an app; a sixth session of a credential ends its oldest (401 OAU-213)
  Two identical requests at the same time are rejected as well (CMN-304).
"""
EPILOG = """\
control (no token needed)
  POST   /simulator/calls      start a call: {"kind":"inbound","extension":"101","number":"+15550100299","talks_s":9}
  POST   /simulator/faults     add a fault or a list of faults; GET lists them, DELETE removes one (/ID) or all
  GET    /simulator/requests   list requests and answers (?path=call-log); DELETE clears the list
  GET    /simulator/truth      list what really happened, for verification
  POST   /simulator/clock      {"turn_s": 60} moves the platform's clock
  PUT    /simulator/limits     {"heavy": 10} sets rate limits; null removes them
  DELETE /simulator/tokens     revoke all tokens

faults
  {"kind":"status","status":503,"retry_after":5,"count":3}      500, 502, 503, 504, 403, 404 ...; "code":"CMN-211"
  {"kind":"status","status":429,"headers":false}                without rate limit headers
  {"kind":"slow","delay_s":8,"path":"*-calls"}                  also hang, reset, truncated, huge, html, not_json,
  {"kind":"half","from_s":30,"for_s":60}                        charset, redirect, empty, bad_records

example
  callcast simulate --port 8080 --scenario office --speed 2 --fault '{"kind":"reset","from_s":20,"for_s":10}'
"""
UNLIMITED = """\
poll_interval_s = 1
heavy_per_minute = 10000              # the simulator enforces no rate limit
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    add("--port", type=int, default=8078, help="port to listen on; 0 for any free port (default: %(default)s)")
    add("--scenario", default="office", metavar="NAME", help="see above (default: %(default)s)")
    add("--speed", type=_positive, default=1.0, metavar="X", help="run calls X times as fast; the clock is unaffected")
    add("--seed", type=int, default=1, metavar="N", help="random seed; the same seed gives the same calls (default: 1)")
    add("--rate-limit", action=argparse.BooleanOptionalAction, default=False, help="enforce the documented rate limits")
    add("--heavy-per-minute", type=int, default=10, metavar="N", help="limit of the heavy group (default: %(default)s)")
    add(
        "--lateness",
        type=_span,
        default=(0, 0),
        metavar="S[-S]",
        help="delay of the list of live calls; 3-10 on the real platform",
    )
    add(
        "--linger",
        type=float,
        default=120,
        metavar="S",
        help="how long ended calls stay listed; up to 302 s was measured",
    )
    add("--log-delay", type=_span, default=(15, 30), metavar="S[-S]", help="time until a call is in the call log")
    add("--skew", type=float, default=0, metavar="S", help="how far the platform's clock is ahead")
    add("--token-ttl", type=float, default=3600, metavar="S", help="lifetime of access tokens (default: %(default)s)")
    add("--refresh-tokens", action="store_true", help="issue refresh tokens, too")
    add("--extensions", type=int, default=50, metavar="N", help="for busy: extensions (default: %(default)s)")
    add("--calls-per-minute", type=_positive, default=60, metavar="N", help="for busy: calls (default: %(default)s)")
    add("--fault", action="append", default=[], metavar="JSON", help="a fault to start with; may be repeated")


async def run(args: argparse.Namespace) -> int:
    from callcast.simulator import Credential, Limits, Platform, SimulatedClock
    from callcast.simulator.script import ScriptFault

    credential = Credential()
    clock = SimulatedClock(datetime.now(UTC) + timedelta(seconds=args.skew))
    try:
        scenario, faults = _scenario(args, clock.now()), [_fault(text) for text in args.fault]
    except (ScriptFault, OSError) as fault:
        print(f"callcast simulate: {fault}", file=sys.stderr)
        return ExitCode.USAGE
    platform = Platform(
        scenario,
        clock=clock,
        credentials=[credential],
        limits=Limits(heavy=args.heavy_per_minute) if args.rate_limit else None,
        faults=faults,
        token_ttl_s=args.token_ttl,
        refresh_tokens=args.refresh_tokens,
    )
    return await _listen(platform, credential, args.host, args.port)


async def _listen(platform: "Platform", credential: "Credential", host: str, port: int) -> int:
    stopped = _stop_on_signal()
    try:
        async with platform.serve(host, port) as url:
            print(_snippet(url, credential, platform), flush=True)
            await stopped.wait()
    except OSError as fault:
        print(f"callcast simulate: cannot listen on {host} port {port}: {fault.strerror}", file=sys.stderr)
        return ExitCode.USAGE
    return ExitCode.DONE


def _stop_on_signal() -> asyncio.Event:
    import signal

    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    return stopped


def _scenario(args: argparse.Namespace, start: datetime) -> "Scenario":
    from callcast.simulator import scenarios

    return scenarios.load(
        args.scenario,
        start,
        seed=args.seed,
        speed=args.speed,
        listing=_listing(args),
        extensions=args.extensions,
        calls_per_minute=args.calls_per_minute,
    )


def _listing(args: argparse.Namespace) -> "Listing":
    from callcast.simulator.scenarios import LOG_KEPT_BUSY_S
    from callcast.simulator.story import Listing

    kept_s = LOG_KEPT_BUSY_S if args.scenario == "busy" else Listing().log_kept_s
    return Listing(lateness_s=args.lateness, linger_s=args.linger, log_delay_s=args.log_delay, log_kept_s=kept_s)


def _fault(text: str) -> "Fault":
    import msgspec

    from callcast.simulator import Fault
    from callcast.simulator.script import ScriptFault

    try:
        return msgspec.json.decode(text, type=Fault)
    except msgspec.MsgspecError as fault:
        raise ScriptFault(f"--fault {text}: {fault}") from None


def _snippet(url: str, credential: "Credential", platform: "Platform") -> str:
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


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value


def _span(text: str) -> tuple[float, float]:
    """Parse a range such as `3-10`, or a single number."""
    least, _, most = text.partition("-")
    span = float(least), float(most or least)
    if not 0 <= span[0] <= span[1]:
        raise argparse.ArgumentTypeError(f"{text} is not a range of seconds such as 3-10")
    return span
