"""Finds the line of each key of a TOML file, which the standard library's parser does not report."""

import re
import tomllib
from bisect import bisect_right

KeyPath = tuple[str | int, ...]

_SPACE = re.compile(r"[ \t]*")
_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_TEXT = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}'  # up to two quotes may precede the closing three
    r"|'''.*?'{3,5}"
    r'|"(?:\\.|[^"\\])*"'
    r"|'[^']*'",
    re.DOTALL,
)
_PLAIN = re.compile(r"[^,\]}\n#]+")


def locate(text: str) -> dict[KeyPath, int]:
    """Return the line (from 1) of every table, key and list element. `tomllib` must have accepted the text."""
    scanner = _Scanner(text)
    scanner.document()
    return scanner.lines


class _Scanner:
    """Scans the text once. The syntax is known to be valid, so finding where each value ends is enough."""

    def __init__(self, text: str) -> None:
        self.lines: dict[KeyPath, int] = {}
        self._text = text
        self._at = 0
        self._ends = [match.start() for match in re.finditer("\n", text)]

    def document(self) -> None:
        table: KeyPath = ()
        self._skip(_BLANK)
        while self._at < len(self._text):
            if self._peek("["):
                table = self._header()
            else:
                self._entry(table)
            self._skip(_BLANK)

    def _header(self) -> KeyPath:
        line = self._line()
        brackets = 2 if self._text.startswith("[[", self._at) else 1
        self._at += brackets
        path = self._enter(self._key())
        if brackets == 2:
            path = (*path, self._count(path))
        self._at += brackets
        self.lines[path] = line
        for end in range(1, len(path)):
            self.lines.setdefault(path[:end], line)
        return path

    def _enter(self, key: KeyPath) -> KeyPath:
        """Return the path of a header. `[a.b]` after `[[a]]` refers to the last element of `a`."""
        path: KeyPath = ()
        for number, part in enumerate(key):
            path = (*path, part)
            last = self._count(path) - 1
            if last >= 0 and number < len(key) - 1:
                path = (*path, last)
        return path

    def _count(self, path: KeyPath) -> int:
        count = 0
        while (*path, count) in self.lines:
            count += 1
        return count

    def _entry(self, table: KeyPath) -> None:
        line = self._line()
        key = self._key()
        self._at += 1  # the equals sign
        self._skip(_SPACE)
        path = table
        for part in key:
            path = (*path, part)
            self.lines.setdefault(path, line)
        self._value(path)

    def _key(self) -> KeyPath:
        parts: list[str] = []
        while True:
            self._skip(_SPACE)
            parts.append(self._key_part())
            self._skip(_SPACE)
            if not self._peek("."):
                return tuple(parts)
            self._at += 1

    def _key_part(self) -> str:
        if bare := _BARE_KEY.match(self._text, self._at):
            self._at = bare.end()
            return bare.group()
        return str(tomllib.loads(f"key = {self._take(_TEXT)}")["key"])

    def _value(self, path: KeyPath) -> None:
        if self._peek("["):
            self._list(path)
        elif self._peek("{"):
            self._inline_table(path)
        elif self._peek('"') or self._peek("'"):
            self._take(_TEXT)
        else:
            self._take(_PLAIN)

    def _list(self, path: KeyPath) -> None:
        self._at += 1
        number = 0
        self._skip(_BLANK)
        while not self._peek("]"):
            element = (*path, number)
            self.lines[element] = self._line()
            self._value(element)
            self._separator()
            number += 1
        self._at += 1

    def _inline_table(self, path: KeyPath) -> None:
        self._at += 1
        self._skip(_BLANK)
        while not self._peek("}"):
            self._entry(path)
            self._separator()
        self._at += 1

    def _separator(self) -> None:
        self._skip(_BLANK)
        if self._peek(","):
            self._at += 1
            self._skip(_BLANK)

    def _peek(self, text: str) -> bool:
        return self._text.startswith(text, self._at)

    def _skip(self, pattern: re.Pattern[str]) -> None:
        match = pattern.match(self._text, self._at)
        self._at = match.end() if match else self._at

    def _take(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        if match is None:
            raise ValueError(f"unexpected text at offset {self._at}")
        self._at = match.end()
        return match.group()

    def _line(self) -> int:
        return bisect_right(self._ends, self._at - 1) + 1
