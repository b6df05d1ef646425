"""`dead`, `replay` and `explain` as a person uses them: on an outbox whose service has stopped."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from callcast.calls.model import PollHint
from callcast.cli.main import main
from callcast.outbox.opening import open_admin
from callcast.outbox.sqlite.store import open_outbox
from callcast.ports.outbox import Acked
from callcast.ports.sink import Filter
from tests.builders import change, event, source_event
from tests.clock import TurnedClock

NUMBER = "+16505550100"
CONFIG = """
[service]
data_dir = "data"
[sinks.crm]
type = "webhook"
events = ["call.*"]
[sinks.lines]
type = "stdout"
"""
Callcast = Callable[..., tuple[int, str, str]]


@pytest.fixture
async def folder(tmp_path: Path) -> Path:
    """Three calls: a was delivered at attempt two, b's end is a dead letter, c is pending; and a source's event."""
    clock = TurnedClock()
    limits = {"retention_h": 72.0, "outbox_max_mb": 100.0, "dead_letter_days": 30.0}
    async with open_outbox(tmp_path / "data", clock, **limits) as outbox:
        await outbox.subscribe({"crm": Filter(events=("call.*",)), "lines": Filter(events=("source.*",))})
        await outbox.record("acme", None, change(event("a")))
        (one,) = await outbox.claim("crm", limit=1)
        await outbox.retry(one, at=clock.now(), reason="http_503", detail="answered 503", took_s=0.5)
        (one,) = await outbox.claim("crm", limit=1)
        await outbox.ack([Acked(one, 0.012, "answered 204")])
        await outbox.record("acme", None, change(event("b", "call.ended", 1), source_event()))
        (one,) = await outbox.claim("crm", limit=1)
        await outbox.dead_letter(one, reason="http_413", detail="answered 413", took_s=0.25)
        await outbox.record("acme", None, change(replace(event("c"), hint=PollHint(via="push", seconds_before=0.8123))))
    (tmp_path / "callcast.toml").write_text(CONFIG)
    return tmp_path


@pytest.fixture
def callcast(folder: Path, capsys: pytest.CaptureFixture[str]) -> Callcast:
    """One command: its exit code, standard output and standard error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            code = main([*arguments, "--config", str(folder / "callcast.toml")])
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return run


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def printed(monkeypatch: pytest.MonkeyPatch, run: Callable[[], object]) -> str:
    """What a person would see on a terminal."""
    terminal = Terminal()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", terminal)
        run()
    return terminal.getvalue()


