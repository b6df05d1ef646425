"""The job of a peer: a JSON file, named on its command line."""

import sys
from pathlib import Path

import msgspec
from msgspec import Struct


class Job(Struct, frozen=True):
    """`targets`: the paths to poll. `interval_s` 0: as fast as it can."""

    server: str
    host: str
    port: int
    targets: tuple[str, ...]
    interval_s: float
    hook: str
    hook_port: int
    mqtt: int


def read() -> Job:
    return msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Job)
