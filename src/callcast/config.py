"""The configuration: a TOML file, overridden by the environment, checked as a whole before anything starts."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from callcast.findings import ConfigFaults, Document, Finding, findings_of, kind, nearest, plain, redacted, shown
from callcast.ringcentral.settings import CYCLE_MAX_S, SourceSettings, plan, remedy
from callcast.secret import Keyring
from callcast.service_settings import ServiceSettings
from callcast.sink_types import SinkTypeBroken, installed, settings_class
from callcast.sinks import SinkSettings
from callcast.toml_file import read
from callcast.toml_lines import KeyPath
from callcast.variables import keys_of, overlay, strangers, variable
from callcast.watched import Watched

SECTIONS = ("service", "sources", "sinks", "names")
NAME = r"[a-z][a-z0-9]*(_[a-z0-9]+)*"
NAME_MAX = 40
# What the polling plan depends on.
PACE = ("watch", "extensions", "poll_interval_s", "heavy_per_minute", "headroom", "accept_blind_spots")

Model = TypeVar("Model", bound=BaseModel)


class Settings(BaseSettings):
    """The whole configuration, checked. Equal parts are equal, so that a reload can tell what changed."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid")

    service: ServiceSettings
    sources: dict[str, SourceSettings]
    sinks: dict[str, SinkSettings]
    names: dict[str, str]

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


def examine(path: Path, environ: Mapping[str, str]) -> Verdict:
    """Like `load`, but tells instead of raising, and tells the warnings too."""
    try:
        document = read(path)
    except ConfigFaults as error:
        return Verdict(settings=None, faults=error.faults, warnings=())
    check = _Check(document, environ)
    settings = check.run()
    secrets = check.keyring.seen
    faults = sorted(redacted(check.faults, secrets), key=_place)
    warnings = sorted(redacted(check.warnings, secrets), key=_place)
    return Verdict(settings=None if faults else settings, faults=tuple(faults), warnings=tuple(warnings))


def _place(finding: Finding) -> tuple[bool, int, str]:
    """Sorts by line; what stands in variables comes last."""
    return finding.line == 0, finding.line, finding.key