def objects(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def pending(folder: Path) -> dict[str, list[str]]:
    """Per call: which sinks have a pending delivery."""
    with open_admin(folder / "data") as admin:
        explanations = [admin.history_of(call) for name in ("a", "b", "c") for call in admin.find(name)]
    return {
        explained.call.session_id: [sink for output in explained.events for sink in output.pending]
        for explained in explanations
        if explained.call
    }


ENDED = event("b", "call.ended", 1)


# Dead letters


def test_dead_list_is_one_object_a_line(callcast: Callcast) -> None:
    """Which event of which call died where, when, after how many attempts and why; numbers as their last four."""
    code, out, err = callcast("dead", "list")
    assert (code, err) == (0, "")
    assert objects(out) == [
        {
            "event_id": ENDED.id,
            "type": "call.ended",
            "subject": "101/b",
            "from": "***0100",
            "to": None,
            "sink": "crm",
            "died_at": "2026-03-02T09:00:00.000Z",
            "attempts": 1,
            "reason": "http_413",
            "detail": "answered 413",
        }
    ]


@pytest.mark.parametrize(
    "command", [["dead", "list"], ["dead", "show", ENDED.id], ["explain", "b"], ["explain", "0100"]]
)
def test_numbers_are_whole_only_when_asked_for(callcast: Callcast, command: list[str]) -> None:
    """Without --full no command shows a number or a name; with it, both."""
    _, out, _ = callcast(*command)
    assert "***0100" in out
    assert "6505550100" not in out
    assert "WIRELESS CALLER" not in out
    assert NUMBER in callcast(*command, "--full")[1]


@pytest.mark.parametrize(
    ("choice", "count"),
    [
        (["--sink", "crm"], 1),
        (["--sink", "lines"], 0),
        (["--type", "call.*"], 1),
        (["--type", "call.ringing"], 0),
        (["--reason", "http_413"], 1),
        (["--reason", "timeout"], 0),
        (["--older-than", "1h"], 1),
        (["--newer-than", "1h"], 0),
    ],
)
@pytest.mark.parametrize("action", ["list", "retry", "drop"])
def test_dead_letters_are_chosen(callcast: Callcast, action: str, choice: list[str], count: int) -> None:
    """By sink, type, reason and age, the same for listing, retrying and dropping; none is not an error."""
    code, out, _ = callcast("dead", action, *choice)
    assert code == 0
    answers = objects(out)
    assert (
        len(answers) == count
        if action == "list"
        else answers == [{{"retry": "retried", "drop": "dropped"}[action]: count}]
    )
    assert len(objects(callcast("dead", "list")[1])) == (1 if action == "list" else 1 - count)


def test_dead_retry_makes_the_same_event_pending_again(callcast: Callcast, folder: Path) -> None:
    """A retried dead letter is pending, and no dead letter any more; a dropped one is neither."""
    assert pending(folder)["b"] == []
    assert callcast("dead", "retry", ENDED.id) == (0, '{"retried":1}\n', "")
    assert pending(folder)["b"] == ["crm"]
    assert callcast("dead", "list") == (0, "", "")


def test_dead_show_holds_the_event(callcast: Callcast) -> None:
    """The dead letter with its event as a sink would get it, except for numbers."""
    _, out, _ = callcast("dead", "show", ENDED.id)
    (shown,) = objects(out)
    assert (shown["event"]["id"], shown["event"]["data"]["state"], shown["reason"]) == (ENDED.id, "ended", "http_413")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["retry"], "no dead letters selected"),
        (["drop"], "no dead letters selected"),
        (["drop", "--all", "--sink", "crm"], "--all cannot be combined"),
        (["retry", ENDED.id, "--reason", "x"], "only with --sink"),
        (["retry", "evt_unknown"], "no dead letter evt_unknown"),
        (["show", "evt_unknown"], "callcast dead list"),
        (["list", "--sink", "crn"], "the outbox has crm, lines"),
        (["retry", "--sink", "crn"], "the outbox has crm, lines"),
        (["list", "--older-than", "yesterday"], "write it as 90s, 15m, 2h or 7d"),
        ([], "ACTION"),
    ],
)
def test_an_ambiguous_selection_changes_nothing(callcast: Callcast, arguments: list[str], message: str) -> None:
    """Exit code 2, what is wrong and what to write instead; every dead letter stays."""
    code, out, err = callcast("dead", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert len(objects(callcast("dead", "list")[1])) == 1


def test_dead_for_people(callcast: Callcast, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal: a table, then sentences."""
    config = ["--config", str(folder / "callcast.toml")]
    shown = printed(monkeypatch, lambda: main(["dead", "list", *config])).splitlines()
    assert shown[0].split() == ["died", "sink", "type", "call", "from", "to", "reason", "attempts", "event"]
    assert "crm   call.ended  101/b  ***0100  -   http_413  1" in shown[1]
    assert printed(monkeypatch, lambda: main(["dead", "drop", "--all", *config])) == "1 dead letter dropped\n"
    assert printed(monkeypatch, lambda: main(["dead", "list", *config])) == "no dead letters\n"


# Replay


def test_replay(callcast: Callcast, folder: Path) -> None:
    """What is settled is pending again, what is pending is not doubled, and the number is printed."""
    assert callcast("replay", "--sink", "crm", "--since", "2026-03-02T08:00:00Z") == (0, '{"replayed":2}\n', "")
    assert pending(folder) == {"a": ["crm"], "b": ["crm"], "c": ["crm"]}
    assert callcast("replay", "--sink", "crm", "--since", "2026-03-02T08:00:00Z")[1] == '{"replayed":0}\n'


@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        (["--since", "2026-03-02T10:00:00+01:00"], 2),
        (["--since", "2026-03-02T09:00:01Z"], 0),
        (["--since", "2026-03-02T08:00:00Z", "--until", "2026-03-02T08:59:59Z"], 0),
        (["--since", "2026-03-02T08:00:00Z", "--type", "call.r*"], 1),
        (["--since", "2026-03-02T08:00:00Z", "--type", "source.*"], 0),
        (["--since", "2h"], 0),
        (["--since", "9000d"], 2),
    ],
)
def test_replay_takes_what_is_asked_for(callcast: Callcast, arguments: list[str], count: int) -> None:
    """By time of recording and type; never what the sink's own keys keep from it."""
    assert callcast("replay", "--sink", "crm", *arguments) == (0, f'{{"replayed":{count}}}\n', "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sink", "crm"], "--since"),
        (["--sink", "crn", "--since", "2h"], "it defines crm, lines"),
        (["--sink", "crm", "--since", "today"], "RFC 3339"),
        (["--sink", "crm", "--since", "2026-03-02T09:00:00"], "RFC 3339"),
        (["--sink", "crm", "--since", "1h", "--until", "2h"], "is before --since"),
    ],
)
def test_replay_refuses_what_makes_no_sense(callcast: Callcast, arguments: list[str], message: str) -> None:
    """Exit code 2 and what to write instead."""
    code, out, err = callcast("replay", *arguments)
    assert (code, out) == (2, "")
    assert message in err


