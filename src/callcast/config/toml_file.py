"""Reads a TOML file with the line number of every key, and explains how to fix syntax errors."""

import re
import tomllib
from pathlib import Path

from callcast.config.diagnostics import ConfigError, Document, Finding
from callcast.config.toml_lines import locate

FILE_BYTES_MAX = 1_048_576
_POSITION = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


def read(path: Path) -> Document:
    """Parse the file. Raises ConfigError if it cannot be read or parsed."""
    return parse(path, text_of(path))


def parse(path: Path, text: str) -> Document:
    """Parse the text of the file. Raises ConfigError."""
    try:
        return Document(path=path, data=tomllib.loads(text), lines=locate(text))
    except RecursionError:
        raise _refused(f"{path}", "lists or tables are nested too deep") from None
    except ValueError as error:
        raise ConfigError([_syntax(path, text, str(error))]) from None


def text_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        raise _refused(
            f"{path}",
            "no such file",
            "give another path with --config, or run callcast init to write a starter configuration here",
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "invalid file name"
        raise _refused(f"{path}", f"cannot be read: {reason.lower()}") from None
    if len(raw) > FILE_BYTES_MAX:
        raise _refused(f"{path}", f"larger than {FILE_BYTES_MAX} bytes", "check that this is the right file")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise _refused(f"{path}:{line}", "not valid UTF-8", "save the file as UTF-8") from None


def _refused(where: str, problem: str, fix: str = "") -> ConfigError:
    return ConfigError([Finding(where=where, line=0, key="", problem=problem, fix=fix)])


def _syntax(path: Path, text: str, message: str) -> Finding:
    """Turn a message of `tomllib` into a finding with line and column (both from 1) and a likely fix."""
    match = _POSITION.search(message)
    problem = _plainly(message[: match.start()] if match else message)
    line, column = (int(match[1]), int(match[2])) if match and match[1] else _end(text)
    fix = _fix(problem, text.split("\n")[line - 1].strip("\r"))
    problem = f"invalid TOML: {problem[:1].lower()}{problem[1:]}"
    return Finding(where=f"{path}:{line}:{column}", line=line, key="", problem=problem, fix=fix)


def _plainly(message: str) -> str:
    """Return a message of `tomllib` without Python's terms."""
    if "digits" in message:
        return "A number has too many digits"
    table = re.sub(
        r"\((('[^']*'(, )?)+),?\)", lambda match: f"[{match[1].replace(', ', '.').replace(chr(39), '')}]", message
    )
    return table.replace(",]", "]")


def _end(text: str) -> tuple[int, int]:
    lines = text.rstrip().split("\n")
    return len(lines), len(lines[-1]) + 1


def _fix(problem: str, line: str) -> str:
    if line.lstrip().startswith("{"):
        return "this looks like JSON: write key = value below [section] headers, as in config.example.toml"
    if problem.startswith("Expected '='"):
        return "write key = value" + (", with = instead of :" if ":" in line else "")
    if "key part" in problem and "{" in line:
        return "write an inline table on one line, without a comma at the end"
    for words, fix in _FIXES.items():
        if any(word in problem for word in words):
            return fix
    _, equals, value = line.partition("=")
    value = value.strip()
    if equals and (not value or value.startswith("#")):
        return "give the key a value, or remove it to use the default"
    for pattern, fix in _VALUE_FIXES.items():
        if re.match(pattern, value):
            return fix
    return "write one key = value per line, with strings in double quotes"


# What a message of `tomllib` contains, and the fix.
_FIXES = {
    ("Cannot overwrite a value",): "this key appears twice: keep one of them",
    ("Cannot declare",): "this table appears twice: merge its keys",
    ("hex value", "Unescaped '\\"): r"write paths with backslashes in single quotes: 'C:\path'",
    ("Unterminated", "Expected \"'''\"", r"character '\n'"): "close the string with the quote it starts with",
    ("Unclosed",): "close the list with ], a table with }",
    ("table declaration",): "write a table header as [section.name], without spaces in the name",
}
# How a value that is not valid begins, and the fix.
_VALUE_FIXES = {
    "[“”„‘’«»]": 'use straight quotes: "..."',
    r"(?i)(none|null|nil)\b": "remove the key to use its default",
    r"(?i)(true|false|yes|no|on|off)\b": "write true or false, in lowercase and without quotes",
    r"[A-Za-z/~*+@.$<]": "put the string in double quotes",
    r"[0-9.]+ *[A-Za-z]": "write the number without a unit: the unit is part of the key's name",
    r"0[0-9]": "write the number without leading zeros, or put an id in double quotes",
}
