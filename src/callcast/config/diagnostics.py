"""Findings: errors and warnings about a configuration, each with its location, cause and fix.

pydantic reports which value it rejected. This module adds the file and line, the value given, the value expected and
what to write instead. Findings never contain the value of a secret.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, time
from math import isfinite
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from callcast.calls.model import EVENT_TYPES
from callcast.config.field_types import holds_secret
from callcast.config.toml_lines import KeyPath
from callcast.settings.nearest import nearest
from callcast.settings.secret import HIDDEN, PLACES

Model = TypeVar("Model", bound=BaseModel)

SHOWN_MAX = 60  # characters; a longer text may be a secret in the wrong place
SECRET_MIN = 4  # characters; masking shorter secrets would make the report unreadable


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One error or warning. `where` is `file:line` or the name of an environment variable."""

    where: str
    line: int
    key: str
    problem: str
    fix: str = ""

    def __str__(self) -> str:
        subject = f"{self.where}: {self.key}: " if self.key else f"{self.where}: "
        return subject + self.problem + (f"\n    fix: {self.fix}" if self.fix else "")


class ConfigError(Exception):
    """The configuration is invalid. The message lists all findings, ready to be printed."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        self.findings = tuple(findings)
        super().__init__("\n".join(map(str, findings)))


@dataclass
class Document:
    """The merged configuration, with the file line or the variable that each part comes from."""

    path: Path
    data: dict[str, Any] = field(default_factory=dict)
    lines: Mapping[KeyPath, int] = field(default_factory=dict)
    variables: dict[KeyPath, str] = field(default_factory=dict)

    def finding(self, path: KeyPath, problem: str, fix: str = "", *, at: KeyPath | None = None) -> Finding:
        """Return a finding about the key `path`, located at `at` or else at the key itself."""
        where, line = self._where(path if at is None else at)
        return Finding(where=where, line=line, key=dotted(path), problem=problem, fix=fix)

    def _where(self, path: KeyPath) -> tuple[str, int]:
        for end in range(len(path), 0, -1):
            if path[:end] in self.variables:
                return self.variables[path[:end]], 0
            if path[:end] in self.lines:
                line = self.lines[path[:end]]
                return f"{self.path}:{line}", line
        return f"{self.path}", 0

    def table(self, *path: str) -> dict[str, Any]:
        """Return the table at a path, or an empty one if there is no table."""
        here: Any = self.data
        for part in path:
            here = here.get(part, {}) if isinstance(here, dict) else {}
        return here if isinstance(here, dict) else {}


def dotted(path: KeyPath) -> str:
    """Return a path as text, such as `sinks.crm.headers."X-Team"` or `sources.acme.extensions[2]`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            bare = part if re.fullmatch(r"[A-Za-z0-9_-]{1,80}", part) else json.dumps(clipped(part), ensure_ascii=False)
            text += f".{bare}" if text else bare
    return text


def clipped(text: str) -> str:
    return text if len(text) <= SHOWN_MAX else text[:20] + "..."


def redacted(findings: Iterable[Finding], secrets: Iterable[str]) -> list[Finding]:
    """Return the findings with every secret masked: a safeguard against third-party checks that quote a secret."""
    words = sorted((word for word in secrets if len(word) >= SECRET_MIN), key=len, reverse=True)
    if not words:
        return list(findings)
    pattern = re.compile("|".join(map(re.escape, words)))
    return [
        Finding(
            where=one.where,
            line=one.line,
            key=one.key,
            problem=pattern.sub(HIDDEN, one.problem),
            fix=pattern.sub(HIDDEN, one.fix),
        )
        for one in findings
    ]


def validated(
    model: type[Model],
    document: Document,
    base: tuple[str, ...],
    context: object,
    *,
    keys: Iterable[str] | None = None,
    homes: Mapping[str, str] = {},
) -> tuple[Model | None, list[Finding]]:
    """Validate one table. Returns its settings, or None with an error for each invalid key.

    context: of pydantic; keys: those to validate (default: all); homes: the header of the table that each known key
    belongs to, to suggest moving a misplaced key.
    """
    table = document.table(*base)
    text = json.dumps(plain(table if keys is None else {key: table[key] for key in keys}))
    try:
        return model.model_validate_json(text, strict=True, context=context), []
    except ValidationError as error:
        groups: dict[KeyPath, list[ErrorDetails]] = {}  # several members of a union may reject the same value
        for detail in error.errors(include_url=False):
            path = _path_in(table, detail)
            if not _follows_from_elements(detail, _value_at(table, path)):
                groups.setdefault(path, []).append(detail)
        return None, [_finding(document, base, path, details, model, homes) for path, details in groups.items()]


