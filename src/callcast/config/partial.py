"""Reads single parts of a configuration, for commands that run beside the service.

Errors elsewhere in the file do not matter to these commands, and they may lack access to some of it, such as secrets
that only the service's user can read.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, create_model

from callcast.config.diagnostics import ConfigError, Document, validated
from callcast.config.env import apply_variables, variable
from callcast.config.service import ServiceSettings
from callcast.config.sink_types import SinkTypeBroken, installed, settings_class
from callcast.config.toml_file import read
from callcast.ports.sink import Filter
from callcast.provider import SourceSettings
from callcast.settings.secret import Keyring
from callcast.sinks import SinkSettings

Model = TypeVar("Model", bound=BaseModel)


def _some_of(model: type[BaseModel], *keys: str) -> type[BaseModel]:
    fields: dict[str, Any] = {key: (model.model_fields[key].annotation, model.model_fields[key]) for key in keys}
    return create_model("Some", **fields)


_Folder = _some_of(ServiceSettings, "data_dir")


def data_dir(path: Path, environ: Mapping[str, str]) -> Path:
    """Return the outbox's folder. Raises ConfigError if the file cannot be read or this key is invalid."""
    folder: Path = _checked(_Folder, read(path), ("service",), environ).data_dir  # type: ignore[attr-defined]
    return folder


def sources(path: Path) -> tuple[str, ...]:
    """Return the names of the sources. Raises ConfigError if the file cannot be read."""
    return tuple(read(path).table("sources"))


def source(path: Path, environ: Mapping[str, str], name: str) -> SourceSettings:
    """Return one source, with its secrets. Raises ConfigError if the file cannot be read or this source is invalid."""
    return _checked(SourceSettings, read(path), ("sources", name), environ)


def sink_filters(path: Path, environ: Mapping[str, str]) -> Mapping[str, Filter]:
    """Return the event filter of each sink. Raises ConfigError if the file cannot be read or a filter is invalid."""
    document = read(path)
    return {name: _filter(document, name, environ) for name in document.table("sinks")}


def _filter(document: Document, name: str, environ: Mapping[str, str]) -> Filter:
    settings = _settings_class(document.table("sinks", name).get("type"))
    keys = Filter.__struct_fields__
    checked = _checked(_some_of(settings, *keys, *settings.defaults_depend_on), document, ("sinks", name), environ)
    every = checked.model_dump()
    values = {**every, **settings.defaults(every), **checked.model_dump(exclude_unset=True)}
    return Filter(**{key: values[key] for key in keys})


def _settings_class(kind: object) -> type[SinkSettings]:
    """Return the settings class of a type; of an unknown type, what every sink has."""
    try:
        return settings_class(installed()[str(kind)])
    except (KeyError, SinkTypeBroken):
        return SinkSettings


def _checked(model: type[Model], document: Document, base: tuple[str, ...], environ: Mapping[str, str]) -> Model:
    own = {name: environ[name] for key in model.model_fields if (name := variable(*base, key)) in environ}
    findings = apply_variables(document, own, {base: model})
    keyring = Keyring(environ, document.path.parent)
    keys = [key for key in document.table(*base) if key in model.model_fields]
    checked, more = validated(model, document, base, keyring, keys=keys)
    if checked is None or findings:
        raise ConfigError([*findings, *more])
    return checked
