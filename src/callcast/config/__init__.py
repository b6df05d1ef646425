"""The configuration: a TOML file, overridden by the environment, checked as a whole before anything starts."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from callcast.config.checks import Examination
from callcast.config.diagnostics import ConfigFaults, Finding
from callcast.config.service import ServiceSettings
from callcast.config.toml_file import read
from callcast.ringcentral.settings import SourceSettings
from callcast.settings.secret import Secret
from callcast.sinks import SinkSettings

__all__ = ["ConfigFaults", "Settings", "Verdict", "examine", "load"]


class Settings(BaseSettings):
    """The whole configuration, checked. Equal parts are equal, so that a reload can tell what changed."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid")

    service: ServiceSettings
    sources: dict[str, SourceSettings]
    sinks: dict[str, SinkSettings]
    names: dict[str, str]
    credentials: dict[str, Secret] = {}

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what `load` hands over: it has merged file and environment, and found every fault of both."""
        return (init_settings,)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of a configuration: `settings` is None when there are faults."""

    settings: Settings | None
    faults: tuple[Finding, ...]
    warnings: tuple[Finding, ...]


def load(path: Path, environ: Mapping[str, str]) -> Settings:
    """The checked configuration, secrets read. Raises ConfigFaults with everything that is wrong with it."""
    verdict = examine(path, environ)
    if verdict.settings is None:
        raise ConfigFaults(verdict.faults)
    return verdict.settings


def examine(path: Path, environ: Mapping[str, str], *, places: bool = False) -> Verdict:
    """Like `load`, but returns the faults instead of raising them, and the warnings too.

    places: also whether the folder of the outbox can be made; the service finds that out when it makes it.
    """
    try:
        document = read(path)
    except ConfigFaults as error:
        return Verdict(settings=None, faults=error.faults, warnings=())
    examination = Examination(document, environ)
    parts = examination.parts(places=places)
    settings = Settings(**parts) if parts else None
    return Verdict(settings=settings, faults=examination.faults(), warnings=examination.warnings())
