"""Every way in which a call can end has its word wherever people read it."""

import re

import pytest

from callcast.calls.model import Disposition
from callcast.calls.sessions import _DISPOSITIONS
from callcast.cli.event_line import Painter
from callcast.formats.event_schema import event_schema
from tests import ROOT

STATIC = ROOT / "src" / "callcast" / "web" / "static"


def test_the_page_has_a_word_for_each() -> None:
    """In the line of the last events."""
    text = (STATIC / "words.js").read_text()
    endings = text.partition("const ENDINGS = {")[2].partition("};")[0]
    assert re.findall(r"^  (\w+):", endings, re.MULTILINE) == [str(one) for one in Disposition]


def test_the_schema_names_each() -> None:
    """Without closing the list."""
    field = event_schema()["$defs"]["CallData"]["properties"]["disposition"]["anyOf"][0]
    assert field["examples"] == [str(one) for one in Disposition]
    assert "enum" not in field


@pytest.mark.parametrize("word", ["missed", "no_answer", "abandoned", "busy", "failed", "unknown"])
def test_a_call_without_an_answer_is_red_in_the_terminal(word: str) -> None:
    """Whichever side did not answer."""
    line = Painter(colour=True).line({"type": "call.ended", "data": {"call_id": "101/s-1", "disposition": word}})
    assert f"\x1b[31m{word}\x1b[0m" in line


def test_each_has_a_rank_in_a_conversation() -> None:
    assert sorted(_DISPOSITIONS) == sorted(Disposition)
