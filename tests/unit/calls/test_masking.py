"""No phone number leaves in a text that was not written for it, and nothing else is touched."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callcast.calls.masking import harmless, masked


@pytest.mark.parametrize(
    "number",
    [
        "+16505550100",
        "+1 650 555 0100",
        "+1 (650) 555-0100",
        "+1.650.555.0100",
        "+1-650-555-0100",
        "+1\u2013650\u2011555\u00a00100",
        "(650)555-0100",
        "(650) 555-0100",
        "(650)5550100",
        "650-555-0100",
        "650.555.0100",
        "650 555 0100",
        "1-650-555-0100",
        "1 (650) 555-0100",
        "+44 20 7123 0100",
        "+49 (0)30 1234-0100",
    ],
)
def test_a_number_shows_its_last_four_digits(number: str) -> None:
    """However people write it, anywhere in a text."""
    assert masked(f"no such number: {number}, sorry") == "no such number: ***0100, sorry"
    assert masked(f'"{number}"') == '"***0100"'
    assert harmless(f"no such number: {number}, sorry", 100) == "no such number: ***0100, sorry"


@pytest.mark.parametrize(
    "text",
    [
        "extension 62264425016",
        "62264425016/s-8f8125f1aeb944f486531c351a2f520e",
        "101/s-123-456-7890",
        "2026-03-02T09:00:00.000Z and 2026-03-02 09:00:00+00:00",
        "12:30+0100",
        "127.0.0.1:9469",
        "192.168.100.200",
        "f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
        "took 1234567 us, 12 of 300 in 30 s",
        "SIP/2.0 486 Busy",
        "callcast 1.2.3",
        "events 100 200 300",
    ],
)
def test_text_that_is_not_a_number_stays(text: str) -> None:
    """Ids, times, addresses, amounts."""
    assert masked(text) == text


def test_words_of_others_are_masked_before_they_are_cut() -> None:
    """A token that stands across the place of the cut shows no part of itself."""
    token = "eyJhbGciOiJSUzI1NiJ9." * 4
    for before in range(120, 170):
        assert "eyJ" not in harmless("x " * (before // 2) + token, 160)
    assert harmless("calling 6505550100 or 62264425016", 160) == "calling *** or ***"


@given(st.text(), st.integers(2, 300))
def test_words_of_others_are_one_line_of_bounded_length(text: str, length: int) -> None:
    """Whatever they are."""
    words = harmless(text, length)
    assert len(words) <= length
    assert "\n" not in words


@given(st.text("+0123456789 ()-./ab"))
def test_nothing_international_is_left(text: str) -> None:
    """Masking what was masked changes nothing more."""
    assert masked(masked(text)) == masked(text)
