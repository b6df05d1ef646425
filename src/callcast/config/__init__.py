"""The configuration: a TOML file with overrides from environment variables, validated before anything starts.

In reading order: `toml_file` and `toml_lines` parse the file and remember line numbers, `env` applies environment
variables, `service` and the settings of sources and sinks are the models, `checks` validates everything together, and
`diagnostics` turns errors into findings with a fix. Validation reports all errors, not just the first.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from callcast.config.checks import Validator
from callcast.config.diagnostics import ConfigError, Finding
from callcast.config.service import ServiceSettings
from callcast.config.toml_file import read
from callcast.provider import SourceSettings
from callcast.settings.secret import Secret
from callcast.sinks import SinkSettings

__all__ = ["ConfigError", "Settings", "ValidationResult", "load", "validate"]


class Settings(BaseModel):
    """The complete, valid configuration. Its parts compare by value, so that a reload can find what changed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    service: ServiceSettings
    sources: dict[str, SourceSettings]
    sinks: dict[str, SinkSettings]
    names: dict[str, str]
    credentials: dict[str, Secret] = {}


@dataclass(frozen=True, kw_only=True)
class ValidationResult:
    """The result of a validation. `settings` is None if there are errors."""

    settings: Settings | None
    errors: tuple[Finding, ...]
    warnings: tuple[Finding, ...]


def load(path: Path, environ: Mapping[str, str]) -> Settings:
    """Return the valid configuration, with all secrets read. Raises ConfigError with every error found."""
    result = validate(path, environ)
    if result.settings is None:
        raise ConfigError(result.errors)
    return result.settings


def validate(path: Path, environ: Mapping[str, str], *, check_folders: bool = False) -> ValidationResult:
    """Return the configuration together with its errors and warnings.

    check_folders: also check that the outbox's folder can be created. The service skips this and creates the folder.
    """
    try:
        document = read(path)
    except ConfigError as error:
        return ValidationResult(settings=None, errors=error.findings, warnings=())
    validator = Validator(document, environ)
    parts = validator.validate(check_folders=check_folders)
    settings = Settings(**parts) if parts else None
    return ValidationResult(settings=settings, errors=validator.errors(), warnings=validator.warnings())
