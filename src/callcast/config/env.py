"""Overrides from environment variables, such as `CALLCAST_SINKS__CRM__TIMEOUT_S=5`.

pydantic-settings supports such variables too, but it ignores unknown ones and stops at the first invalid one. Here
each of them is reported as an error.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from callcast.config.diagnostics import Document, Finding, kind, nearest, shown
from callcast.config.field_types import holds_secret, typed

PREFIX = "CALLCAST_"
CONFIG_VARIABLE = "CALLCAST_CONFIG"


@dataclass(frozen=True)
class Key:
    """A key that a variable can set."""

    path: tuple[str, ...]
    annotation: Any


def variable(*path: str) -> str:
    """Return the name of the variable that sets the key at a path."""
    return PREFIX + "__".join(part.upper() for part in path)


def keys_of(model: type[BaseModel], *base: str) -> dict[str, Key]:
    """Return the keys of one table by the name of their variable."""
    fields = model.model_fields.items()
    return {variable(*base, name): Key((*base, name), field.annotation) for name, field in fields}


class Overlay:
    """Applies variables to a document. `keys`: the keys that can be set, by the name of their variable."""

    def __init__(self, document: Document, keys: Mapping[str, Key]) -> None:
        self._document = document
        self._keys = keys

    def apply(self, environ: Mapping[str, str]) -> list[Finding]:
        """Apply all variables. Returns an error for each name that is not a setting and each unreadable value."""
        free = set(_referenced(self._document.data))
        ours = [name for name in sorted(environ) if name.startswith(PREFIX) and "__" in name and name not in free]
        return [fault for name in ours if (fault := self._set(name, environ[name])) is not None]

    def unknown_variables(self, environ: Mapping[str, str]) -> list[Finding]:
        """Return a warning for each variable with our prefix that is not a setting.

        These are not errors because Kubernetes injects some, but one may be a typing error.
        """
        free = {CONFIG_VARIABLE, *_referenced(self._document.data)}
        return [
            _finding(name, "not a setting; ignored", f"if it is meant as one: {self._nearest_of_all(name)}")
            for name in sorted(environ)
            if name.startswith(PREFIX) and "__" not in name and name not in free
        ]

    def _set(self, name: str, text: str) -> Finding | None:
        key = self._keys.get(name) or _extension_name(name)
        if key is None:
            return self._unknown(name)
        try:
            text.encode()
            value = typed(text, key.annotation)
        except UnicodeEncodeError:
            return _finding(name, "not valid UTF-8")
        except (ValueError, RecursionError):
            return _not_json(name, text, key)
        table = self._document.data
        for part in key.path[:-1]:
            table = table.setdefault(part, {})
        table[key.path[-1]] = value
        self._document.variables[key.path] = name
        return None

    def _unknown(self, name: str) -> Finding | None:
        section, _, rest = name.removeprefix(PREFIX).lower().partition("__")
        parent, _, last = name.rpartition("__")
        if parent in self._keys:
            return _finding(name, "part of a value cannot be set", f"set the whole value in {parent}, as JSON")
        if section in ("sources", "sinks"):
            return self._unknown_in_tables(name, section, *rest.partition("__")[::2])
        siblings = [one.rpartition("__")[2] for one in self._keys if one.rpartition("__")[0] == parent]
        if siblings:
            return _finding(name, "no such key", _one_of(parent, last, siblings))
        meant = nearest(section, ("service", "sources", "sinks", "names"))
        guess = f"{PREFIX}{meant.upper()}__{rest.upper()}" if meant else ""
        fix = (
            f"did you mean {guess}?"
            if guess in self._keys
            else "the name of a setting starts with CALLCAST_SERVICE__, _SOURCES__, _SINKS__ or _NAMES__"
        )
        return _finding(name, "no such key", fix)

    def _unknown_in_tables(self, name: str, section: str, table: str, key: str) -> Finding | None:
        tables = self._document.table(section)
        if table not in tables:
            meant = nearest(table, tables)
            fix = (
                f"add [{section}.{table}] to the file"
                if not meant
                else f"did you mean {variable(section, meant, key)}?"
            )
            return _finding(name, f"the file has no [{section}.{table}], and a variable cannot add a table", fix)
        if not key:
            return _finding(name, "a table cannot be set as a whole", f"set its keys one by one: {name}__KEY")
        siblings = [one.path[-1] for one in self._keys.values() if one.path[:2] == (section, table)]
        if not siblings:
            return None  # a sink of unknown type, which is reported already
        return _finding(name, "no such key", _one_of(variable(section, table), key, siblings))

    def _nearest_of_all(self, name: str) -> str:
        return nearest(name, self._keys) or f"settings are named like {variable('service', 'log_level')}"


def _one_of(parent: str, last: str, siblings: list[str]) -> str:
    if meant := nearest(last, siblings):
        return f"did you mean {parent}__{meant.upper()}?"
    return f"the keys after {parent}__ are: {', '.join(sorted(one.upper() for one in siblings))}"


def _not_json(name: str, text: str, key: Key) -> Finding:
    if holds_secret(key.annotation):
        return _finding(
            name, f"given {kind(text)}, expected JSON", 'write ["one", "two"] for a list, {"key": "value"} for a table'
        )
    guess = json.dumps([part.strip() for part in text.split(",")], ensure_ascii=False)
    return _finding(name, f"given {shown(text)}, expected JSON", f"write {guess}" if len(text) < 60 and text else "")


def _extension_name(name: str) -> Key | None:
    parts = name.removeprefix(PREFIX).split("__")
    return Key(("names", parts[1]), str) if len(parts) == 2 and parts[0] == "NAMES" and parts[1] else None


def _finding(name: str, problem: str, fix: str = "") -> Finding:
    return Finding(where=name, line=0, key="", problem=problem, fix=fix)


def _referenced(value: object) -> Iterator[str]:
    """Yield the names of variables that hold secrets: `{ env = "NAME" }` at any depth."""
    if isinstance(value, dict):
        if len(value) == 1 and isinstance(name := value.get("env"), str):
            yield name
        for one in value.values():
            yield from _referenced(one)
    elif isinstance(value, list):
        for one in value:
            yield from _referenced(one)
