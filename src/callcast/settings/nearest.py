"""Finds the word that was probably meant, for `did you mean`."""

import difflib
from collections.abc import Iterable
from itertools import islice


def nearest(word: str, words: Iterable[str]) -> str | None:
    """Return the word that was probably meant, if any. Only the first 1000 words are compared, for speed."""
    by_small = {one.lower(): one for one in islice(words, 1000)}
    close = difflib.get_close_matches(word.lower()[:100], by_small, n=1, cutoff=0.6)
    return by_small[close[0]] if close else None