def test_replay_to_a_sink_that_never_ran(callcast: Callcast, folder: Path) -> None:
    """A sink that is configured and of which the service does not know yet."""
    with (folder / "callcast.toml").open("a") as file:
        file.write('[sinks.new]\ntype = "stdout"\n')
    code, _, err = callcast("replay", "--sink", "new", "--since", "2h")
    assert code == 2
    assert "start it, or reload" in err


# Explain


@pytest.mark.parametrize("what", ["101/a", "a", event("a").id])
def test_explain_shows_the_history(callcast: Callcast, what: str) -> None:
    """The poll, the event, each attempt and pending deliveries are shown; found by call, session or event id."""
    code, out, _ = callcast("explain", what)
    (explained,) = objects(out)
    assert code == 0
    assert (explained["call"]["call_id"], explained["pending"]) == ("101/a", [])
    (output,) = explained["events"]
    assert (output["event"]["id"], output["recorded_at"]) == (event("a").id, "2026-03-02T09:00:00.000Z")
    assert (output["poll"]["before"], output["poll"]["evidence"]) == ("2026-03-02T09:00:00.000Z", "active_calls")
    (crm,) = output["sinks"]
    assert (crm["sink"], crm["state"]) == ("crm", "delivered")
    tried = [(one["number"], one["outcome"], one["detail"], one["took_s"]) for one in crm["attempts"]]
    assert tried == [(1, "http_503", "answered 503", 0.5), (2, "delivered", "answered 204", 0.012)]


def test_explain_shows_the_hint_that_caused_a_poll(callcast: Callcast, monkeypatch: pytest.MonkeyPatch) -> None:
    (hinted,) = objects(callcast("explain", "c")[1])
    assert hinted["events"][0]["hint"] == {"via": "push", "seconds_before": 0.812}
    (unhinted,) = objects(callcast("explain", "a")[1])
    assert unhinted["events"][0]["hint"] is None
    assert "\n  poll caused by a push hint 0.8 s before\n" in printed(monkeypatch, lambda: callcast("explain", "c"))
    assert "hint" not in printed(monkeypatch, lambda: callcast("explain", "a"))


def test_explain_says_what_is_pending_and_what_died(callcast: Callcast) -> None:
    """A call with a pending delivery, and one with a dead letter."""
    (waiting,) = objects(callcast("explain", "c")[1])
    assert waiting["pending"] == [{"sink": "crm", "event_id": event("c").id}]
    assert waiting["events"][0]["sinks"] == [{"sink": "crm", "state": "pending", "attempts": []}]
    (died,) = objects(callcast("explain", "b")[1])
    assert [one["state"] for one in died["events"][0]["sinks"]] == ["dead"]


