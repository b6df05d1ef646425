"""The JSON Schema of the configuration, generated from the settings models. For completion in editors."""

from typing import Any

from pydantic import BaseModel

from callcast.config.checks import LABEL_MAX, NAME, NAME_MAX
from callcast.config.service import ServiceSettings
from callcast.config.sink_types import installed, settings_class
from callcast.provider import SourceSettings

NAMES = {"type": "string", "pattern": f"^{NAME}$", "maxLength": NAME_MAX}


def config_schema() -> dict[str, Any]:
    """Return the JSON Schema 2020-12. It includes the sink types that are installed here."""
    kinds = {name: settings_class(offers) for name, offers in installed().items()}
    definitions: dict[str, Any] = {"service": _schema(ServiceSettings), "source": _schema(SourceSettings)}
    definitions |= {f"sink_{name}": _sink(name, model) for name, model in kinds.items()}
    for schema in list(definitions.values()):
        definitions |= schema.pop("$defs", {})  # models within a sink's settings
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:callcast:config:1",
        "title": "callcast configuration",
        "type": "object",
        "additionalProperties": False,
        "required": ["sources", "sinks"],
        "properties": {
            "service": _ref("service"),
            "sources": _tables(_ref("source"), "what is watched: one table per RingCentral credential"),
            "sinks": _tables({"oneOf": [_ref(f"sink_{name}") for name in kinds]}, "where events are sent"),
            "names": {
                "type": "object",
                "description": "display names of extension ids, for the wallboard, /api and Home Assistant",
                "propertyNames": {"pattern": "^[0-9]{1,20}$"},
                "additionalProperties": {"type": "string", "pattern": "\\S", "maxLength": LABEL_MAX},
            },
        },
        "$defs": definitions,
    }


def _schema(model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema()
    # The default folder is specific to this machine, and the schema is shared.
    schema["properties"].get("data_dir", {}).pop("default", None)
    return schema


def _sink(name: str, model: type[BaseModel]) -> dict[str, Any]:
    schema = _schema(model)
    schema["properties"]["type"] = {"const": name, "type": "string"}
    schema["required"] = sorted({"type", *schema.get("required", [])})
    return schema


def _tables(one: dict[str, Any], description: str) -> dict[str, Any]:
    return {
        "type": "object",
        "description": description,
        "minProperties": 1,
        "propertyNames": NAMES,
        "additionalProperties": one,
    }


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/$defs/{name}"}
