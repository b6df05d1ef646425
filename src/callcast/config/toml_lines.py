"""Finds the line of each key of a TOML file, which the standard library's parser does not report."""

import re
import tomllib
from bisect import bisect_right
from collections.abc import Callable

KeyPath = tuple[str | int, ...]

_TOKEN = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}'  # up to two quotes may precede the closing three
    r"|'''.*?'{3,5}"
    r'|"(?:\\.|[^"\\])*"'
    r"|'[^']*'"
    r"|[][{}=,.\n]|#[^\n]*"
    r"""|[^][{}=,.\n#"'\s]+""",
    re.DOTALL,
)


def locate(text: str) -> dict[KeyPath, int]:
    """Return the line (from 1) of every table, key and list element. `tomllib` must have accepted the text."""
    scanner = _Scanner(text)
    scanner.document()
    return scanner.lines


class _Scanner:
    """Reads the tokens once. The syntax is known to be valid, so finding where each value ends is enough."""

    def __init__(self, text: str) -> None:
        self.lines: dict[KeyPath, int] = {}
        self._at = 0
        self._tokens: list[str] = []
        self._line_of: list[int] = []
        ends = [match.start() for match in re.finditer("\n", text)]
        for match in _TOKEN.finditer(text):
            if not match[0].startswith("#"):
                self._tokens.append(match[0])
                self._line_of.append(bisect_right(ends, match.start() - 1) + 1)
        self._tokens.append("\n")  # the last value may lack it

    def document(self) -> None:
        table: KeyPath = ()
        while self._skip_newlines():
            if self._token() == "[":
                table = self._header()
            else:
                self._entry(table)

    def _token(self) -> str:
        return self._tokens[self._at]

    def _skip_newlines(self) -> bool:
        """Move to the next token that is not a newline. Returns false at the end."""
        while self._at < len(self._tokens) and self._token() == "\n":
            self._at += 1
        return self._at < len(self._tokens)

    def _header(self) -> KeyPath:
        line = self._line_of[self._at]
        brackets = 2 if self._tokens[self._at + 1] == "[" else 1
        self._at += brackets
        path: KeyPath = ()
        key = self._key("]")
        for number, part in enumerate(key):
            path = (*path, part)
            count = self._count(path)
            if number < len(key) - 1 and count:  # `[a.b]` after `[[a]]` refers to the last element of `a`
                path = (*path, count - 1)
        if brackets == 2:
            path = (*path, self._count(path))
        self._at += brackets
        self.lines[path] = line
        for end in range(1, len(path)):
            self.lines.setdefault(path[:end], line)
        return path

    def _count(self, path: KeyPath) -> int:
        count = 0
        while (*path, count) in self.lines:
            count += 1
        return count

    def _entry(self, table: KeyPath) -> None:
        line = self._line_of[self._at]
        path = table
        for part in self._key("="):
            path = (*path, part)
            self.lines.setdefault(path, line)
        self._at += 1
        self._value(path)

    def _key(self, end: str) -> list[str]:
        """Return the parts of a dotted key, up to the token `end`."""
        start = self._at
        self._at = self._tokens.index(end, start)
        parts = [part for part in self._tokens[start : self._at] if part != "."]
        return [tomllib.loads(f"key = {part}")["key"] if part[0] in "\"'" else part for part in parts]

    def _value(self, path: KeyPath) -> None:
        if self._token() == "[":
            self._items("]", lambda number: self._element((*path, number)))
        elif self._token() == "{":
            self._items("}", lambda _: self._entry(path))
        else:
            while self._token() not in (",", "]", "}", "\n"):
                self._at += 1

    def _items(self, close: str, item: Callable[[int], None]) -> None:
        self._at += 1
        number = 0
        while self._skip_newlines() and self._token() != close:
            item(number)
            self._skip_newlines()
            self._at += self._token() == ","
            number += 1
        self._at += 1

    def _element(self, path: KeyPath) -> None:
        self.lines[path] = self._line_of[self._at]
        self._value(path)
