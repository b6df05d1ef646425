"""Reads a TOML file with the line of everything in it, and says what to do about one that is no TOML."""

import re
import tomllib
from pathlib import Path

from callcast.config.diagnostics import ConfigFaults, Document, Finding
from callcast.config.toml_lines import locate

FILE_BYTES_MAX = 1_048_576
_POSITION = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


def read(path: Path) -> Document:
    """The file as data, with the line of everything in it. Raises ConfigFaults."""
    text = _text(path)
    try:
        return Document(path=path, data=tomllib.loads(text), lines=locate(text))
    except RecursionError:
        raise _refused(f"{path}", "lists or tables are nested too deep") from None
    except ValueError as error:
        raise ConfigFaults([_syntax(path, text, str(error))]) from None


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        raise _refused(
            f"{path}",
            "there is no such file",
            "name one with --config, or make callcast.toml here, for a start from config.example.toml",
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it has no valid name"
        raise _refused(f"{path}", f"cannot be read: {reason.lower()}") from None
    if len(raw) > FILE_BYTES_MAX:
        raise _refused(f"{path}", f"larger than {FILE_BYTES_MAX} bytes", "is it the right file?")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise _refused(f"{path}:{line}", "is not text in UTF-8", "save the file as UTF-8") from None


def _refused(where: str, problem: str, fix: str = "") -> ConfigFaults:
    return ConfigFaults([Finding(where=where, line=0, key="", problem=problem, fix=fix)])


def _syntax(path: Path, text: str, message: str) -> Finding:
    """A message of `tomllib` with line and column (both from 1) and the likely remedy."""
    match = _POSITION.search(message)
    problem = _plainly(message[: match.start()] if match else message)
    line, column = (int(match[1]), int(match[2])) if match and match[1] else _end(text)
    fix = _fix(problem, text.split("\n")[line - 1].strip("\r"))
    problem = f"this is no TOML: {problem[:1].lower()}{problem[1:]}"
    return Finding(where=f"{path}:{line}:{column}", line=line, key="", problem=problem, fix=fix)


def _plainly(message: str) -> str:
    """A message without Python's own words."""
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
    if problem.startswith("Cannot overwrite a value"):
        return "the same key stands there twice: keep one of them"
    if problem.startswith("Cannot declare"):
        return "the same table stands there twice: put its keys together"
    if "hex value" in problem or "Unescaped '\\\\'" in problem or "Unescaped '\\'" in problem:
        return "write paths with backslashes in single quotes: 'C:\\path'"
    if problem.startswith(("Unterminated string", "Expected \"'''\"", "Illegal character '\\n'")):
        return "close the text with the quote it began with"
    if problem.startswith("Unclosed"):
        return "close the list with ], a table with }"
    if problem.startswith("Expected '='"):
        return "write key = value" + (", with = instead of :" if ":" in line else "")
    if "table declaration" in problem:
        return "write a table's header as [section.name], without blanks in a name"
    if "key part" in problem and "{" in line:
        return "write a table in braces on one line, without a comma at its end"
    return _value_fix(line)


def _value_fix(line: str) -> str:
    _, equals, value = line.partition("=")
    value = value.strip()
    if value.startswith(tuple("“”„‘’«»")):
        return 'write straight quotes: "..."'
    if equals and (not value or value.startswith("#")):
        return "give the key a value, or remove it for its default"
    if re.match(r"(?i)(none|null|nil)\b", value):
        return "remove the key for its default"
    if re.match(r"(?i)(true|false|yes|no|on|off)\b", value):
        return "write true or false, in small letters and without quotes"
    if re.match(r"[A-Za-z/~*+@.$<]", value):
        return "put the text in double quotes"
    if re.match(r"[0-9.]+ *[A-Za-z]", value):
        return "write the number alone: the unit stands at the end of the key's name"
    if re.match(r"0[0-9]", value):
        return "write the number without a zero in front, or put an id in double quotes"
    return "write one key = value on each line, a text in double quotes"
