"""Overrides from environment variables, such as `CALLCAST_SINKS__CRM__TIMEOUT_S=5`.

pydantic-settings finds and decodes the variables of a table's keys. It ignores unknown variables and stops at the first
invalid one; here each of them becomes a finding.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, cast

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource

from callcast.config.diagnostics import Document, Finding, kind, shown
from callcast.config.field_types import decoded, holds_secret
from callcast.settings.nearest import nearest

PREFIX = "CALLCAST_"
CONFIG_VARIABLE = "CALLCAST_CONFIG"
SECTIONS = ("service", "sources", "sinks", "names")
Tables = Mapping[tuple[str, ...], type[BaseModel]]  # the settings of each table, by its path


def variable(*path: str) -> str:
    """Return the name of the variable that sets the key at a path."""
    return PREFIX + "__".join(part.upper() for part in path)


class _Variables(EnvSettingsSource):
    """The variables of one table. Every value is decoded by the type of its key."""

    def __init__(self, model: type[BaseModel], base: tuple[str, ...], environ: Mapping[str, str]) -> None:
        prefix = f"{variable(*base)}__"
        super().__init__(cast("type[BaseSettings]", model), case_sensitive=True, env_prefix=prefix.lower())
        self.env_vars = {name.lower(): text for name, text in environ.items() if name.startswith(prefix)}
        self.findings: list[Finding] = []
        self._names = {key: f"{prefix}{key.upper()}" for key in model.model_fields}

    def field_is_complex(self, field: FieldInfo) -> bool:  # noqa: ARG002 (true of every key: all are decoded below)
        return True

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        try:
            value.encode()
            return decoded(value, field.annotation)
        except UnicodeEncodeError:
            self.findings.append(_finding(self._names[field_name], "not valid UTF-8"))
        except ValueError:
            self.findings.append(_not_json(self._names[field_name], value, field.annotation))
        return None  # as if it were not set


def apply_variables(document: Document, environ: Mapping[str, str], tables: Tables) -> list[Finding]:
    """Apply all variables. Returns an error for each name that is not a setting and each unreadable value."""
    free = set(_referenced(document.data))
    ours = {
        name: text for name, text in environ.items() if name.startswith(PREFIX) and "__" in name and name not in free
    }
    known: dict[str, tuple[str, ...]] = {
        variable(*base, key): (*base, key) for base, model in tables.items() for key in model.model_fields
    }
    findings = [found for name in ours if name not in known for found in _other(document, name, ours[name], known)]
    for base, model in tables.items():
        variables = _Variables(model, base, ours)
        for key, value in variables().items():
            _set(document, (*base, key), value)
        findings += variables.findings
    return sorted(findings, key=lambda finding: finding.where)


def unknown_variables(document: Document, environ: Mapping[str, str], tables: Tables) -> list[Finding]:
    """Return a warning for each variable with our prefix that is not a setting.

    These are not errors because Kubernetes injects some, but one may be a typing error.
    """
    free = {CONFIG_VARIABLE, *_referenced(document.data)}
    known = [variable(*base, key) for base, model in tables.items() for key in model.model_fields]
    example = f"settings are named like {variable('service', 'log_level')}"
    return [
        _finding(name, "not a setting; ignored", f"if it is meant as one: {nearest(name, known) or example}")
        for name in sorted(environ)
        if name.startswith(PREFIX) and "__" not in name and name not in free
    ]


def _set(document: Document, path: tuple[str, ...], value: object) -> None:
    table = document.data
    for part in path[:-1]:
        table = table.setdefault(part, {})
    table[path[-1]] = value
    document.variables[path] = variable(*path)


def _other(document: Document, name: str, text: str, known: Mapping[str, tuple[str, ...]]) -> Iterator[Finding]:
    """Set the name of an extension, or report why the variable is not a setting."""
    section, _, rest = name.removeprefix(PREFIX).lower().partition("__")
    table, _, key = rest.partition("__")
    parent, _, last = name.rpartition("__")
    if section == "names" and table and not key:
        _set(document, (section, table), text)
    elif parent in known:
        yield _finding(name, "part of a value cannot be set", f"set the whole value in {parent}, as JSON")
    elif section in ("sources", "sinks") and table not in (tables := document.table(section)):
        meant = nearest(table, tables)
        fix = f"did you mean {variable(section, meant, key)}?" if meant else f"add [{section}.{table}] to the file"
        yield _finding(name, f"the file has no [{section}.{table}], and a variable cannot add a table", fix)
    elif section in ("sources", "sinks") and not key:
        yield _finding(name, "a table cannot be set as a whole", f"set its keys one by one: {name}__KEY")
    elif siblings := [one.rpartition("__")[2] for one in known if one.rpartition("__")[0] == parent]:
        meant = nearest(last, siblings)
        keys = f"the keys after {parent}__ are: {', '.join(sorted(siblings))}"
        yield _finding(name, "no such key", f"did you mean {parent}__{meant}?" if meant else keys)
    elif section not in (
        "sources",
        "sinks",
    ):  # in those, the table is a sink of unknown type, which is reported already
        guess = variable(nearest(section, SECTIONS) or "", rest)
        names = "the name of a setting starts with CALLCAST_SERVICE__, _SOURCES__, _SINKS__ or _NAMES__"
        yield _finding(name, "no such key", f"did you mean {guess}?" if guess in known else names)


def _not_json(name: str, text: str, annotation: Any) -> Finding:
    if holds_secret(annotation):
        fix = 'write ["one", "two"] for a list, {"key": "value"} for a table'
        return _finding(name, f"given {kind(text)}, expected JSON", fix)
    guess = json.dumps([part.strip() for part in text.split(",")], ensure_ascii=False)
    return _finding(name, f"given {shown(text)}, expected JSON", f"write {guess}" if len(text) < 60 and text else "")


def _finding(name: str, problem: str, fix: str = "") -> Finding:
    return Finding(where=name, line=0, key="", problem=problem, fix=fix)


def _referenced(value: object) -> Iterator[str]:
    """Yield the names of variables that hold secrets: `{ env = "NAME" }` at any depth."""
    if isinstance(value, dict):
        if len(value) == 1 and isinstance(name := value.get("env"), str):
            yield name
        value = list(value.values())
    for one in value if isinstance(value, list) else ():
        yield from _referenced(one)
