"""Real MQTT brokers for tests: mosquitto as installed, iotcore from PyPI. One listener, one protocol each."""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.ports import free_port

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")


def need_mosquitto() -> str:
    """The path of the program. If it is missing, the test is skipped, or fails under CI=true."""
    if MOSQUITTO is None:
        reason = "mosquitto is not installed"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return MOSQUITTO


class Broker:
    """A broker process. It keeps its port over restarts, but loses retained messages."""

    def __init__(self, command: list[str], port: int) -> None:
        self.port = port
        self.refuse: Callable[[], object] | None = None  # changes the configuration; from the next start on
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        if self._process is None:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            self._wait_until_it_listens()

    def stop(self) -> None:
        """Kill the broker, as in a crash."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Stop the process: connections stay open, but get no response."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)
            os.waitpid(self._process.pid, os.WUNTRACED)  # its threads run on for a moment

    def thaw(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def _wait_until_it_listens(self) -> None:
        deadline_s = time.monotonic() + 20
        while time.monotonic() < deadline_s:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            time.sleep(0.01)
        raise AssertionError(f"{self._command[0]} does not listen")


@contextmanager
def mosquitto(folder: Path, *settings: str, anonymous: bool = True) -> Iterator[Broker]:
    """mosquitto with additional configuration lines."""
    port = free_port()
    file = folder / "mosquitto.conf"
    lines = [
        f"user {getpass.getuser()}",
        f"listener {port} 127.0.0.1",
        f"allow_anonymous {str(anonymous).lower()}",
        *settings,
    ]
    file.write_text("\n".join(lines) + "\n")
    broker = Broker([need_mosquitto(), "-c", str(file)], port)
    broker.refuse = lambda: file.write_text("\n".join([*lines, "message_size_limit 300"]) + "\n")
    yield from _running(broker)


@contextmanager
def iotcore(folder: Path, protocol: str) -> Iterator[Broker]:
    """The embedded broker; its listener speaks one protocol only."""
    port = free_port()
    version = "v5" if protocol == "5" else "v4"
    file = folder / "iotcore.toml"
    file.write_text(_IOTCORE.format(version=version, port=port))
    command = [sys.executable, "-m", "iotcore", "--config", str(file), "--log-level", "CRITICAL"]
    yield from _running(Broker(command, port))


_IOTCORE = """
id = 0
[router]
id = 0
max_connections = 100
max_outgoing_packet_count = 200
max_segment_size = 104857600
max_segment_count = 10
[{version}.1]
name = "tests"
listen = "127.0.0.1:{port}"
next_connection_delay_ms = 1
[{version}.1.connections]
connection_timeout_ms = 5000
max_payload_size = 65536
max_inflight_count = 100
"""


def _running(broker: Broker) -> Iterator[Broker]:
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()