class _Check:
    """One examination: every check adds what it finds, and none stops another."""

    def __init__(self, document: Document, environ: Mapping[str, str]) -> None:
        self.document = document
        self.environ = environ
        self.keyring = Keyring(environ, document.path.absolute().parent)
        self.faults: list[Finding] = []
        self.warnings: list[Finding] = []
        self._classes: dict[str, type[SinkSettings]] = {}

    def run(self) -> Settings | None:
        self._sections()
        self._variables()
        service = self._table(ServiceSettings, ("service",))
        sources = self._tables("sources", lambda _: SourceSettings)
        sinks = self._tables("sinks", self._classes.get)
        names = self._names()
        self._enough()
        self._across()
        self._sources_warnings(sources)
        self._sinks_warnings(sinks)
        if self.faults or service is None:
            return None
        return Settings(service=service, sources=sources, sinks=sinks, names=names)

    def _fault(self, path: KeyPath, problem: str, fix: str = "", *, at: KeyPath | None = None) -> None:
        self.faults.append(self.document.finding(path, problem, fix, at=at))

    def _warn(self, path: KeyPath, problem: str, fix: str = "") -> None:
        self.warnings.append(self.document.finding(path, problem, fix))

    # What stands in the file at all

    def _sections(self) -> None:
        for section, value in list(self.document.data.items()):
            if section not in SECTIONS:
                meant = nearest(section, SECTIONS)
                fix = f"did you mean [{meant}]?" if meant else _home(section)
                self._fault((section,), "unknown key", fix)
            elif not isinstance(value, dict):
                shape = "[service]" if section == "service" else f"[{section}.NAME]"
                header = "[names]" if section == "names" else shape
                self._fault(
                    (section,), f"given {kind(value)}, expected a table", f"write it as {header}, keys below it"
                )
                self.document.data[section] = {}
        for section in ("sources", "sinks"):
            for name in list(self.document.table(section)):
                self._named_table(section, name)

    def _named_table(self, section: str, name: str) -> None:
        path = (section, name)
        tables = self.document.data[section]
        if not isinstance(tables[name], dict):
            header = f"[{section}.NAME]"
            self._fault(path, f"given {kind(tables[name])}, expected a table", f"put the keys below a header {header}")
            del tables[name]
        elif not re.fullmatch(NAME, name) or len(name) > NAME_MAX:
            expected = f"small letters and digits, single underscores between, at most {NAME_MAX}"
            self._fault(path, f"the name is not allowed, expected {expected}", _name_fix(section, name))

    # The environment

    def _variables(self) -> None:
        keys = keys_of(ServiceSettings, "service")
        for name in self.document.table("sources"):
            keys |= keys_of(SourceSettings, "sources", name)
        for name in self.document.table("sinks"):
            model = self._sink_class(name)
            if model is not None:
                self._classes[name] = model
                keys |= keys_of(model, "sinks", name)
        self.faults += overlay(self.document, self.environ, keys)
        self.warnings += strangers(self.document, self.environ, keys)

    def _sink_class(self, name: str) -> type[SinkSettings] | None:
        table = self.document.table("sinks", name)
        path = ("sinks", name, "type")
        if given := self.environ.get(variable(*path)):
            table["type"] = given
            self.document.variables[path] = variable(*path)
        types = installed()
        wanted = table.get("type")
        if not isinstance(wanted, str) or wanted not in types:
            self._unknown_type(path, table, types)
            return None
        try:
            return settings_class(types[wanted])
        except SinkTypeBroken as error:
            self._fault(path, str(error), "repair or remove the package that offers it")
            return None

    def _unknown_type(self, path: KeyPath, table: Mapping[str, Any], types: Iterable[str]) -> None:
        known = ", ".join(f'"{one}"' for one in types)
        if "type" not in table:
            self._fault(
                path, "missing", f"add type = ... under [{path[0]}.{path[1]}]; installed are {known}", at=path[:2]
            )
            return
        wanted = table["type"]
        meant = nearest(wanted, types) if isinstance(wanted, str) else None
        fix = f'did you mean "{meant}"?' if meant else "correct it, or install the package that offers it"
        self._fault(path, f"given {shown(wanted)}, expected an installed type: {known}", fix)

    # Each table by itself

    def _table(self, model: type[Model], path: tuple[str, ...]) -> Model | None:
        text = json.dumps(plain(self.document.table(*path)))
        try:
            return model.model_validate_json(text, strict=True, context=self.keyring)
        except ValidationError as error:
            self.faults += findings_of(error, self.document, path, model)
            return None

    def _tables(self, section: str, model_of: Callable[[str], type[Model] | None]) -> dict[str, Model]:
        good: dict[str, Model] = {}
        for name in self.document.table(section):
            model = model_of(name)
            checked = self._table(model, (section, name)) if model else None
            if checked is not None:
                good[name] = checked
        return good

    def _names(self) -> dict[str, str]:
        names = self.document.table("names")
        for key, value in names.items():
            if not re.fullmatch(r"[0-9]{1,20}", key):
                self._fault(("names", key), "is no extension id, expected digits", 'write ID = "Name"')
            elif not isinstance(value, str):
                self._fault(("names", key), f"given {shown(value)}, expected a text in quotes")
        return names

    # What they say together

    def _enough(self) -> None:
        unknown = {nearest(key, SECTIONS) for key in self.document.data if key not in SECTIONS}
        if not self.document.table("sources") and "sources" not in unknown:
            self._fault(("sources",), "no source: nothing would be watched", "add a table [sources.NAME]")
        if not self.document.table("sinks") and "sinks" not in unknown:
            fix = 'add a table [sinks.NAME], for a start with type = "stdout"'
            self._fault(("sinks",), "no sink: events would go nowhere", fix)

    def _across(self) -> None:
        watched = Watched(self.document.table("sources"))
        for path, problem, fix in (*watched.twice(), *watched.unseen(self.document.table("sinks"))):
            self._fault(path, problem, fix)
        for name, table in self.document.table("sources").items():
            self._plan(name, table)

    def _plan(self, name: str, table: Mapping[str, Any]) -> None:
        path = ("sources", name)
        about_pace = {key: plain(value) for key, value in table.items() if key in PACE}
        credential = {"client_id": "-", "client_secret": "-", "jwt": "-"}
        try:
            source = SourceSettings.model_validate_json(json.dumps(credential | about_pace), strict=True)
        except ValidationError:
            return  # already a fault of the keys
        cycle = plan(name, source)
        if not cycle.blind:
            return
        problem = (
            f"each target would be looked at every {cycle.cycle_s:.0f} s; above {CYCLE_MAX_S} s calls can be missed"
        )
        key = (*path, "extensions" if cycle.extensions else "poll_interval_s")
        if source.accept_blind_spots:
            self._warn(key, problem, "accepted by accept_blind_spots = true")
        else:
            self._fault(key, problem, remedy(source))

    def _sources_warnings(self, sources: Mapping[str, SourceSettings]) -> None:
        for name, source in sources.items():
            path = ("sources", name)
            if source.allow_plaintext:
                self._warn(
                    (*path, "allow_plaintext"),
                    "credentials and calls may travel unencrypted",
                    "write https:// in server",
                )
            if source.watch == "account" and "extensions" in source.model_fields_set:
                self._warn(
                    (*path, "extensions"),
                    'is not used with watch = "account"',
                    "remove it; sinks can filter by extensions",
                )

    def _sinks_warnings(self, sinks: Mapping[str, SinkSettings]) -> None:
        for name, sink in sinks.items():
            for key, problem, fix in sink.warnings():
                self._warn(("sinks", name, key), problem, fix)


def _home(key: str) -> str:
    models: dict[str, type[BaseModel]] = {"[service]": ServiceSettings, "[sources.NAME]": SourceSettings}
    for header, model in models.items():
        if key in model.model_fields:
            return f"move it below the header {header}"
    return "remove it; there are [service], [sources.NAME], [sinks.NAME] and [names]"


def _name_fix(section: str, name: str) -> str:
    better = re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()).strip("_0123456789")
    return (
        f"call it [{section}.{better[:NAME_MAX].strip('_')}]"
        if re.fullmatch(NAME, better[:NAME_MAX].strip("_"))
        else ""
    )
