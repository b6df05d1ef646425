"""One look at a whole configuration: every check adds what it finds, and none stops another."""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, TypedDict, TypeVar

from pydantic import BaseModel, ValidationError

from callcast.config.diagnostics import Document, Finding, findings_of, kind, nearest, plain, redacted, shown
from callcast.config.env import Overlay, keys_of, variable
from callcast.config.service import ServiceSettings
from callcast.config.sink_types import SinkTypeBroken, installed, settings_class
from callcast.config.toml_lines import KeyPath
from callcast.config.watched import Watched
from callcast.outbox.sqlite.schema import try_directory
from callcast.ringcentral.settings import CYCLE_MAX_S, SourceSettings, plan, remedy
from callcast.settings.secret import PLACES, Keyring, Secret
from callcast.sinks import SinkSettings

HEADERS = {"service": "[service]", "sources": "[sources.NAME]", "sinks": "[sinks.NAME]", "names": "[names]"}
NAME = r"[a-z][a-z0-9]*(_[a-z0-9]+)*"
NAME_MAX = 40
LABEL_MAX = 80  # characters of what people call an extension
# What the polling plan depends on.
PACE = ("watch", "extensions", "poll_interval_s", "heavy_per_minute", "headroom", "accept_blind_spots")
# Where a key is at home that stands somewhere else.
HOMES = {
    **dict.fromkeys(SourceSettings.model_fields, HEADERS["sources"]),
    **dict.fromkeys(ServiceSettings.model_fields, HEADERS["service"]),
}

Model = TypeVar("Model", bound=BaseModel)


class Parts(TypedDict):
    """What a good configuration consists of."""

    service: ServiceSettings
    sources: dict[str, SourceSettings]
    sinks: dict[str, SinkSettings]
    names: dict[str, str]
    credentials: dict[str, Secret]


