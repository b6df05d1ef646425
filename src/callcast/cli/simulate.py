"""`callcast simulate`: the fake RingCentral on a port, for tests of other programs."""

import argparse
import asyncio
import json
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the command line must not pay for the web server before it is wanted
    from callcast.simulator import Credential, Fault, Platform, Scenario
    from callcast.simulator.story import Listing

DESCRIPTION = """\
A fake RingCentral: the token exchange, active calls and the call log of extensions and of the account, the list
of extensions, telephony sessions, rate limits, and every fault on order. Nothing leaves this machine.

scenarios
  office       six desks, two queues; one call of each kind within a minute, then calls by chance (default)
  seed         the six recorded answers of a direct and a queue call, one further with every look
  seed-timed   the same as time goes by
  busy         --extensions desks with --calls-per-minute calls by chance
  quiet        two desks, and nobody calls
  PATH.toml    your own, written as callcast/simulator/scenarios/office.toml is

rate limits (--rate-limit)
  For each credential and group, requests in the last 60 seconds; the next one gets 429, Retry-After and a penalty of
  60 seconds, which every request during it starts again. Every answer has the X-Rate-Limit headers of its group.
  heavy 10     active calls and the call log, together (--heavy-per-minute)
  medium 40    the list of extensions
  light 50     telephony sessions
  auth 5       tokens, all credentials of an app together; a sixth session of a credential ends its oldest (401 OAU-213)
  The same request twice at once is refused too (CMN-304).
"""
EPILOG = """\
while it runs (no token wanted)
  POST   /simulator/calls      a call now: {"kind":"inbound","extension":"101","number":"+15550100299","talks_s":9}
  POST   /simulator/faults     a fault, or a list of them; DELETE takes one (/ID) or all away, GET shows them
  GET    /simulator/requests   what was asked and answered (?path=call-log); DELETE forgets
  GET    /simulator/truth      what really happened, for a checker
  POST   /simulator/clock      {"turn_s": 60} turns the platform's clock
  PUT    /simulator/limits     {"heavy": 10}: other rate limits; null: none
  DELETE /simulator/tokens     revokes every token

faults
  {"kind":"status","status":503,"retry_after":5,"count":3}      500, 502, 503, 504, 403, 404 ...; "code":"CMN-211"
  {"kind":"status","status":429,"headers":false}                a limit that says nothing
  {"kind":"slow","delay_s":8,"path":"*-calls"}                  also hang, reset, truncated, huge, html, not_json,
  {"kind":"half","from_s":30,"for_s":60}                        charset, redirect, empty, bad_records

example
  callcast simulate --port 8080 --scenario office --speed 2 --fault '{"kind":"reset","from_s":20,"for_s":10}'
"""
UNLIMITED = """\
poll_interval_s = 1
heavy_per_minute = 10000              # the fake has no rate limit now
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="where to listen (default: %(default)s)")
    add("--port", type=int, default=8078, help="0: a free one (default: %(default)s)")
    add("--scenario", default="office", metavar="NAME", help="see above (default: %(default)s)")
    add("--speed", type=_positive, default=1.0, metavar="X", help="calls go X times as fast; the clock stays true")
    add("--seed", type=int, default=1, metavar="N", help="the same N, the same calls by chance (default: 1)")
    add("--rate-limit", action=argparse.BooleanOptionalAction, default=False, help="the documented rate limits")
    add("--heavy-per-minute", type=int, default=10, metavar="N", help="of the rate limits (default: %(default)s)")
    add(
        "--lateness",
        type=_span,
        default=(0, 0),
        metavar="S[-S]",
        help="the list of live calls lags so much; really 3-10",
    )
    add("--linger", type=float, default=120, metavar="S", help="ended calls stay listed so long; 302 was measured")
    add("--log-delay", type=_span, default=(15, 30), metavar="S[-S]", help="until the call log has a call")
    add("--skew", type=float, default=0, metavar="S", help="the platform's clock is so far ahead")
    add("--token-ttl", type=float, default=3600, metavar="S", help="life of an access token (default: %(default)s)")
    add("--refresh-tokens", action="store_true", help="give refresh tokens too")
    add("--extensions", type=int, default=50, metavar="N", help="of busy (default: %(default)s)")
    add("--calls-per-minute", type=_positive, default=60, metavar="N", help="of busy (default: %(default)s)")
    add("--fault", action="append", default=[], metavar="JSON", help="a fault from the start; may be repeated")


async def run(args: argparse.Namespace) -> int:
    from callcast.simulator import Credential, Limits, Platform, SimulatedClock
    from callcast.simulator.script import ScriptFault

    credential = Credential()
    clock = SimulatedClock(datetime.now(UTC) + timedelta(seconds=args.skew))
    try:
        scenario, faults = _scenario(args, clock.now()), [_fault(text) for text in args.fault]
    except (ScriptFault, OSError) as fault:
        print(f"callcast simulate: {fault}", file=sys.stderr)
        return 2
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
        return 2
    return 0


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
    """A configuration that fits: valid TOML, comments included."""
    limited = platform.limits.limits is not None
    shown = ", ".join(json.dumps(extension) for extension in platform.scenario.extension_ids()[:12])
    return f"""\
# A fake RingCentral listens on {url}
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
    """`3-10`, or one number for both ends."""
    least, _, most = text.partition("-")
    span = float(least), float(most or least)
    if not 0 <= span[0] <= span[1]:
        raise argparse.ArgumentTypeError(f"{text} is not a span of seconds such as 3-10")
    return span
