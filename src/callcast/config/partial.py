"""The little of a configuration that commands beside the service need, whatever else is wrong with it.

What else there is may well be out of their reach: secrets, for example, that only the service can read.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError, create_model

from callcast.config.diagnostics import ConfigFaults, Document, findings_of, plain
from callcast.config.env import Overlay, keys_of
from callcast.config.service import ServiceSettings
from callcast.config.toml_file import read
from callcast.ports.sink import Filter
from callcast.ringcentral.settings import SourceSettings
from callcast.settings.secret import Keyring
from callcast.sinks import SinkSettings

Model = TypeVar("Model", bound=BaseModel)


def _some_of(model: type[BaseModel], *keys: str) -> type[BaseModel]:
    fields: dict[str, Any] = {key: (model.model_fields[key].annotation, model.model_fields[key]) for key in keys}
    return create_model("Some", **fields)


_Folder = _some_of(ServiceSettings, "data_dir")
_Wish = _some_of(SinkSettings, "events", "directions", "extensions")


def data_dir(path: Path, environ: Mapping[str, str]) -> Path:
    """Where the outbox lies. Raises ConfigFaults when the file cannot be read, or this key of it is wrong."""
    folder: Path = _checked(_Folder, read(path), ("service",), environ).data_dir  # type: ignore[attr-defined]
    return folder


def sources(path: Path) -> tuple[str, ...]:
    """The names of the sources. Raises ConfigFaults when the file cannot be read."""
    return tuple(read(path).table("sources"))


def source(path: Path, environ: Mapping[str, str], name: str) -> SourceSettings:
    """One source, with its secrets. Raises ConfigFaults when the file cannot be read, or this source is wrong."""
    return _checked(SourceSettings, read(path), ("sources", name), environ)


def sink_filters(path: Path, environ: Mapping[str, str]) -> Mapping[str, Filter]:
    """What each configured sink wants to hear of. Raises ConfigFaults when that cannot be read."""
    document = read(path)
    wishes = {name: _checked(_Wish, document, ("sinks", name), environ) for name in document.table("sinks")}
    return {name: Filter(**wish.model_dump()) for name, wish in wishes.items()}


def _checked(model: type[Model], document: Document, base: tuple[str, ...], environ: Mapping[str, str]) -> Model:
    keys = keys_of(model, *base)
    Overlay(document, keys).apply({name: environ[name] for name in keys if name in environ})
    table = {key: value for key, value in document.table(*base).items() if key in model.model_fields}
    try:
        keyring = Keyring(environ, document.path.parent)
        return model.model_validate_json(json.dumps(plain(table)), strict=True, context=keyring)
    except ValidationError as error:
        raise ConfigFaults(findings_of(error, document, base, model, {})) from None
