"""The configuration: a TOML file with overrides from environment variables, validated before anything starts.

In reading order: `toml_file` and `toml_lines` parse the file and remember line numbers, `env` applies environment
variables, `service` and the settings of sources and sinks are the models, `checks` validates everything together, and
`diagnostics` turns errors into findings with a fix. Validation reports all errors, not just the first.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict, PrivateAttr

from callcast.config.checks import Validator
from callcast.config.diagnostics import ConfigError, Finding
from callcast.config.service import ServiceSettings
from callcast.config.toml_file import parse, text_of
from callcast.provider import SourceSettings
from callcast.settings.secret import Secret, Stamp
from callcast.sinks import SinkSettings

__all__ = ["ConfigError", "Settings", "ValidationResult", "load", "validate"]


@dataclass(frozen=True)
class _Origin:
    """What a configuration was read from. It is no part of the value, and is never shown: it may hold secrets."""

    path: Path = field(compare=False)
    text: str = field(compare=False, repr=False)
    environ: Mapping[str, str] = field(compare=False, repr=False)


class Settings(BaseModel):
    """The complete, valid configuration. Its parts compare by value, so that a reload can find what changed.

    files: the secret and certificate files that it names, with their stamps when they were read.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    service: ServiceSettings
    sources: dict[str, SourceSettings]
    sinks: dict[str, SinkSettings]
    names: dict[str, str]
    credentials: dict[str, Secret] = {}
    files: dict[Path, Stamp] = {}

    _origin: "_Origin | None" = PrivateAttr(default=None)

    def read_again(self) -> "Settings":
        """The same configuration with `files` read again, whatever has become of its own file. Raises ConfigError."""
        return _settings_of(_validate(self._origin)) if self._origin is not None else self


@dataclass(frozen=True, kw_only=True)
class ValidationResult:
    """The result of a validation. `settings` is None if there are errors."""

    settings: Settings | None
    errors: tuple[Finding, ...]
    warnings: tuple[Finding, ...]


def load(path: Path, environ: Mapping[str, str]) -> Settings:
    """Return the valid configuration, with all secrets read. Raises ConfigError with every error found."""
    return _settings_of(validate(path, environ))


def validate(path: Path, environ: Mapping[str, str], *, check_folders: bool = False) -> ValidationResult:
    """Return the configuration together with its errors and warnings.

    check_folders: also check that the outbox's folder can be created. The service skips this and creates the folder.
    """
    try:
        text = text_of(path)
    except ConfigError as error:
        return ValidationResult(settings=None, errors=error.findings, warnings=())
    return _validate(_Origin(path, text, environ), check_folders=check_folders)


def _validate(origin: _Origin, *, check_folders: bool = False) -> ValidationResult:
    try:
        document = parse(origin.path, origin.text)
    except ConfigError as error:
        return ValidationResult(settings=None, errors=error.findings, warnings=())
    validator = Validator(document, origin.environ)
    parts = validator.validate(check_folders=check_folders)
    settings = Settings(**parts) if parts else None
    if settings is not None:
        settings._origin = origin  # noqa: SLF001
    return ValidationResult(settings=settings, errors=validator.errors(), warnings=validator.warnings())


def _settings_of(result: ValidationResult) -> Settings:
    if result.settings is None:
        raise ConfigError(result.errors)
    return result.settings
