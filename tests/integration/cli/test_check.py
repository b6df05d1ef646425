"""The command line as a person meets it: exit codes, what is printed where, and how little is imported."""

import asyncio
import json
import os
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from callcast import __version__
from callcast.cli.main import LOCAL_FILE, SYSTEM_FILE, default_config, main
from callcast.cli.parser import COMMANDS, parse
from callcast.cli.running_service import service_of
from callcast.ports.sink import Filter
from tests.builders import NINE, change, event
from tests.disks import small_disk
from tests.integration.outbox.test_admin import bury
from tests.integration.outbox.test_admin import service as outbox_of
from tests.unit.config.files import GOOD, SOURCE, STDOUT, WEBHOOK, write

ENVIRON = {"PATH": os.environ["PATH"]}


def callcast(*arguments: str, cwd: Path, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """callcast as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "callcast", *arguments],
        cwd=cwd,
        env=ENVIRON | (environ or {}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_version_and_help_import_next_to_nothing(tmp_path: Path) -> None:
    """Neither pydantic nor aiohttp nor asyncio is imported before a command needs it."""
    code = (
        "import sys; from callcast.cli.main import main\n"
        "for arguments in (['--version'], ['--help'], ['check', '--help'], ['run', '--help'], ['demo', '--help']):\n"
        "    try: main(arguments)\n"
        "    except SystemExit as end: assert end.code == 0\n"
        "heavy = {'pydantic', 'pydantic_settings', 'aiohttp', 'asyncio', 'msgspec', 'paho', 'structlog'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"callcast {__version__}" in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_with_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`callcast COMMAND --help` says what it does and shows a use of it."""
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0
    output = capsys.readouterr().out
    assert "example" in output
    assert f"callcast {name}" in output
    assert ("--config" in output) == COMMANDS[name].config


@pytest.mark.parametrize("arguments", [["nonsense"], ["--nonsense"], ["check", "--nonsense"], ["schema", "nonsense"]])
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, the reason on standard error, nothing on standard output."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "usage: callcast" in err


def test_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    """`callcast` alone shows the help, and is wrong usage."""
    assert main([]) == 2
    assert "commands:" in capsys.readouterr().err


def test_default_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable, else the file here, else the system's."""
    monkeypatch.chdir(tmp_path)
    assert default_config({}) == SYSTEM_FILE
    assert default_config({"CALLCAST_CONFIG": ""}) == SYSTEM_FILE
    write(tmp_path, GOOD)
    assert default_config({}) == LOCAL_FILE
    assert default_config({"CALLCAST_CONFIG": "/x.toml"}) == Path("/x.toml")


def test_check_of_a_good_file(tmp_path: Path) -> None:
    """Exit code 0; the plan on standard output, warnings on standard error."""
    more = SOURCE.replace("acme", "east").replace("jwt-of", "other-jwt-of") + 'extensions = ["1", "2", "3"]\n'
    write(tmp_path, SOURCE + 'watch = "account"\n' + more + STDOUT + WEBHOOK.replace("secrets", "# secrets"))
    done = callcast("check", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout == (
        "callcast.toml is valid: from acme (account), east (extensions) to lines (stdout), crm (webhook)\n"
        "\n"
        "source  watch       extensions  polled every  changes detected within  requests per minute\n"
        "acme    account     all         7.5 s         7.5 s                    8 of 10\n"
        "east    extensions  3           22.5 s        22.5 s                   8 of 10\n"
        "\n"
        "with hints (where RingCentral permits them), at once when something happens, and:\n"
        "source  hints by           otherwise polled every  where presence is read\n"
        "acme    push               95 to 142 s             -\n"
        "east    push and presence  95 to 142 s             300 to 450 s, read every 5 s\n"
    )
    assert done.stderr.startswith("warning: callcast.toml:17: sinks.crm.secrets: none: ")


def test_check_of_many_extensions(tmp_path: Path) -> None:
    """A plan of an hour is shown in whole seconds."""
    extensions = ", ".join(f'"{n}"' for n in range(1, 401))
    write(tmp_path, SOURCE + f"extensions = [{extensions}]\naccept_blind_spots = true\n" + STDOUT)
    done = callcast("check", cwd=tmp_path)
    assert "acme    push and presence  3000 to 4500 s          not read: 400 extensions are too many\n" in done.stdout


async def test_check_warns_of_deliveries_for_a_removed_sink(tmp_path: Path) -> None:
    """A sink was renamed: check says what the outbox holds, how to deliver it, and when it is deleted; exit code 0."""
    async with outbox_of(tmp_path) as outbox:
        await bury(outbox, "a")
        await outbox.record("acme", None, change(event("b", "call.ringing", 1), event("c", "call.ringing", 1)))
    write(tmp_path, f'[service]\ndata_dir = "{tmp_path}"\n' + GOOD)
    before = await asyncio.to_thread(callcast, "check", cwd=tmp_path)
    async with outbox_of(tmp_path) as outbox:
        await outbox.subscribe({"lines": Filter()})
        beside = await asyncio.to_thread(callcast, "check", cwd=tmp_path)
    assert (before.returncode, beside.returncode) == (0, 0)
    output = (
        "warning: sinks.crm: no longer in the configuration, but the outbox holds 2 events and 1 dead letter for it\n"
    )
    fix = "    fix: add the sink again under this name to deliver them; otherwise they are deleted "
    assert before.stderr == f"{output}{fix}72 h after the next start or reload\n"
    assert beside.stderr == f"{output}{fix}at {NINE + timedelta(hours=72):%Y-%m-%d %H:%M} UTC\n"


def test_check_of_an_outbox_that_it_cannot_read(tmp_path: Path) -> None:
    """That is not a fault of the configuration: a warning with the place and the next step."""
    write(tmp_path, f'[service]\ndata_dir = "{tmp_path}"\n' + GOOD)
    (tmp_path / "outbox.db").write_text("no database at all" * 100)
    done = callcast("check", cwd=tmp_path)
    assert done.returncode == 0
    assert f"warning: service.data_dir: the outbox {tmp_path}/outbox.db cannot be read" in done.stderr


def test_check_refuses_an_outbox_of_another_version(tmp_path: Path) -> None:
    """Because `run` does: both exit with 69 and say what to do."""
    write(tmp_path, f'[service]\ndata_dir = "{tmp_path}"\nhttp_listen = "127.0.0.1:0"\n' + GOOD)
    with closing(sqlite3.connect(tmp_path / "outbox.db")) as outbox:
        outbox.execute("PRAGMA user_version = 999")
    checked, ran = callcast("check", cwd=tmp_path), callcast("run", cwd=tmp_path)
    assert (checked.returncode, ran.returncode) == (69, 69)
    for message in (checked.stderr, ran.stderr):
        assert f"{tmp_path}/outbox.db was written by a newer callcast (schema 999, this one knows " in message
        assert "run that version, or set another data_dir" in message
    assert checked.stderr.startswith("callcast check: service.data_dir: ")


def test_check_of_a_bad_file(tmp_path: Path) -> None:
    """Exit code 78; every fault and their number on standard error, no plan, no traceback."""
    write(tmp_path, "[service]\nlog_levle = 1\n" + GOOD)
    done = callcast("check", cwd=tmp_path, environ={"CALLCAST_SINKS__LINES__TIMEOUT_S": "soon"})
    assert done.returncode == 78
    assert done.stdout == ""
    assert done.stderr == (
        "callcast.toml:2: service.log_levle: unknown key\n"
        "    fix: did you mean `log_level`?\n"
        'CALLCAST_SINKS__LINES__TIMEOUT_S: sinks.lines.timeout_s: given "soon", expected a number\n'
        "2 errors\n"
    )


def test_check_names_a_proxy_that_cannot_be_used(tmp_path: Path) -> None:
    """Where the environment's is wanted: the key, the variable and the fix, without its login; `run` refuses it too."""
    write(tmp_path, SOURCE + WEBHOOK + "trust_env = true\n")
    environ = {"HTTPS_PROXY": "socks5://user:secret-word@proxy:1080"}
    checked = callcast("check", cwd=tmp_path, environ=environ)
    ran = callcast("run", cwd=tmp_path, environ=environ)
    assert (checked.returncode, ran.returncode) == (78, 78)
    assert (
        ": HTTPS_PROXY names a SOCKS proxy\n"
        "    fix: name an http or https proxy in HTTPS_PROXY, or set trust_env = false\n"
    ) in checked.stderr
    assert "secret-word" not in checked.stderr + ran.stderr


def test_check_and_run_without_a_file(tmp_path: Path) -> None:
    """The commonest first mistake: no file. Both say so and where it was looked for, with exit code 78."""
    for command in ("check", "run"):
        done = callcast(command, "--config", "nowhere.toml", cwd=tmp_path)
        assert done.returncode == 78
        assert "nowhere.toml" in done.stderr
        assert "no such file" in done.stderr
        assert "Traceback" not in done.stderr


def test_run_refuses_what_check_refuses(tmp_path: Path) -> None:
    """A plan that can miss calls stops `run` with the same words."""
    extensions = ", ".join(f'"{number}"' for number in range(100, 120))
    write(tmp_path, SOURCE + f"extensions = [{extensions}]\n" + STDOUT)
    checked, ran = callcast("check", cwd=tmp_path), callcast("run", cwd=tmp_path)
    assert (checked.returncode, ran.returncode) == (78, 78)
    assert "above 100 s calls can be missed" in checked.stderr
    line = json.loads(ran.stderr)
    assert line["event"] == "configuration_invalid"
    assert f"{line['where']}: {line['key']}: {line['detail']}\n    fix: {line['fix']}\n" in checked.stderr


def test_run_logs_what_check_warns_of(tmp_path: Path) -> None:
    """A line each, so that it is in a log too: where, which key, what, and the fix. Also of several on one key."""
    twins = WEBHOOK.replace("secrets", "# secrets")
    with socket.create_server(("127.0.0.1", 0)) as taken:  # so that it ends at once
        listen = f'[service]\ndata_dir = "data"\nhttp_listen = "127.0.0.1:{taken.getsockname()[1]}"\n'
        write(tmp_path, listen + SOURCE + STDOUT + twins + twins.replace("crm", "erp"))
        done = callcast("run", cwd=tmp_path)
    assert done.returncode == 69
    lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    output = [line for line in lines if line["event"] == "configuration_warning"]
    assert [line["key"] for line in output] == ["sinks.crm.secrets", "sinks.erp.secrets"]
    assert all(line["level"] == "warning" and "callcast.toml:" in line["where"] for line in output)
    assert all(line["detail"] and line["fix"] for line in output)


def test_run_where_no_folder_can_be_made(tmp_path: Path) -> None:
    """Whatever the system's reason: the place, the cause and the next step, not a traceback."""
    write(tmp_path, '[service]\ndata_dir = "/proc/callcast"\n' + GOOD)
    done = callcast("run", cwd=tmp_path)
    assert done.returncode == 69
    assert "data_dir /proc/callcast cannot be used" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user, which only root may")
@pytest.mark.parametrize("command", [("check",), ("run",), ("dead", "list"), ("explain", "1234")])
def test_a_user_without_a_home_is_asked_for_a_folder(command: tuple[str, ...], tmp_path: Path) -> None:
    """As container platforms start it: no HOME, a user id that is in no list. A finding, and 78."""
    environ = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_DATA_HOME")}
    write(tmp_path, GOOD)
    done = subprocess.run(
        [sys.executable, "-m", "callcast", *command, "--config", "callcast.toml"],
        cwd=tmp_path,
        env=environ,
        preexec_fn=lambda: os.setreuid(123_456, -1),  # the one that is looked up; the files stay within reach
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 78
    assert "service.data_dir" in done.stderr
    assert "$HOME is not set, and the user 123456 has no home" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("folder", ["/proc/nope", "/proc", "/dev/null/callcast", "callcast.toml", "x" * 300])
def test_check_refuses_a_folder_that_cannot_be_made(folder: str, tmp_path: Path) -> None:
    """With the line where it stands; and nothing is left behind."""
    write(tmp_path, f'[service]\ndata_dir = "{folder}"\n' + GOOD)
    done = callcast("check", cwd=tmp_path)
    assert done.returncode == 78
    assert "callcast.toml:2: service.data_dir: cannot create or write to the folder" in done.stderr
    assert [one.name for one in tmp_path.iterdir()] == ["callcast.toml"]


def test_check_takes_a_full_disk(tmp_path: Path) -> None:
    """That may be over when the service starts, and must not refuse a reload."""
    with small_disk(tmp_path / "disk") as disk:
        disk.fill()
        write(tmp_path, f'[service]\ndata_dir = "{disk.path}"\n' + GOOD)
        assert callcast("check", cwd=tmp_path).returncode == 0


def test_check_takes_a_folder_that_can_be_made(tmp_path: Path) -> None:
    """Although it and the one above are not there yet; they are not made."""
    write(tmp_path, '[service]\ndata_dir = "some/where"\n' + GOOD)
    assert callcast("check", cwd=tmp_path).returncode == 0
    assert [one.name for one in tmp_path.iterdir()] == ["callcast.toml"]


def test_schema_goes_into_a_closed_pipe(tmp_path: Path) -> None:
    """`callcast schema config | head -1` ends quietly."""
    done = subprocess.run(
        ["/bin/sh", "-c", f"{sys.executable} -m callcast schema config | head -1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("{\n", "")


class Answers(BaseHTTPRequestHandler):
    """A service that is alive and not ready."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/healthz" else 503)
        self.end_headers()
        self.wfile.write(b"" if self.path == "/healthz" else b"source acme: no successful poll for 45 s\n")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Silent."""


@pytest.fixture
def service() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Answers)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_healthcheck_by_url(service: str, capsys: pytest.CaptureFixture[str]) -> None:
    """0 when it is alive; 69 with the service's own reason when it is not ready."""
    assert main(["healthcheck", "--url", f"http://{service}"]) == 0
    assert main(["healthcheck", "--ready", "--url", f"http://{service}/"]) == 69
    reason = f"http://{service}/readyz: 503 source acme: no successful poll for 45 s"
    assert capsys.readouterr().err == f"callcast healthcheck: {reason}\n"


def test_healthcheck_by_configuration(service: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The address comes from the file, and from the variable before it; faults of the file do not matter."""
    path = write(tmp_path, f'[service]\nhttp_listen = "{service}"\nnonsense = 1\n')
    assert main(["healthcheck", "--config", str(path)]) == 0
    path.write_text("no TOML")
    monkeypatch.setenv("CALLCAST_SERVICE__HTTP_LISTEN", service)
    assert main(["healthcheck", "--config", str(path)]) == 0


def test_healthcheck_without_a_service(service: str, capsys: pytest.CaptureFixture[str]) -> None:
    """69, and the address, when nothing listens; 2 when the question makes no sense."""
    with HTTPServer(("127.0.0.1", 0), Answers) as closed:
        port = closed.server_port
    assert main(["healthcheck", "--url", f"http://127.0.0.1:{port}"]) == 69
    assert (
        f"http://127.0.0.1:{port}/healthz: connection refused: check that the service is running"
        in capsys.readouterr().err
    )
    assert main(["healthcheck", "--url", service]) == 2


@pytest.mark.parametrize(("listen", "host"), [("0.0.0.0", "127.0.0.1"), ("[::]", "::1"), ("10.0.0.5", "10.0.0.5")])
def test_healthcheck_of_a_service_that_listens_everywhere(tmp_path: Path, listen: str, host: str) -> None:
    """A wildcard address is reached on this machine."""
    path = write(tmp_path, f'[service]\nhttp_listen = "{listen}:9469"\n')
    service = service_of(parse(["healthcheck", "--config", str(path)]))
    assert (service.host, service.port) == (host, 9469)
