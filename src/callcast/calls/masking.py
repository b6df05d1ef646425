"""Phone numbers in text that was not written for them: messages of the platform, of libraries, of traces."""

import re

# Between the digits of a number as people and platforms write it.
_GAP = r"[\s().\-/\u2010-\u2015]"
_INTERNATIONAL = rf"\+{_GAP}{{0,2}}\d(?:{_GAP}{{0,3}}\d){{6,}}"
# Without a plus only where gaps show that it is no id: an extension's id is as long as a number.
_NATIONAL = (
    rf"(?<![\w.\-])(?:1{_GAP}{{1,2}})?(?:\(\d{{3}}\){_GAP}{{0,2}}|\d{{3}}{_GAP}{{1,2}})\d{{3}}{_GAP}?\d{{4}}(?![\w\-])"
)
_NUMBER = re.compile(f"{_INTERNATIONAL}|{_NATIONAL}")
# In words of others, whatever could be a token or a number without gaps goes as well.
_DOUBTFUL = re.compile(r"\S{25,}|\d{7,}")


def masked(text: str) -> str:
    """The text, in which a phone number shows its last four digits."""
    return _NUMBER.sub(_last4, text)


def harmless(text: str, length_max: int) -> str:
    """Words of others on one line, without anything that could be a token or a phone number; then cut."""
    words = " ".join(_DOUBTFUL.sub("***", masked(text)).split())
    return words if len(words) <= length_max else f"{words[: length_max - 1]}…"


def _last4(found: re.Match[str]) -> str:
    return "***" + re.sub(r"\D", "", found[0])[-4:]
