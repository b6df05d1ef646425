"""Writes config.example.toml and docs/configuration.md from the models that check a configuration.

Run it after a change of a setting: python docs/make_configuration.py
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from callcast.config.service import ServiceSettings
from callcast.ringcentral.settings import SourceSettings
from callcast.settings.secret import Secret
from callcast.sinks import SinkSettings
from callcast.sinks.mqtt import Settings as Mqtt
from callcast.sinks.stdout import Settings as Stdout
from callcast.sinks.webhook import Settings as Webhook

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "config.example.toml"
PAGE = ROOT / "docs" / "configuration.md"
TEMPLATE = ROOT / "docs" / "configuration.in.md"

# What the example shows where the default says little. All of it passes the check.
SHOWN = {
    "service.data_dir": '"/var/lib/callcast"',
    "service.http_token": '{ env = "CALLCAST_HTTP_TOKEN" }',
    "webhook.type": '"webhook"',
    "webhook.secrets": '[{ env = "CRM_SIGNING_SECRET" }]',
    "webhook.headers": '{ "X-Team" = "support" }',
    "mqtt.type": '"mqtt"',
    "mqtt.username": '"callcast"',
    "mqtt.password": '{ env = "MQTT_PASSWORD" }',
    "stdout.type": '"stdout"',
}
HEAD = """\
# callcast: every key, with one line of explanation. `callcast check` reports faults and how to fix them.
# Lines that begin with # and a key show the default, or an example if there is none; remove the # to change it.
# A secret is a string, or { env = "NAME" }, { file = "/path" } or { credential = "name" } (systemd).
# Environment variables override this file: CALLCAST_SERVICE__LOG_LEVEL=debug, CALLCAST_SINKS__CRM__TIMEOUT_S=5.
"""


def example() -> str:
    """The text of config.example.toml."""
    common = "# all keys of [sinks.crm] from `events` on can be used here too"
    parts = [
        HEAD,
        "[service]",
        *_keys("service", ServiceSettings),
        "",
        "# A RingCentral credential and what it watches. For several, add tables with other names.",
        "[sources.acme]",
        *_keys("source", SourceSettings),
        "",
        "# Where events are delivered. For several, add tables with other names. This one writes one line per event.",
        "[sinks.lines]",
        'type = "stdout"',
        common,
        "",
        "# Events as HTTP POST requests, signed according to Standard Webhooks.",
        "#[sinks.crm]",
        *_commented(_keys("webhook", Webhook, own=True)),
        *_commented(_keys("sink", SinkSettings, skip="type")),
        "",
        "# Events, and the current state of calls and extensions, on an MQTT broker.",
        "#[sinks.wallboard]",
        *_commented(_keys("mqtt", Mqtt, own=True)),
        common,
        "",
        "# Names of extension ids, for the wallboard and /api.",
        "[names]",
        '#62264425016 = "Reception"',
    ]
    return "\n".join(parts) + "\n"


def _keys(kind: str, model: type[BaseModel], *, own: bool = False, skip: str = "") -> Iterator[str]:
    for name, field in _fields(model, own=own):
        if name == skip:
            continue
        value = SHOWN.get(f"{kind}.{name}") or _toml(_value(field))
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
        return "{}"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)


def page() -> str:
    """The text of docs/configuration.md: the template with the tables of keys put in."""
    text = TEMPLATE.read_text(encoding="utf-8")
    tables = {
        "service": _table(ServiceSettings),
        "source": _table(SourceSettings),
        "sink": _table(SinkSettings),
        "webhook": _table(Webhook, own=True),
        "mqtt": _table(Mqtt, own=True),
        "stdout": _table(Stdout, own=True),
    }
    for name, table in tables.items():
        text = text.replace(f"<!-- keys of {name} -->", table)
    return text


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