def test_explain_lists_matches(callcast: Callcast) -> None:
    """The last four digits of a number that called three times: the three calls, without their history."""
    code, out, _ = callcast("explain", "0100")
    assert code == 0
    assert [one["call"]["call_id"] for one in objects(out)] == ["101/a", "101/b", "101/c"]


def test_explain_a_sources_event(callcast: Callcast) -> None:
    """The event of a source has a history too, without a call."""
    (explained,) = objects(callcast("explain", source_event().id)[1])
    assert explained["call"] is None
    assert explained["pending"] == [{"sink": "lines", "event_id": source_event().id}]


@pytest.mark.parametrize("what", ["no-such-call", "evt_unknown", "9999"])
def test_explain_nothing(callcast: Callcast, what: str) -> None:
    """Exit code 2, and what is expected."""
    code, out, err = callcast("explain", what)
    assert (code, out) == (2, "")
    assert "give a call id" in err


def test_explain_for_people(callcast: Callcast, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal: the same facts as lines, and a table of matches."""
    config = ["--config", str(folder / "callcast.toml")]
    lines = printed(monkeypatch, lambda: main(["explain", "a", *config])).splitlines()
    assert lines[0] == "101/a: inbound, ringing"
    assert lines[1] == "from ***0100 to unknown"
    assert "  crm: delivered" in lines
    assert "    1. 2026-03-02T09:00:00.000Z  http_503  500.0 ms: answered 503" in lines
    assert lines[-1] == "pending: none"
    assert "101/c" in printed(monkeypatch, lambda: main(["explain", "0100", *config]))
    assert "The call itself has been deleted" in printed(
        monkeypatch, lambda: main(["explain", source_event().id, *config])
    )


# Where there is trouble


@pytest.mark.parametrize("command", [["dead", "list"], ["explain", "a"], ["replay", "--sink", "crm", "--since", "2h"]])
def test_faults_elsewhere_do_not_matter(callcast: Callcast, folder: Path, command: list[str]) -> None:
    """An unknown key, a secret that only the service can read, no source: the outbox is found all the same."""
    with (folder / "callcast.toml").open("a") as file:
        file.write('url = { credential = "hook" }\nnonsense = 1\n')
    assert callcast(*command)[0] == 0


@pytest.mark.parametrize("command", [["dead", "list"], ["explain", "a"], ["replay", "--sink", "crm", "--since", "2h"]])
@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ("[service]\ndata_dir = 3\n[sinks.crm]\n", 78, "service.data_dir: given the number 3, expected"),
        ("data_dir = \n", 78, "invalid TOML"),
        ('[service]\ndata_dir = "elsewhere"\n[sinks.crm]\n', 69, "elsewhere: check data_dir"),
        ('[service]\ndata_dir = "callcast.toml"\n[sinks.crm]\n', 69, "callcast.toml"),
    ],
)
def test_where_the_outbox_is_not(
    callcast: Callcast, folder: Path, command: list[str], text: str, code: int, message: str
) -> None:
    """78 for a data_dir that is none, 69 where no outbox lies; with the place, and what to do."""
    (folder / "callcast.toml").write_text(text)
    got, out, err = callcast(*command)
    assert (got, out) == (code, "")
    assert message in err
    assert "Traceback" not in err


def test_a_sinks_own_keys_must_be_readable_to_replay(callcast: Callcast, folder: Path) -> None:
    """Which events a sink selects cannot be guessed."""
    (folder / "callcast.toml").write_text(CONFIG.replace('["call.*"]', '"call.*"'))
    code, _, err = callcast("replay", "--sink", "crm", "--since", "2h")
    assert code == 78
    assert "sinks.crm.events" in err


def test_the_environment_overrides_the_file(callcast: Callcast, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`data_dir` and a sink's filter may come from variables."""
    (folder / "callcast.toml").write_text(CONFIG.replace('data_dir = "data"', 'data_dir = "elsewhere"'))
    monkeypatch.setenv("CALLCAST_SERVICE__DATA_DIR", str(folder / "data"))
    monkeypatch.setenv("CALLCAST_SINKS__CRM__EVENTS", '["call.ringing"]')
    assert callcast("replay", "--sink", "crm", "--since", "9000d")[1] == '{"replayed":1}\n'