def _path_in(table: dict[str, Any], detail: ErrorDetails) -> KeyPath:
    """Return pydantic's location without the names of union members, which do not appear in the file."""
    path: KeyPath = ()
    here: Any = table
    for number, part in enumerate(detail["loc"]):
        last = number == len(detail["loc"]) - 1
        if part in (here if isinstance(here, dict) else range(len(here)) if isinstance(here, list) else ()):
            here, path = here[part], (*path, part)
        elif number == 0 or (last and detail["type"] == "missing"):  # an invalid default, or a missing key
            path = (*path, part)
    return path


def _follows_from_elements(detail: ErrorDetails, value: object) -> bool:
    """Whether a list is too short only because elements are invalid; each of those has an error of its own."""
    return detail["type"] == "too_short" and isinstance(value, list) and len(value) >= detail["ctx"]["min_length"]


def _finding(
    document: Document,
    base: KeyPath,
    path: KeyPath,
    details: Sequence[ErrorDetails],
    model: type[BaseModel],
    homes: Mapping[str, str],
) -> Finding:
    first = details[0]
    whole = (*base, *path)
    if first["type"] == "extra_forbidden":
        return document.finding(whole, "unknown key", _unknown_key_fix(str(path[-1]), model, base, homes))
    if first["type"] == "missing":
        return document.finding(whole, "missing", _missing_fix(path, base, model), at=whole[:-1])
    context = first.get("ctx", {})
    if "problem" in context:
        return document.finding(whole, str(context["problem"]), str(context.get("fix", "")))
    value = _value_at(document.table(*map(str, base)), path)
    field = model.model_fields.get(str(path[0])) if path else None
    secret = field is not None and holds_secret(field.annotation)
    expected = " or ".join(dict.fromkeys(_expected(detail, value) for detail in details))
    if first["type"] == "value_error" and not expected.startswith("expected "):
        return document.finding(whole, expected, _events_fix(path, value))
    given = _kind_of_secret(value) if secret else shown(value)
    key = "" if whole in document.variables else path[-1] if path else 0
    fix = (
        str(context.get("fix", ""))
        or _type_fix(_chief(details), key, value, secret=secret)
        or _word_fix(value, details)
    )
    return document.finding(whole, f"given {given}, expected {expected.removeprefix('expected ')}", fix)


def _chief(details: Sequence[ErrorDetails]) -> str:
    """Return the error of the union member that was most likely meant: a number rather than a keyword."""
    kinds = [detail["type"] for detail in details]
    return next((kind for kind in kinds if kind in ("float_type", "int_type")), kinds[0])


def _unknown_key_fix(key: str, model: type[BaseModel], base: KeyPath, homes: Mapping[str, str]) -> str:
    if meant := nearest(key, model.model_fields):
        return f"did you mean `{meant}`?"
    if key in homes:
        return f"move it below the header {homes[key]}"
    return f"remove it; the keys of [{dotted(base)}] are: {', '.join(model.model_fields)}"


def _missing_fix(path: KeyPath, base: KeyPath, model: type[BaseModel]) -> str:
    under = f" under [{dotted((*base, *path[:-1]))}]"
    info = model.model_fields.get(str(path[-1])) if len(path) == 1 else None
    if info is None:
        return f"add {path[-1]}{under}"
    example = info.examples[0] if info.examples else "..."
    return f"add {path[-1]} = {json.dumps(example)}{under}"


def _value_at(table: Any, path: KeyPath) -> Any:
    """Return the value at a path; None for a missing key."""
    for part in path:
        table = table.get(part) if isinstance(table, dict) else table[part]
    return table


def shown(value: object) -> str:
    """Return a value as it may be shown: shortened, and URLs as scheme and host only."""
    if isinstance(value, str):
        if "://" in value or "@" in value:
            return f'"{_origin(value)}"'
        return (
            json.dumps(value, ensure_ascii=False) if len(value) <= SHOWN_MAX else f"a string of {len(value)} characters"
        )
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return f"the number {clipped(_number(value))}"
    return kind(value)


def _number(value: float) -> str:
    try:
        return str(value)
    except ValueError:  # more digits than Python converts to a string
        return "with too many digits to show"


