"""Wrong usage of each command: exit code 2, in exactly these words, and nothing on standard output."""

import os
import pty
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from callcast.cli.main import main
from callcast.cli.parser import COMMANDS, HELP_WIDTH, build, parse, subparsers

NOT_A_DURATION = "is not a duration: write it as 90s, 15m, 2h or 7d"
NOT_A_PORT = "is not a port: write a number from 0 to 65535; 0 means any free port"
NOT_A_COUNT = "is not a count: write a whole number of at least 1"
NOT_A_TIME = "is not a time: write an age such as 2h, or RFC 3339 such as 2026-03-02T09:00:00Z"
WRONG = [
    ("chek", "callcast: error: argument COMMAND: 'chek' is unknown: did you mean check?"),
    (
        "xyz",
        "callcast: error: argument COMMAND: 'xyz' is unknown: use run, demo, init, check, extensions, explain, dead, "
        "replay, tail, listen, simulate, schema, completion or healthcheck",
    ),
    ("--versoin", "callcast: error: unknown option --versoin: did you mean --version?"),
    ("run --confg x", "callcast run: error: unknown option --confg: did you mean --config?"),
    ("run now", "callcast run: error: 'now' is one argument too many"),
    ("demo --for soon", f"callcast demo: error: argument --for: 'soon' {NOT_A_DURATION}"),
    (
        "demo --for 0s",
        "callcast demo: error: argument --for: '0s' is not a duration above 0: write it as 90s, 15m, 2h or 7d",
    ),
    ("demo --for -1", f"callcast demo: error: argument --for: '-1' {NOT_A_DURATION}"),
    ("demo --for", "callcast demo: error: argument --for: expected one argument"),
    ("demo --seed x", "callcast demo: error: argument --seed: 'x' is not a whole number: write one of at least 0"),
    ("demo --speed 0", "callcast demo: error: argument --speed: '0' is not a number above 0: write it as 2 or 0.5"),
    ("demo --speed nan", "callcast demo: error: argument --speed: 'nan' is not a number above 0: write it as 2 or 0.5"),
    ("demo --port 99999", f"callcast demo: error: argument --port: '99999' {NOT_A_PORT}"),
    ("init --force", "callcast init: error: unknown option --force: use --help"),
    ("check --onlin", "callcast check: error: unknown option --onlin: did you mean --online?"),
    ("extensions --name", "callcast extensions: error: unknown option --name: did you mean --names?"),
    ("extensions --names --json", "callcast extensions: error: argument --json: not allowed with argument --names"),
    ("explain", "callcast explain: error: the following arguments are required: CALL"),
    ("explain a b", "callcast explain: error: 'b' is one argument too many"),
    ("dead", "callcast dead: error: the following arguments are required: ACTION"),
    ("dead lst", "callcast dead: error: argument ACTION: 'lst' is unknown: did you mean list?"),
    ("dead show", "callcast dead show: error: the following arguments are required: EVENT_ID"),
    ("dead list --sinks x", "callcast dead: error: unknown option --sinks: did you mean --sink?"),
    (
        "dead list --older-than yesterday",
        f"callcast dead list: error: argument --older-than: 'yesterday' {NOT_A_DURATION}",
    ),
    ("replay", "callcast replay: error: the following arguments are required: --sink, --since"),
    ("replay --sink a --since today", f"callcast replay: error: argument --since: 'today' {NOT_A_TIME}"),
    (
        "replay --sink a --since 2026-03-02T09:00:00",
        f"callcast replay: error: argument --since: '2026-03-02T09:00:00' {NOT_A_TIME}",
    ),
    ("tail --last -3", "callcast tail: error: argument --last: '-3' is not a whole number: write one of at least 0"),
    ("listen --port x", f"callcast listen: error: argument --port: 'x' {NOT_A_PORT}"),
    (
        "listen --answer 99",
        "callcast listen: error: argument --answer: '99' is not an answer: write 204, 429:3, slow, never or reset",
    ),
    ("listen --retry-after x", f"callcast listen: error: argument --retry-after: 'x' {NOT_A_DURATION}"),
    ("listen --slow -1", f"callcast listen: error: argument --slow: '-1' {NOT_A_DURATION}"),
    ("listen --code pyton", "callcast listen: error: argument --code: 'pyton' is unknown: did you mean python?"),
    ("simulate --port 99999", f"callcast simulate: error: argument --port: '99999' {NOT_A_PORT}"),
    ("simulate --heavy-per-minute 0", f"callcast simulate: error: argument --heavy-per-minute: '0' {NOT_A_COUNT}"),
    ("simulate --extensions 0", f"callcast simulate: error: argument --extensions: '0' {NOT_A_COUNT}"),
    (
        "simulate --lateness 9-3",
        "callcast simulate: error: argument --lateness: '9-3' is not a range: write the shorter duration first, "
        "such as 3s-10s",
    ),
    ("simulate --log-delay soon", f"callcast simulate: error: argument --log-delay: 'soon' {NOT_A_DURATION}"),
    ("simulate --skew x", f"callcast simulate: error: argument --skew: 'x' {NOT_A_DURATION}"),
    ("schema evnt", "callcast schema: error: argument what: 'evnt' is unknown: did you mean event?"),
    ("completion", "callcast completion: error: the following arguments are required: shell"),
    ("completion ksh", "callcast completion: error: argument shell: 'ksh' is unknown: did you mean zsh?"),
    ("healthcheck --readi", "callcast healthcheck: error: unknown option --readi: did you mean --ready?"),
]