class Examination:
    def __init__(self, document: Document, environ: Mapping[str, str]) -> None:
        self._document = document
        self._environ = environ
        self._keyring = Keyring(environ, document.path.parent)
        self._faults: list[Finding] = []
        self._warnings: list[Finding] = []
        self._told: set[str] = set()  # sections without a good table, of which that was said already

    def faults(self) -> tuple[Finding, ...]:
        """In the order of the file, without any secret."""
        return tuple(sorted(redacted(self._faults, self._keyring.seen), key=_place))

    def warnings(self) -> tuple[Finding, ...]:
        return tuple(sorted(redacted(self._warnings, self._keyring.seen), key=_place))

    def parts(self, *, places: bool = False) -> Parts | None:
        """Examine everything; None when there is a fault."""
        self._sections()
        classes = self._sink_classes()
        self._variables(classes)
        service = self._table(ServiceSettings, ("service",))
        sources = self._tables("sources", lambda _: SourceSettings)
        sinks = self._tables("sinks", classes.get)
        names = self._names()
        self._enough()
        self._extensions()
        for name, table in self._document.table("sources").items():
            self._plan(name, table)
        self._claims(sinks)
        self._credentials(sources)
        self._questionable(sources, sinks)
        if places and service is not None:
            self._folder(service.data_dir)
        if self._faults or service is None:
            return None
        return Parts(service=service, sources=sources, sinks=sinks, names=names, credentials=self._keyring.credentials)

    def _fault(self, path: KeyPath, problem: str, fix: str = "", *, at: KeyPath | None = None) -> None:
        self._faults.append(self._document.finding(path, problem, fix, at=at))

    def _warn(self, path: KeyPath, problem: str, fix: str = "") -> None:
        self._warnings.append(self._document.finding(path, problem, fix))

    # What stands in the file at all

    def _sections(self) -> None:
        for section, value in list(self._document.data.items()):
            if section not in HEADERS:
                self._unknown_section(section)
            elif not isinstance(value, dict):
                fix = f"write it as {HEADERS[section]}, keys below it"
                self._fault((section,), f"given {kind(value)}, expected a table", fix)
                self._document.data[section] = {}
                self._told.add(section)
        for section in ("sources", "sinks"):
            self._nameless(section)
            for name in self._document.table(section):
                self._name(section, name)

    def _unknown_section(self, section: str) -> None:
        meant = nearest(section, HEADERS)
        if section in HOMES:
            fix = f"move it below the header {HOMES[section]}"
        elif meant:
            fix = f"did you mean {HEADERS[meant]}?"
            self._told.add(meant)
        else:
            fix = f"remove it; there are {', '.join(HEADERS.values())}"
        self._fault((section,), "unknown key", fix)

    def _nameless(self, section: str) -> None:
        """Keys right below `[sources]`: somebody left out the name."""
        tables = self._document.table(section)
        keys = [name for name, table in tables.items() if not isinstance(table, dict)]
        if keys:  # then what looks like a table may be a secret's place, and belongs to the same mistake
            keys = [name for name, table in tables.items() if name in keys or _is_place(table)]
        for key in keys:
            del tables[key]
        if keys:
            self._told.add(section)
            problem = f"stands below [{section}] itself, expected a table with a name of its own"
            self._fault((section, keys[0]), problem, f"write the header as {HEADERS[section]}")

    def _name(self, section: str, name: str) -> None:
        if re.fullmatch(NAME, name) and len(name) <= NAME_MAX:
            return
        better = re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()).strip("_0123456789")
        fix = f"call it [{section}.{better}]" if re.fullmatch(NAME, better) else "begin it with a letter"
        problem = (
            f"this name cannot be used, expected at most {NAME_MAX} small letters and digits with single underscores"
        )
        self._fault((section, name), problem, fix if len(better) <= NAME_MAX else "shorten it")

    # The types of sinks, and the environment

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
            self._fault(path, str(error), "repair or remove the package that offers it")
            return None

    def _unknown_type(self, path: tuple[str, str, str], table: Mapping[str, Any], types: Iterable[str]) -> None:
        known = ", ".join(f'"{one}"' for one in types)
        if "type" not in table:
            fix = f"add type = ... under [{path[0]}.{path[1]}]; installed are {known}"
            if mistyped := nearest("type", table):
                fix = f"write `type` instead of `{mistyped}`; installed are {known}"
            self._fault(path, "missing", fix, at=path[:2])
            return
        wanted = table["type"]
        meant = nearest(wanted, types) if isinstance(wanted, str) else None
        fix = f'did you mean "{meant}"?' if meant else "correct it, or install the package that offers it"
        self._fault(path, f"given {shown(wanted)}, expected an installed type: {known}", fix)

    def _variables(self, classes: Mapping[str, type[SinkSettings]]) -> None:
        keys = keys_of(ServiceSettings, "service")
        for name in self._document.table("sources"):
            keys |= keys_of(SourceSettings, "sources", name)
        for name, model in classes.items():
            keys |= keys_of(model, "sinks", name)
        overlay = Overlay(self._document, keys)
        self._faults += overlay.apply(self._environ)
        self._warnings += overlay.strangers(self._environ)

    # Each table by itself

    def _table(self, model: type[Model], path: tuple[str, ...]) -> Model | None:
        text = json.dumps(plain(self._document.table(*path)))
        try:
            return model.model_validate_json(text, strict=True, context=self._keyring)
        except ValidationError as error:
            self._faults += findings_of(error, self._document, path, model, HOMES)
            return None

    def _tables(self, section: str, model_of: Callable[[str], type[Model] | None]) -> dict[str, Model]:
        good: dict[str, Model] = {}
        for name in self._document.table(section):
            model = model_of(name)
            checked = self._table(model, (section, name)) if model else None
            if checked is not None:
                good[name] = checked
        return good

    def _names(self) -> dict[str, str]:
        names = self._document.table("names")
        for key, value in names.items():
            if not re.fullmatch(r"[0-9]{1,20}", key):
                self._fault(("names", key), "is no extension id, expected digits", 'write ID = "Name"')
            elif not isinstance(value, str):
                problem = f"given {shown(value)}, expected a text in quotes"
                self._fault(("names", key), problem, f'write {key} = "Name"')
            elif not value.strip() or not value.isprintable() or len(value) > LABEL_MAX:
                problem = f"given {shown(value)}, expected a name on one line of at most {LABEL_MAX} characters"
                self._fault(("names", key), problem, f'write {key} = "Name"')
        return names

    # What they say together

    def _enough(self) -> None:
        if not self._document.table("sources") and "sources" not in self._told:
            self._fault(("sources",), "no source: nothing would be watched", "add a table [sources.NAME]")
        if not self._document.table("sinks") and "sinks" not in self._told:
            fix = 'add a table [sinks.NAME], for a start with type = "stdout"'
            self._fault(("sinks",), "no sink: events would go nowhere", fix)

    def _extensions(self) -> None:
        watched = Watched(self._document.table("sources"))
        for path, problem, fix in (*watched.twice(), *watched.unseen(self._document.table("sinks"))):
            self._fault(path, problem, fix)
        for path, problem, fix in watched.idle(self._document.table("names")):
            self._warn(path, problem, fix)

    def _plan(self, name: str, table: Mapping[str, Any]) -> None:
        pace = {key: plain(value) for key, value in table.items() if key in PACE}
        credential = {"client_id": "-", "client_secret": "-", "jwt": "-"}
        try:
            source = SourceSettings.model_validate_json(json.dumps(credential | pace), strict=True)
        except ValidationError:
            return  # already a fault of these keys
        cycle_s = plan(name, source).cycle_s
        if cycle_s <= CYCLE_MAX_S:
            return
        key, fix = remedy(source)
        problem = f"each target would be looked at every {cycle_s:.0f} s; above {CYCLE_MAX_S} s calls can be missed"
        if source.accept_blind_spots:
            self._warn(("sources", name, key), f"{problem} (accepted by accept_blind_spots)", fix)
        else:
            fix = f"{fix}, or accept it with accept_blind_spots = true"
            self._fault(("sources", name, key), problem, fix)

    def _claims(self, sinks: Mapping[str, SinkSettings]) -> None:
        """Two sinks that would disturb each other."""
        first: dict[str, str] = {}
        for name, sink in sinks.items():
            for key, claim in sink.exclusive_resources():
                holder = first.setdefault(claim, name)
                if holder != name:
                    self._fault(
                        ("sinks", name, key), f"{claim} is already that of sink {holder}", f"give it a {key} of its own"
                    )

    def _credentials(self, sources: Mapping[str, SourceSettings]) -> None:
        """Two sources that share one rate limit, of which neither's plan knows."""
        first: dict[object, str] = {}
        for name, source in sources.items():
            holder = first.setdefault((source.server, source.client_id, source.jwt), name)
            if holder != name:
                problem = f"is the credential of source {holder} too, and they share its rate limit"
                self._warn(
                    ("sources", name, "jwt"), problem, "watch everything in one of them, or make a JWT of another user"
                )

    def _folder(self, data_dir: Path) -> None:
        try:
            try_directory(data_dir)
        except PermissionError as error:
            problem = f"this user may not make {data_dir}, or not write to it: {(error.strerror or str(error)).lower()}"
            fix = "check as the user who runs the service, make the folder for that user, or name another one"
            self._warn(("service", "data_dir"), problem, fix)
        except OSError as error:
            problem = f"the folder {data_dir} cannot be made or written to: {(error.strerror or str(error)).lower()}"
            self._fault(("service", "data_dir"), problem, "name a folder that can be made and written to")

    def _questionable(self, sources: Mapping[str, SourceSettings], sinks: Mapping[str, SinkSettings]) -> None:
        for name, source in sources.items():
            for key, problem, fix in source.warnings():
                self._warn(("sources", name, key), problem, fix)
        for name, sink in sinks.items():
            for key, problem, fix in sink.warnings():
                self._warn(("sinks", name, key), problem, fix)


def _is_place(table: Mapping[str, Any]) -> bool:
    """`{ env = "NAME" }` and the like."""
    return len(table) == 1 and set(table) <= set(PLACES)


def _place(finding: Finding) -> tuple[bool, int]:
    """Sorts by line; what stands in variables comes last."""
    return finding.line == 0, finding.line
