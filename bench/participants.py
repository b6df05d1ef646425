"""The programs of the bench: callcast as installed, and the peers, each given the same job."""

import argparse
import os
import sys
from pathlib import Path

import msgspec
from msgspec import Struct

from bench.peers.job import Job

CONFIG = """\
[service]
data_dir = "{data}"
http_listen = "127.0.0.1:{http}"
log_level = "error"
outbox_max_mb = {outbox_max_mb}
[sources.acme]
server = "{server}"
client_id = "app"
client_secret = "secret"
jwt = "jwt"
{watch}
poll_interval_s = {interval}
heavy_per_minute = 10000
headroom = 1.0
[sinks.crm]
type = "webhook"
url = "{hook}"
secrets = ["whsec_c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0"]
[sinks.wall]
type = "mqtt"
url = "mqtt://127.0.0.1:{mqtt}"
[sinks.lines]
type = "stdout"
"""
SINKS = ("crm", "wall", "lines")
# As it comes, and with a stopwatch in it for the loop or the shares (`inside.py`).
CALLCAST = {"callcast": "callcast", "held": "bench.inside", "shares": "bench.inside"}
PEERS = {"a": "bench.peers.everyday", "c": "bench.peers.tuned", "d": "bench.peers.floor"}
NAMES = {"callcast": "callcast", "a": "(a) everyday", "b": "(b) Node-RED", "c": "(c) tuned", "d": "(d) floor"}


def participant(word: str) -> str:
    """For a command line."""
    if word not in NAMES:
        raise argparse.ArgumentTypeError(f"unknown participant {word}: give {', '.join(NAMES)}")
    return word


class SinkContext(Struct, frozen=True):
    """Where a participant finds the others. `extensions` empty: the account as a whole; `interval_s` 0: no pause."""

    folder: Path
    platform: int
    hook: int
    mqtt: int
    http: int
    extensions: tuple[str, ...]
    interval_s: float
    outbox_max_mb: int = 1024
    more_sinks: str = ""  # tables of callcast's configuration


class Command(Struct, frozen=True):
    arguments: tuple[str, ...]
    environment: dict[str, str]


def command(name: str, context: SinkContext) -> Command:
    """Raises KeyError for an unknown name."""
    if name in CALLCAST:
        return _callcast(name, context)
    file = context.folder / "job.json"
    file.write_bytes(msgspec.json.encode(_job(context)))
    if name == "b":
        from bench.peers import node_red

        return Command(node_red.command(context.folder, file), dict(os.environ))
    return Command((sys.executable, "-m", PEERS[name], str(file)), dict(os.environ))


def _callcast(name: str, context: SinkContext) -> Command:
    watch = f"extensions = {list(context.extensions)}" if context.extensions else 'watch = "account"'
    config = context.folder / "callcast.toml"
    config.write_text(
        CONFIG.format(
            data=context.folder / "data",
            http=context.http,
            server=f"http://127.0.0.1:{context.platform}",
            watch=watch.replace("'", '"'),
            interval=context.interval_s or '"auto"',
            hook=f"http://127.0.0.1:{context.hook}/hook",
            mqtt=context.mqtt,
            outbox_max_mb=context.outbox_max_mb,
        )
        + context.more_sinks
    )
    module, more = CALLCAST[name], {"BENCH_INSIDE": str(context.folder / "inside.json")}
    environment = {key: value for key, value in os.environ.items() if not key.startswith("CALLCAST_")}
    if name == "shares":
        more["BENCH_SHARES"] = "1"
    arguments = (sys.executable, "-m", module, "run", "--config", str(config))
    return Command(arguments, environment | (more if name != "callcast" else {}))


def _job(context: SinkContext) -> Job:
    roots = [f"/restapi/v1.0/account/~/extension/{one}" for one in context.extensions] or ["/restapi/v1.0/account/~"]
    return Job(
        server=f"http://127.0.0.1:{context.platform}",
        host="127.0.0.1",
        port=context.platform,
        targets=tuple(f"{root}/active-calls" for root in roots),
        interval_s=context.interval_s,
        hook=f"http://127.0.0.1:{context.hook}/hook",
        hook_port=context.hook,
        mqtt=context.mqtt,
    )
