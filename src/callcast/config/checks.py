"""Validates a whole configuration. Every check adds its findings and none prevents another from running."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from callcast.config.diagnostics import Document, Finding, Model, kind, plain, redacted, shown, validated
from callcast.config.env import apply_variables, unknown_variables, variable
from callcast.config.service import ServiceSettings
from callcast.config.sink_types import SinkTypeBroken, installed, settings_class
from callcast.config.toml_lines import KeyPath
from callcast.config.watched import unwatched, watched_twice
from callcast.outbox.opening import try_location
from callcast.provider import CYCLE_MAX_S, SourceSettings, plan, plan_fix
from callcast.settings.nearest import nearest
from callcast.settings.secret import PLACES, Keyring
from callcast.sinks import SinkSettings

HEADERS = {"service": "[service]", "sources": "[sources.NAME]", "sinks": "[sinks.NAME]", "names": "[names]"}
NAME = r"[a-z][a-z0-9]*(_[a-z0-9]+)*"
NAME_MAX = 40
PLACEHOLDER = re.compile(r".*\.\.\.|<.*>|x{3,}|to-?do|change-?me|your[-_ ].*", re.IGNORECASE)
LABEL_MAX = 80  # characters of an extension's name
# The keys that the polling plan depends on.
PLAN_KEYS = ("watch", "extensions", "poll_interval_s", "heavy_per_minute", "headroom", "accept_blind_spots")
# The header of the table that a misplaced key belongs to.
HOMES = {
    **dict.fromkeys(SourceSettings.model_fields, HEADERS["sources"]),
    **dict.fromkeys(ServiceSettings.model_fields, HEADERS["service"]),
}


class Validator:
    def __init__(self, document: Document, environ: Mapping[str, str]) -> None:
        self._document = document
        self._environ = environ
        self._keyring = Keyring(environ, document.path.parent)
        self._errors: list[Finding] = []
        self._warnings: list[Finding] = []
        self._reported: set[str] = set()  # sections that already have an error, so that "no source" is not added

    def errors(self) -> tuple[Finding, ...]:
        """Return the errors in the order of the file, with secrets masked."""
        return tuple(sorted(redacted(self._errors, self._keyring.seen), key=_position))

    def warnings(self) -> tuple[Finding, ...]:
        return tuple(sorted(redacted(self._warnings, self._keyring.seen), key=_position))

    def validate(self, *, check_folders: bool = False) -> dict[str, Any] | None:
        """Run all checks. Returns None if there are errors."""
        self._sections()
        classes = self._sink_classes()
        tables: dict[tuple[str, ...], type[BaseModel]] = {("service",): ServiceSettings}
        tables |= {("sources", name): SourceSettings for name in self._document.table("sources")}
        tables |= {("sinks", name): model for name, model in classes.items()}
        self._errors += apply_variables(self._document, self._environ, tables)
        self._warnings += unknown_variables(self._document, self._environ, tables)
        service = self._table(ServiceSettings, ("service",))
        sources = self._tables("sources", dict.fromkeys(self._document.table("sources"), SourceSettings))
        sinks = self._tables("sinks", classes)
        names = self._names()
        self._at_least_one()
        self._extensions()
        self._sources_of_sinks()
        for name, table in self._document.table("sources").items():
            self._plan(name, table)
        self._exclusive_resources(sinks)
        self._credentials(sources)
        self._placeholders()
        self._model_warnings(sources, sinks)
        if check_folders and service is not None:
            self._folder(service.data_dir)
        if self._errors or service is None:
            return None
        return {
            "service": service,
            "sources": sources,
            "sinks": sinks,
            "names": names,
            "credentials": self._keyring.credentials,
            "files": self._keyring.files,
        }

    def _error(self, path: KeyPath, problem: str, fix: str = "", *, at: KeyPath | None = None) -> None:
        self._errors.append(self._document.finding(path, problem, fix, at=at))

    def _warn(self, path: KeyPath, problem: str, fix: str = "") -> None:
        self._warnings.append(self._document.finding(path, problem, fix))

    # Sections and names

    def _sections(self) -> None:
        for section, value in list(self._document.data.items()):
            if section not in HEADERS:
                self._unknown_section(section)
            elif not isinstance(value, dict):
                fix = f"write the header {HEADERS[section]} and the keys below it"
                self._error((section,), f"given {kind(value)}, expected a table", fix)
                self._document.data[section] = {}
                self._reported.add(section)
        for section in ("sources", "sinks"):
            self._keys_without_name(section)
            for name in self._document.table(section):
                self._name(section, name)

    def _unknown_section(self, section: str) -> None:
        meant = nearest(section, HEADERS)
        if section in HOMES:
            fix = f"move it below the header {HOMES[section]}"
        elif meant:
            fix = f"did you mean {HEADERS[meant]}?"
            self._reported.add(meant)
        else:
            fix = f"remove it; the known tables are {', '.join(HEADERS.values())}"
        self._error((section,), "unknown key", fix)

    def _keys_without_name(self, section: str) -> None:
        """Report keys directly below `[sources]` or `[sinks]`, where the name is missing."""
        tables = self._document.table(section)
        keys = [name for name, table in tables.items() if not isinstance(table, dict)]
        if keys:  # a table may then be a reference to a secret, and belongs to the same mistake
            keys = [name for name, table in tables.items() if name in keys or _is_reference(table)]
        for key in keys:
            del tables[key]
        if keys:
            self._reported.add(section)
            problem = f"is directly below [{section}], expected a table with a name"
            self._error((section, keys[0]), problem, f"write the header as {HEADERS[section]}")

    def _name(self, section: str, name: str) -> None:
        if re.fullmatch(NAME, name) and len(name) <= NAME_MAX:
            return
        better = re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()).strip("_0123456789")
        fix = f"rename it to [{section}.{better}]" if re.fullmatch(NAME, better) else "start it with a letter"
        problem = (
            f"invalid name, expected at most {NAME_MAX} lowercase letters and digits, separated by single underscores"
        )
        self._error((section, name), problem, fix if len(better) <= NAME_MAX else "shorten it")

    # Sink types and environment variables

    def _sink_classes(self) -> dict[str, type[SinkSettings]]:
        types = installed()
        tables = self._document.table("sinks").items()
        found = {name: self._sink_class(name, table, types) for name, table in tables}
        return {name: model for name, model in found.items() if model is not None}

    def _sink_class(
        self, name: str, table: dict[str, Any], types: Mapping[str, Sequence[EntryPoint]]
    ) -> type[SinkSettings] | None:
        path = ("sinks", name, "type")
        if given := self._environ.get(variable(*path)):
            table["type"] = given
            self._document.variables[path] = variable(*path)
        wanted = table.get("type")
        if not isinstance(wanted, str) or wanted not in types:
            self._unknown_type(path, table, types)
            return None
        try:
            return settings_class(types[wanted])
        except SinkTypeBroken as error:
            self._error(path, str(error), "repair or remove the package that provides it")
            return None

    def _unknown_type(self, path: tuple[str, str, str], table: Mapping[str, Any], types: Iterable[str]) -> None:
        known = ", ".join(f'"{one}"' for one in types)
        if "type" not in table:
            fix = f"add type = ... under [{path[0]}.{path[1]}]; the installed types are {known}"
            if mistyped := nearest("type", table):
                fix = f"write `type` instead of `{mistyped}`; the installed types are {known}"
            self._error(path, "missing", fix, at=path[:2])
            return
        wanted = table["type"]
        meant = nearest(wanted, types) if isinstance(wanted, str) else None
        fix = f'did you mean "{meant}"?' if meant else "correct it, or install the package that provides it"
        self._error(path, f"given {shown(wanted)}, expected an installed type: {known}", fix)

    # Each table on its own

    def _table(self, model: type[Model], path: tuple[str, ...]) -> Model | None:
        settings, findings = validated(model, self._document, path, self._keyring, homes=HOMES)
        self._errors += findings
        return settings

    def _tables(self, section: str, models: Mapping[str, type[Model]]) -> dict[str, Model]:
        checked = {name: self._table(model, (section, name)) for name, model in models.items()}
        return {name: settings for name, settings in checked.items() if settings is not None}

    def _names(self) -> dict[str, str]:
        names = self._document.table("names")
        for key, value in names.items():
            if not re.fullmatch(r"[0-9]{1,20}", key):
                self._error(("names", key), "is not an extension id, expected digits", 'write ID = "Name"')
            elif not isinstance(value, str):
                problem = f"given {shown(value)}, expected a string in quotes"
                self._error(("names", key), problem, f'write {key} = "Name"')
            elif not value.strip() or not value.isprintable() or len(value) > LABEL_MAX:
                problem = f"given {shown(value)}, expected a name on one line of at most {LABEL_MAX} characters"
                self._error(("names", key), problem, f'write {key} = "Name"')
        return names

    # All tables together

    def _at_least_one(self) -> None:
        if not self._document.table("sources") and "sources" not in self._reported:
            self._error(("sources",), "no source configured", "add a table [sources.NAME]")
        if not self._document.table("sinks") and "sinks" not in self._reported:
            fix = 'add a table [sinks.NAME], for example with type = "stdout"'
            self._error(("sinks",), "no sink configured", fix)

    def _extensions(self) -> None:
        sources = self._document.table("sources")
        add = "add it to the extensions of a source, or remove it here"
        for path, problem, fix in (*watched_twice(sources), *unwatched(sources, self._filtered_by("extensions"), add)):
            self._error(path, problem, fix)
        named: dict[KeyPath, object] = {("names", extension): extension for extension in self._document.table("names")}
        for path, problem, fix in unwatched(sources, named, "remove it, or add the extension to a source"):
            self._warn(path, problem, fix)

    def _sources_of_sinks(self) -> None:
        """Report sources that a sink filters by but that the configuration does not have."""
        known = self._document.table("sources")
        for path, source in self._filtered_by("sources").items() if known else ():
            if isinstance(source, str) and source not in known:
                meant = nearest(source, known)
                fix = f'did you mean "{meant}"?' if meant else f"name one of the sources: {', '.join(known)}"
                self._error(path, f"given {shown(source)}, expected the name of a source", fix)

    def _filtered_by(self, key: str) -> dict[KeyPath, object]:
        """Return each element of the sinks' lists under this key."""
        return {
            ("sinks", name, key, number): value
            for name, sink in self._document.table("sinks").items()
            if isinstance(values := sink.get(key), list)
            for number, value in enumerate(values)
        }

    def _plan(self, name: str, table: Mapping[str, Any]) -> None:
        given = {key: plain(value) for key, value in table.items() if key in PLAN_KEYS}
        credential = {"client_id": "-", "client_secret": "-", "jwt": "-"}  # it does not matter here
        try:
            source = SourceSettings.model_validate_json(json.dumps(credential | given), strict=True)
        except ValidationError:
            return  # these keys have an error already
        cycle_s = plan(name, source).cycle_s
        if cycle_s <= CYCLE_MAX_S:
            return
        key, fix = plan_fix(source)
        problem = f"each target would be polled every {cycle_s:.0f} s; above {CYCLE_MAX_S} s calls can be missed"
        if source.accept_blind_spots:
            self._warn(("sources", name, key), f"{problem} (accepted by accept_blind_spots)", fix)
        else:
            fix = f"{fix}, or set accept_blind_spots = true to accept this"
            self._error(("sources", name, key), problem, fix)

    def _placeholders(self) -> None:
        """Warn about values that were copied from an example."""
        for section in ("sources", "sinks"):
            for path, value in _strings((section,), self._document.table(section)):
                if PLACEHOLDER.fullmatch(value):
                    self._warn(path, "is a placeholder", "replace it with your own")

    def _exclusive_resources(self, sinks: Mapping[str, SinkSettings]) -> None:
        """Report two sinks that use the same exclusive resource, such as an MQTT client id."""
        first: dict[str, str] = {}
        for name, sink in sinks.items():
            for key, resource in sink.exclusive_resources():
                holder = first.setdefault(resource, name)
                if holder != name:
                    problem = f"{resource} is already used by sink {holder}"
                    self._error(("sinks", name, key), problem, f"use a different {key}")

    def _credentials(self, sources: Mapping[str, SourceSettings]) -> None:
        """Warn about two sources with the same credential: they share a rate limit, which no plan accounts for."""
        first: dict[object, str] = {}
        for name, source in sources.items():
            holder = first.setdefault((source.server, source.client_id, source.jwt), name)
            if holder != name:
                problem = f"same credential as source {holder}: they share one rate limit"
                fix = "watch all extensions in one source, or use the JWT of another user"
                self._warn(("sources", name, "jwt"), problem, fix)

    def _folder(self, data_dir: Path) -> None:
        try:
            try_location(data_dir)
        except OSError as error:
            problem = f"cannot create or write to the folder {data_dir}: {(error.strerror or str(error)).lower()}"
            fix = "choose a folder that can be created and written to"
            if isinstance(error, PermissionError):
                fix = "run this as the user that runs the service, create the folder for that user, or choose another"
            self._error(("service", "data_dir"), problem, fix)

    def _model_warnings(self, sources: Mapping[str, SourceSettings], sinks: Mapping[str, SinkSettings]) -> None:
        for name, source in sources.items():
            for key, problem, fix in source.warnings():
                self._warn(("sources", name, key), problem, fix)
        for name, sink in sinks.items():
            for key, problem, fix in sink.warnings():
                self._warn(("sinks", name, key), problem, fix)


def _strings(path: KeyPath, value: object) -> Iterator[tuple[KeyPath, str]]:
    """Yield all strings at any depth, with their paths."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict | list):
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _strings((*path, key), one)


def _is_reference(table: Mapping[str, Any]) -> bool:
    """Whether a table is a reference to a secret, such as `{ env = "NAME" }`."""
    return len(table) == 1 and set(table) <= set(PLACES)


def _position(finding: Finding) -> tuple[bool, int]:
    """Return a sort key: by line, with findings about variables last."""
    return finding.line == 0, finding.line