@pytest.mark.parametrize(("line", "words"), WRONG, ids=[line for line, _ in WRONG])
def test_wrong_usage(line: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The place, what is wrong and what to write instead."""
    with pytest.raises(SystemExit) as end:
        main(line.split())
    assert end.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1] == words
    assert err.startswith("usage: callcast")


def test_every_command_has_a_wrong_usage() -> None:
    """A new command comes with the words of its errors."""
    assert set(COMMANDS) <= {line.split()[0] for line, _ in WRONG}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("healthcheck --url localhost:9469", "callcast healthcheck: --url must be a URL such as http://127.0.0.1:9469"),
        ("tail --url http://[", "callcast tail: --url must be a URL such as http://127.0.0.1:9469"),
        ("tail --url http://a..b", "callcast tail: --url must be a URL such as http://127.0.0.1:9469"),
        ("tail --url http://h/ä", "callcast tail: --url must be a URL such as http://127.0.0.1:9469"),
        ("tail --url http://h:x", "callcast tail: --url must be a URL such as http://127.0.0.1:9469"),
        (
            "dead drop",
            "callcast dead: no dead letters selected: give EVENT_ID, a filter such as --sink NAME, or --all",
        ),
        ("dead drop --all x", "callcast dead: --all cannot be combined with EVENT_ID or a filter"),
        ("dead retry x --type y", "callcast dead: EVENT_ID can be combined only with --sink, not with other filters"),
    ],
)
def test_values_that_make_no_sense(line: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What the command itself notices."""
    assert main(line.split()) == 2
    assert capsys.readouterr() == ("", f"{words}\n")


@pytest.mark.parametrize("token", ["line\nof-the-token", "of-the-token\udcff"])
def test_a_token_that_cannot_be_sent_is_not_quoted(
    token: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message names the variable only."""
    monkeypatch.setenv("CALLCAST_HTTP_TOKEN", token)
    assert main(["tail", "--url", "http://127.0.0.1:9469"]) == 2
    fix = "correct service.http_token or $CALLCAST_HTTP_TOKEN"
    assert capsys.readouterr().err == f"callcast tail: the token of the service is not one line of text: {fix}\n"


@pytest.mark.parametrize("listen", ["127.0.0.1:99999", "a..b:9469", "9469"])
def test_an_address_that_cannot_be_used(
    listen: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message names the key."""
    monkeypatch.setenv("CALLCAST_SERVICE__HTTP_LISTEN", listen)
    assert main(["healthcheck"]) == 2
    fix = "correct it, or give the address with --url"
    assert capsys.readouterr().err == f"callcast healthcheck: service.http_listen is not host and port: {fix}\n"


@pytest.mark.parametrize("command", ["listen", "simulate"])
def test_a_host_that_cannot_be_looked_up(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The message names the address."""
    assert main([command, "--host", "a..b", "--port", "8"]) == 69
    reason = "cannot listen on a..b port 8: not a host name; choose another --port or --host"
    assert capsys.readouterr().err == f"callcast {command}: {reason}\n"


@pytest.mark.parametrize(
    ("text", "seconds"), [("30", 30), ("30s", 30), ("1.5m", 90), ("2h", 7200), ("1d", 86400), ("0.25", 0.25)]
)
def test_durations(text: str, seconds: float) -> None:
    """With a unit; a bare number means seconds."""
    assert parse(["demo", "--for", text]).for_s == seconds
    assert parse(["simulate", f"--skew=-{text}"]).skew == -seconds


def test_help_fits_into_a_hundred_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every command and action, also on a wide terminal."""
    monkeypatch.setenv("COLUMNS", "300")
    root, parsers = build()
    pages = [one.format_help() for parser in (root, *parsers.values()) for one in subparsers(parser)]
    assert [line for page in pages for line in page.splitlines() if len(line) > HELP_WIDTH] == []
    assert any(len(line) > 90 for page in pages for line in page.splitlines())


def on_a_terminal(command: Sequence[str], environ: dict[str, str]) -> str:
    """What a command writes on a terminal."""
    master, slave = pty.openpty()
    try:
        subprocess.run([sys.executable, "-c", *command], stdout=slave, env=os.environ | environ, check=True, timeout=60)
        return os.read(master, 65_536).decode()
    finally:
        os.close(slave)
        os.close(master)


@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_no_color(no_color: str, coloured: bool) -> None:
    """On a terminal there is colour, unless NO_COLOR is set."""
    program = "from callcast.cli.output import in_colour; print(in_colour())"
    assert on_a_terminal([program], {"NO_COLOR": no_color}).strip() == str(coloured)


def test_colour_is_for_terminals(tmp_path: Path) -> None:
    """Into a file or a pipe there is none."""
    program = "from callcast.cli.output import in_colour; print(in_colour())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == "False"
