"""Masks phone numbers in free text: messages of the platform and of libraries, and tracebacks."""

import re

# Separators that people and platforms write between the digits of a number.
_GAP = r"[\s().\-/\u2010-\u2015]"
_INTERNATIONAL = rf"\+{_GAP}{{0,2}}\d(?:{_GAP}{{0,3}}\d){{6,}}"
# A number without a plus is masked only if it contains separators: an extension id is as long as a phone number.
_NATIONAL = (
    rf"(?<![\w.\-])(?:1{_GAP}{{1,2}})?(?:\(\d{{3}}\){_GAP}{{0,2}}|\d{{3}}{_GAP}{{1,2}})\d{{3}}{_GAP}?\d{{4}}(?![\w\-])"
)
_NUMBER = re.compile(f"{_INTERNATIONAL}|{_NATIONAL}")
# In text from outside, anything that could be a token or a number without separators is removed as well.
_DOUBTFUL = re.compile(r"\S{25,}|\d{7,}")


def masked(text: str) -> str:
    """Return the text with each phone number reduced to its last four digits."""
    return _NUMBER.sub(_last4, text)


def harmless(text: str, length_max: int) -> str:
    """Return outside text on one line, without possible tokens and numbers, cut to `length_max` characters."""
    words = " ".join(_DOUBTFUL.sub("***", masked(text)).split())
    return words if len(words) <= length_max else f"{words[: length_max - 1]}…"


def _last4(found: re.Match[str]) -> str:
    return "***" + re.sub(r"\D", "", found[0])[-4:]
