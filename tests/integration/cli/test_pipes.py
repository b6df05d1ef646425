"""A reader that leaves ends any command quietly: exit code 0, and nothing on standard error."""

import http.client
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.integration.cli.test_dead_letters import folder

__all__ = ["folder"]  # a fixture

COMMANDS = (
    ("--help",),
    ("--version",),
    ("explain", "--help"),
    ("schema", "event"),
    ("completion", "bash"),
    ("check", "--config", "good.toml"),
    ("explain", "0100", "--config", "callcast.toml"),
    ("dead", "list", "--config", "callcast.toml"),
    ("dead", "drop", "--all", "--config", "callcast.toml"),
    ("replay", "--sink", "crm", "--since", "9000d", "--config", "callcast.toml"),
    ("listen", "--code", "python"),
    ("simulate", "--port", "0"),
)


def run(command: Sequence[str], folder: Path, stdout: int, *, unbuffered: str) -> tuple[int, str]:
    (folder / "good.toml").write_text(
        '[service]\ndata_dir = "data"\n[sources.acme]\nclient_id = "a"\nclient_secret = "b"\njwt = "c"\n'
        '[sinks.lines]\ntype = "stdout"\n'
    )
    done = subprocess.run(
        [sys.executable, "-m", "callcast", *command],
        cwd=folder,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])  # where the trouble shows: at the end, or in the middle of the work
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_without_a_reader(command: Sequence[str], unbuffered: str, folder: Path) -> None:
    """The pipe is closed before the first word."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        code, err = run(command, folder, write_end, unbuffered=unbuffered)
    finally:
        os.close(write_end)
    warnings = [line for line in err.splitlines() if not line.startswith(("warning: ", "    fix: "))]
    assert (code, warnings) == (0, [])


@pytest.mark.parametrize("command", [("schema", "event"), ("explain", "0100", "--config", "callcast.toml")])
def test_onto_a_full_disk(command: Sequence[str], folder: Path) -> None:
    """That is not a closed pipe: the error names the cause; exit code 69."""
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        code, err = run(command, folder, full.fileno(), unbuffered="1")
    assert code == 69
    assert err == "callcast: standard output cannot be written: no space left on device\n"


def test_a_receiver_whose_reader_leaves() -> None:
    """`callcast listen --json | head -1` ends with the first event after `head` has ended, without a traceback."""
    command = "callcast listen --port 0 --unsigned --json | head -1"
    shell = subprocess.Popen(
        ["/bin/sh", "-c", command.replace("callcast", f"{sys.executable} -m callcast", 1)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert shell.stderr is not None
    url = next(line for line in shell.stderr if line.startswith("url = ")).split('"')[1]
    while shell.poll() is None:  # `head` may still be ending when the second event is printed
        post(url)
    out, err = shell.communicate(timeout=30)
    assert len(out.splitlines()) == 1
    assert "Traceback" not in err


def post(url: str) -> None:
    """A request after the end is refused."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
    with suppress(OSError, http.client.HTTPException):
        connection.request("POST", "/", b"{}", {"webhook-id": "x", "webhook-timestamp": "1"})
        assert connection.getresponse().status == 204
