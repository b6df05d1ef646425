"""`callcast demo`: run the service against a built-in RingCentral simulator, without credentials or network."""

import argparse
import socket
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

HTTP_PORT = 9469
CONFIG = """\
# The demo's configuration. The source is a RingCentral simulator in the same process.
[service]
data_dir = "{data_dir}"
http_listen = "127.0.0.1:{port}"
numbers = "full"
log_level = "warning"

[sources.demo]
server = "{url}"
client_id = "{client_id}"
client_secret = "{client_secret}"
jwt = "{jwt}"
watch = "account"
poll_interval_s = 0.5
heavy_per_minute = 10000

[sinks.lines]
type = "stdout"

[names]
{names}
"""
HINT = """\
callcast demo: the service is running against a simulated phone system
  wallboard   http://127.0.0.1:{port}/
  metrics     http://127.0.0.1:{port}/metrics
  calls       curl -s http://127.0.0.1:{port}/api/calls
  events      curl -N http://127.0.0.1:{port}/api/events
  stop        Ctrl-C
Events follow on standard output, one JSON object per line.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Run the service against a built-in RingCentral simulator with scripted and random calls. Events go to "
        f"standard output; the wallboard is on http://127.0.0.1:{HTTP_PORT}/. Needs no configuration, keeps no data "
        "and does not use the network."
    )
    parser.epilog = "example: callcast demo --for 60 --seed 7 --speed 2 | jq -r .type"
    parser.add_argument("--for", dest="for_s", type=_positive, metavar="S", help="stop after S seconds")
    parser.add_argument(
        "--seed", type=int, default=1, metavar="N", help="random seed; the same seed gives the same calls (default: 1)"
    )
    parser.add_argument("--speed", type=_positive, default=1.0, metavar="X", help="run the calls X times as fast")


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value


def _port() -> int:
    """Return the default port, or a free one if the default is in use."""
    for port in (HTTP_PORT, 0):
        with socket.socket() as test_socket:
            test_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                test_socket.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(test_socket.getsockname()[1])
    raise OSError("no free port on 127.0.0.1")


async def run(args: argparse.Namespace) -> int:
    import asyncio
    from datetime import UTC, datetime

    from callcast import app
    from callcast.config import load
    from callcast.simulator import Platform
    from callcast.simulator.scenarios import office

    story = office(datetime.now(UTC), seed=args.seed, speed=args.speed)
    port = _port()
    with tempfile.TemporaryDirectory(prefix="callcast-demo-") as folder:
        async with Platform(story).serve() as url:
            path = _write(Path(folder), url, port, {one.id: one.name for one in story.account.extensions})
            print(HINT.format(port=port), file=sys.stderr, flush=True)
            stop = asyncio.Event()
            if args.for_s is not None:
                asyncio.get_running_loop().call_later(args.for_s, stop.set)
            return await app.run(load(path, {}), read_config=lambda: load(path, {}), stop=stop)


def _write(folder: Path, url: str, port: int, names: Mapping[str, str]) -> Path:
    from callcast.simulator import Credential

    credential = Credential()
    path = folder / "callcast.toml"
    path.write_text(
        CONFIG.format(
            data_dir=folder / "data",
            port=port,
            url=url,
            client_id=credential.client_id,
            client_secret=credential.client_secret,
            jwt=credential.jwt,
            names="\n".join(f'{extension_id} = "{name}"' for extension_id, name in names.items()),
        )
    )
    return path