def kind(value: object) -> str:
    if isinstance(value, str):
        return "a string" if value else "an empty string"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    if isinstance(value, dict):
        return "a table"
    return "a date or time" if isinstance(value, date | time) else "no value"


def _kind_of_secret(value: object) -> str:
    """Return where a secret was read, or else the kind of value that was given in its place."""
    if isinstance(value, dict) and len(value) == 1:
        ((place, name),) = value.items()
        if place in PLACES and isinstance(name, str):
            return f"the content of the {'variable' if place == 'env' else place} {clipped(name)}"
    return kind(value)


def _origin(url: str) -> str:
    """Return scheme and host, the only parts of a URL that may be shown."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        host = None
    return f"{parts.scheme}://{host}/..." if host else "..."


_EXPECTED = {
    "string_type": "a string in quotes",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "set_type": "a list",
    "frozen_set_type": "a list",
    "dict_type": "a table",
    "mapping_type": "a table",
    "model_type": "a table",
    "path_type": "a string in quotes",
    "finite_number": "a finite number",
    "greater_than": "a number above {gt}",
    "greater_than_equal": "a number of at least {ge}",
    "less_than": "a number below {lt}",
    "less_than_equal": "a number of at most {le}",
    "too_short": "a list of at least {min_length}",
    "too_long": "a list of at most {max_length}",
    "string_too_short": "a string of at least {min_length} characters",
    "string_too_long": "a string of at most {max_length} characters",
    "string_pattern_mismatch": "a string that matches {pattern}",
}


def _expected(detail: ErrorDetails, value: object) -> str:
    context = detail.get("ctx", {})
    if isinstance(value, float) and not isfinite(value):
        return "a finite number"
    if detail["type"] == "literal_error":
        return str(context["expected"]).replace("'", '"')
    if "expected" in context:
        return str(context["expected"])
    if detail["type"] == "value_error":
        return str(context.get("error", detail["msg"]))
    if detail["type"] == "string_too_short" and context.get("min_length") == 1:
        return "a string that is not empty"
    if detail["type"] in _EXPECTED:
        numbers = {name: f"{one:g}" if isinstance(one, float) else one for name, one in context.items()}
        return _EXPECTED[detail["type"]].format(**numbers)
    return detail["msg"].removeprefix("Input should be ").removeprefix("a valid ")


_QUOTED = re.compile(r"'([^']*)'")
_YES, _NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def _type_fix(error: str, key: str | int, value: object, *, secret: bool) -> str:
    """Return how to write the value as the expected type. An empty `key` means a variable, which needs no quotes."""
    wanted = error.removesuffix("_type")
    start = f"{key} = " if isinstance(key, str) else ""
    if error == "too_short" and not value:
        return "remove the key to use its default"
    if value == "" and key == "":
        return "set it to a value, or unset it"
    if wanted == "bool" and str(value).lower() in (*_YES, *_NO):
        return f"write {start if key else ''}{'true' if str(value).lower() in _YES else 'false'}"
    if key == "":
        return ""
    if wanted in ("float", "int") and isinstance(value, str) and re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", value):
        return f"write it without quotes: {start}{value}"
    if wanted in ("string", "secret") and isinstance(value, int | float) and not isinstance(value, bool):
        return f"write it in quotes: {start}" + ('"..."' if secret else f'"{clipped(_number(value))}"')
    if wanted in ("tuple", "list") and isinstance(value, str):
        return f"write it in brackets: {start}[{'...' if secret else shown(value)}]"
    return ""


def _word_fix(value: object, details: Sequence[ErrorDetails]) -> str:
    words = [
        word for one in details if one["type"] == "literal_error" for word in _QUOTED.findall(one["ctx"]["expected"])
    ]
    meant = nearest(value, words) if isinstance(value, str) else None
    return f'did you mean "{meant}"?' if meant else ""


def _events_fix(path: KeyPath, value: object) -> str:
    """Suggest the event type that was probably meant by a glob that matches none."""
    types = (*EVENT_TYPES, "call.*", "source.*")
    globs = value if path and path[0] == "events" and isinstance(value, list) else []
    for glob in globs:
        if isinstance(glob, str) and glob not in types and (meant := nearest(glob, types)):
            return f'did you mean "{meant}"?'
    return ""


def plain(value: object) -> object:
    """Convert TOML values for JSON. Dates and infinities become a table, which every setting rejects."""
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [plain(one) for one in value]
    if isinstance(value, date | time) or (isinstance(value, float) and not isfinite(value)):
        return {"": ""}
    return value
