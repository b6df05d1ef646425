"""A real mosquitto for a run: one listener on this machine, nothing kept, no queue that could drop."""

import getpass
import shutil
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from bench.child import BenchFailed, die_with_parent, end
from tests.ports import free_port

SETTINGS = "allow_anonymous true\nmax_queued_messages 0\nmax_inflight_messages 0\nset_tcp_nodelay true\n"


class Broker:
    def __init__(self, folder: Path) -> None:
        program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
        if program is None:
            raise BenchFailed("mosquitto is not installed")
        self.port = free_port()
        file = folder / "mosquitto.conf"
        file.write_text(f"user {getpass.getuser()}\nlistener {self.port} 127.0.0.1\n{SETTINGS}")
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(
            [program, "-c", str(file)],
            stdin=quiet,
            stdout=quiet,
            stderr=quiet,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
        self._wait()

    def _wait(self) -> None:
        until = time.monotonic() + 10
        while time.monotonic() < until and self._process.poll() is None:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            time.sleep(0.02)
        raise BenchFailed("mosquitto does not listen")

    def close(self) -> None:
        end(self._process, gently_s=2.0)
