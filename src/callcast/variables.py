"""The environment's say in the configuration: `CALLCAST_SINKS__CRM__TIMEOUT_S=5`.

pydantic-settings reads such variables too, but passes over unknown ones and stops at the first bad one; here each
of them is a fault of its own.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from callcast.annotations import holds_secret, typed
from callcast.findings import Document, Finding, kind, nearest, shown

PREFIX = "CALLCAST_"
FREE = "CALLCAST_CONFIG"


@dataclass(frozen=True)
class Key:
    """One key that a variable may set."""

    path: tuple[str, ...]
    annotation: Any


def variable(*path: str) -> str:
    """The name of the variable that sets the key at a path."""
    return PREFIX + "__".join(part.upper() for part in path)


def keys_of(model: type[BaseModel], *base: str) -> dict[str, Key]:
    """The variables of one table, by name."""
    return {variable(*base, name): Key((*base, name), field.annotation) for name, field in model.model_fields.items()}


def overlay(document: Document, environ: Mapping[str, str], keys: Mapping[str, Key]) -> list[Finding]:
    """Set what the environment sets. Faults: names that set nothing, and values that are not what they should be."""
    free = set(_referenced(document.data))
    return [
        fault
        for name, text in sorted(environ.items())
        if name.startswith(PREFIX) and "__" in name and name not in free
        if (fault := _set(document, name, text, keys)) is not None
    ]


def _set(document: Document, name: str, text: str, keys: Mapping[str, Key]) -> Finding | None:
    key = keys.get(name) or _extension_name(name)
    if key is None:
        return _unknown(document, name, keys)
    try:
        text.encode()
        value = typed(text, key.annotation)
    except UnicodeEncodeError:
        return _finding(name, "not text in UTF-8")
    except (ValueError, RecursionError):
        given = kind(text) if holds_secret(key.annotation) else shown(text)
        return _finding(
            name, f"given {given}, expected JSON", 'write a list as ["one", "two"], a table as {"key": "value"}'
        )
    table = document.data
    for part in key.path[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            return None  # already a fault of the file
    table[key.path[-1]] = value
    document.variables[key.path] = name
    return None


def _extension_name(name: str) -> Key | None:
    parts = name.removeprefix(PREFIX).split("__")
    return Key(("names", parts[1]), str) if len(parts) == 2 and parts[0] == "NAMES" and parts[1] else None


def _unknown(document: Document, name: str, keys: Mapping[str, Key]) -> Finding | None:
    section, _, rest = name.removeprefix(PREFIX).lower().partition("__")
    table, _, key = rest.partition("__")
    if section in ("sources", "sinks"):
        tables = document.data.get(section, {})
        if not isinstance(tables, dict) or (
            table in tables and variable(section, table, "type") not in keys and section == "sinks"
        ):
            return None  # the table itself is a fault
        if table not in tables:
            meant = nearest(table, tables)
            fix = (
                f"did you mean {variable(section, meant, key)}?"
                if meant and key
                else f"add [{section}.{table}] to the file"
            )
            return _finding(name, f"the file has no [{section}.{table}], and a variable adds none", fix)
        if not key:
            return _finding(name, "a whole table cannot be set by a variable", f"set its keys one by one: {name}__KEY")
    parent = name.rpartition("__")[0]
    if parent in keys:
        return _finding(name, "a part of a value cannot be set by a variable", f"set all of it, as JSON, in {parent}")
    meant = nearest(name, keys)
    known = ", ".join(one for one in keys if one.startswith(parent + "__"))
    return _finding(
        name,
        "sets nothing: there is no such key",
        f"did you mean {meant}?" if meant else f"there are: {known}" if known else "remove it",
    )


def strangers(document: Document, environ: Mapping[str, str], keys: Mapping[str, Key]) -> list[Finding]:
    """Warnings: variables with our prefix that are no settings. Kubernetes injects some; a typing error may be one."""
    free = {FREE, *_referenced(document.data)}
    return [
        _finding(
            name,
            "is no setting and is not used",
            f"if it was meant as one, the nearest is {nearest(name, keys) or variable('section', 'key')}",
        )
        for name in sorted(environ)
        if name.startswith(PREFIX) and "__" not in name and name not in free
    ]


def _finding(name: str, problem: str, fix: str = "") -> Finding:
    return Finding(where=name, line=0, key="", problem=problem, fix=fix)


def _referenced(value: object) -> Iterator[str]:
    """Names of variables that hold secrets: `{ env = "NAME" }` anywhere."""
    if isinstance(value, dict):
        if len(value) == 1 and isinstance(name := value.get("env"), str):
            yield name
        for one in value.values():
            yield from _referenced(one)
    elif isinstance(value, list):
        for one in value:
            yield from _referenced(one)
