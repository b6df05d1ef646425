"""`callcast demo` where a port is in use."""

import socket
from contextlib import suppress

import pytest

from callcast.cli.demo import HTTP_PORT
from callcast.cli.main import main
from tests.integration.cli.programs import program


def test_a_port_that_is_in_use(capsys: pytest.CaptureFixture[str]) -> None:
    """A port given with --port is not replaced by another: 69, with the next step."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["demo", "--port", str(port), "--for", "1s"]) == 69
    reason = f"cannot listen on 127.0.0.1 port {port}: address already in use; choose another --port"
    assert capsys.readouterr() == ("", f"callcast demo: {reason}\n")


async def test_the_default_port_in_use() -> None:
    """Another one is used, and named."""
    with socket.socket() as taken:
        with suppress(OSError):  # then something else has it
            taken.bind(("127.0.0.1", HTTP_PORT))
            taken.listen()
        async with program("demo", "--for", "1s") as demo:
            assert await demo.ended() == 0
    notice, *hint = demo.err.splitlines()
    assert notice == f"callcast demo: port {HTTP_PORT} is in use, so the wallboard gets a free one"
    assert f"127.0.0.1:{HTTP_PORT}/" not in "".join(hint)
    assert "wallboard   http://127.0.0.1:" in hint[1]


async def test_a_chosen_port() -> None:
    """Where 0 means any free one."""
    async with program("demo", "--for", "1s", "--port", "0") as demo:
        assert await demo.ended() == 0
    assert "wallboard   http://127.0.0.1:" in demo.err
    assert "in use" not in demo.err
