"""`callcast demo`: run the service against a built-in RingCentral simulator, without credentials or network."""

import argparse
import asyncio
import socket
import sys
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from callcast import app
from callcast.cli.failure import CommandFailed
from callcast.config import load
from callcast.exit_codes import ExitCode
from callcast.simulator import Credential, Platform
from callcast.simulator.scenarios import office

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
poll_interval_s = 5
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


async def run(args: argparse.Namespace) -> int:
    port = _port(args.port)
    story = office(datetime.now(UTC), seed=args.seed, speed=args.speed)
    with tempfile.TemporaryDirectory(prefix="callcast-demo-") as folder:
        async with Platform(story).serve() as url:
            path = _write(Path(folder), url, port, {one.id: one.name for one in story.account.extensions})
            print(HINT.format(port=port), file=sys.stderr, flush=True)
            stop = asyncio.Event()
            if args.for_s is not None:
                asyncio.get_running_loop().call_later(args.for_s, stop.set)
            return await app.run(load(path, {}), read_config=lambda: load(path, {}), stop=stop)


def _port(wanted: int | None) -> int:
    """Return the port that was asked for, else 9469, else a free one."""
    for port in (HTTP_PORT, 0) if wanted is None else (wanted,):
        with socket.socket() as test_socket:
            test_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                test_socket.bind(("127.0.0.1", port))
            except OSError as error:
                why = (error.strerror or str(error)).lower()
            else:
                return int(test_socket.getsockname()[1])
        if port == HTTP_PORT and wanted is None:
            print(f"callcast demo: port {HTTP_PORT} is in use, so the wallboard gets a free one", file=sys.stderr)
    raise CommandFailed(f"cannot listen on 127.0.0.1 port {port}: {why}; choose another --port", ExitCode.UNAVAILABLE)


def _write(folder: Path, url: str, port: int, names: Mapping[str, str]) -> Path:
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
