"""Writes config.example.toml and docs/configuration.md from the models that check a configuration.

Run it after a change of a setting: python docs/make_configuration.py
"""

import json
import re
from collections.abc import Iterable, Iterator
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from callcast.config.service import ServiceSettings
from callcast.ringcentral.settings import SourceSettings
from callcast.settings.secret import Secret
from callcast.sinks import SinkSettings

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "config.example.toml"
PAGE = ROOT / "docs" / "configuration.md"
TEMPLATE = ROOT / "docs" / "configuration.in.md"

# The built-in sink types: first the one that works without settings, then the webhook.
SINKS: list[type[SinkSettings]] = sorted(
    (entry.load() for entry in distribution("callcast").entry_points.select(group="callcast.sinks")),
    key=lambda model: (all(not field.is_required() for field in model.model_fields.values()), model.__module__),
    reverse=True,
)
# What the example shows where the default says little. All of it passes the check.
SHOWN = {
    "data_dir": '"/var/lib/callcast"',
    "http_token": '{ env = "CALLCAST_HTTP_TOKEN" }',
}
HEAD = """\
# callcast: every key, with one line of explanation. `callcast check` reports faults and how to fix them.
# Lines that begin with # and a key show the default, or an example if there is none; remove the # to change it.
# A secret is a string, or { env = "NAME" }, { file = "/path" } or { credential = "name" } (systemd).
# Environment variables override this file: CALLCAST_SERVICE__LOG_LEVEL=debug, CALLCAST_SINKS__CRM__TIMEOUT_S=5.
"""


def example() -> str:
    """The text of config.example.toml."""
    first, *others = SINKS
    common = f"# all keys of [sinks.{others[0].example_name}] from `events` on can be used here too"
    parts = [
        HEAD,
        "[service]",
        *_keys(ServiceSettings),
        "",
        "# A RingCentral credential and what it watches. For several, add tables with other names.",
        "[sources.acme]",
        *_keys(SourceSettings),
        "",
        "# Where events are delivered. For several, add tables with other names. This one writes one line per event.",
        f"[sinks.{first.example_name}]",
        f'type = "{_type(first)}"',
        common,
        "",
    ]
    for model in others:
        parts += [f"# {model.__doc__}", f"#[sinks.{model.example_name}]", *_commented(_keys(model, own=True))]
        parts += [*_commented(_keys(SinkSettings, skip="type"))] if model is others[0] else [common]
        parts.append("")
    parts += [
        "# Names of extension ids, for the wallboard, /api and Home Assistant.",
        "[names]",
        '#62264425016 = "Reception"',
    ]
    return "\n".join(parts) + "\n"


def _type(model: type[SinkSettings]) -> str:
    return str(model.model_fields["type"].default)


def _keys(model: type[BaseModel], *, own: bool = False, skip: str = "") -> Iterator[str]:
    for name, field in _fields(model, own=own):
        if name == skip:
            continue
        value = SHOWN.get(name) or _toml(field.examples[0] if field.examples else _value(field))
        yield f"# {field.description or 'the type of the sink'}"
        yield f"{'' if field.is_required() else '#'}{name} = {value}"


def _commented(lines: Iterable[str]) -> Iterator[str]:
    return (line if line.startswith("#") else f"#{line}" for line in lines)


def _fields(model: type[BaseModel], *, own: bool) -> list[tuple[str, FieldInfo]]:
    """In the order in which people read them: what must be there first, what is dangerous last."""
    fields = [
        (name, field)
        for name, field in model.model_fields.items()
        if not own or name == "type" or name not in SinkSettings.model_fields
    ]
    return sorted(fields, key=lambda one: _rank(*one))


def _rank(name: str, field: FieldInfo) -> int:
    if name == "type" or field.is_required():
        return 0 if name == "type" else 1
    return 4 if name == "allow_plaintext" else 3 if name.startswith("tls_") else 2


def _value(field: FieldInfo) -> Any:
    if field.is_required():
        return field.examples[0] if field.examples else "..."
    return field.get_default(call_default_factory=True)


def _toml(value: Any) -> str:
    if isinstance(value, Secret):
        return '""'
    if isinstance(value, dict):
        pairs = (f"{key if re.fullmatch('[A-Za-z0-9_-]+', key) else _toml(key)} = {_toml(value[key])}" for key in value)
        return f"{{ {', '.join(pairs)} }}" if value else "{}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, ensure_ascii=False)


def page() -> str:
    """The text of docs/configuration.md: the template with the tables of keys put in."""
    text = TEMPLATE.read_text(encoding="utf-8")
    tables = {
        "service": _table(ServiceSettings),
        "source": _table(SourceSettings),
        "sink": _table(SinkSettings),
    }
    for name, table in tables.items():
        text = text.replace(f"<!-- keys of {name} -->", table)
    return text.replace("<!-- sink types -->", "\n\n".join(_section(model) for model in SINKS))


def _section(model: type[SinkSettings]) -> str:
    name = _type(model)
    own = [field for field, _ in _fields(model, own=True) if field != "type"]
    table = _table(model, own=True) if own else "It has no further keys."
    return f'### `type = "{name}"`\n\n{model.__doc__} See [sinks.md](sinks.md#{name}).\n\n{table}'


def _table(model: type[BaseModel], *, own: bool = False) -> str:
    properties = model.model_json_schema()["properties"]
    rows = ["| key | value | default | meaning |", "|---|---|---|---|"]
    for name, field in _fields(model, own=own):
        if own and name == "type":
            continue
        default = "required" if field.is_required() else _default(name, field)
        rows.append(f"| `{name}` | {_kind(properties[name])} | {default} | {_cell(field.description or '')} |")
    return "\n".join(rows)


def _default(name: str, field: FieldInfo) -> str:
    value = _value(field)
    if name == "data_dir" or value is None or value in ("", (), {}, Secret("")):
        return ""
    return f"`{_toml(value)}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _kind(schema: dict[str, Any]) -> str:
    """What a value may be, in words, from its JSON Schema."""
    if schema.get("writeOnly"):
        return "secret"
    if "anyOf" in schema:
        return " or ".join(_kind(one) for one in schema["anyOf"] if one.get("type") != "null")
    words = [schema["const"]] if "const" in schema else schema.get("enum")
    if words:
        return ", ".join(f"`{json.dumps(word)}`" for word in words)
    kind = str(schema.get("type"))
    if kind == "array":
        return f"list of {_kind(schema['items'])}"
    if kind == "object":
        return f"table of {_kind(schema['additionalProperties'])}"
    names = {"string": "text", "boolean": "true or false", "integer": "whole number", "number": "number"}
    return names[kind] + _range(schema)


def _range(schema: dict[str, Any]) -> str:
    words = {"exclusiveMinimum": "above", "minimum": "of at least", "maximum": "at most"}
    said = [f"{word} {_toml(schema[key])}" for key, word in words.items() if key in schema]
    return f" {', '.join(said)}" if said else ""


if __name__ == "__main__":
    EXAMPLE.write_text(example(), encoding="utf-8")
    PAGE.write_text(page(), encoding="utf-8")
