"""Which source watches which extension, as far as the configuration alone determines it."""

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

from callcast.config.diagnostics import nearest
from callcast.config.toml_lines import KeyPath

Fault = tuple[KeyPath, str, str]  # key, problem, fix


class Watched:
    """Reads the raw tables, valid or not, so that one error does not hide another."""

    def __init__(self, sources: Mapping[str, Any]) -> None:
        self._where: dict[str, KeyPath] = {}
        self._again: list[Fault] = []
        self._known = bool(sources)
        for name, table in sources.items():
            self._add(name, table)
        for (first, one), (name, table) in combinations(sources.items(), 2):
            if _of_one_account(one, table):
                self._beside(first, one, name, table)

    def _add(self, name: str, table: Mapping[str, Any]) -> None:
        extensions = table.get("extensions", ["~"])
        if table.get("watch", "extensions") != "extensions" or not isinstance(extensions, list) or "~" in extensions:
            self._known = False
        if table.get("watch") == "account" or not isinstance(extensions, list):
            return
        for number, extension in enumerate(extensions):
            if isinstance(extension, str):
                self._one(extension, ("sources", name, "extensions", number))

    def _one(self, extension: str, path: KeyPath) -> None:
        own = extension == "~"  # the credential's own extension, another one for each credential
        first = self._where.setdefault(f"~{path[1]}" if own else extension, path)
        if first[1] != path[1]:
            problem = f"the extension {extension} is already watched by source {first[1]}"
            self._again.append((path, problem, "list it in one source only"))
        elif first != path:
            self._again.append((path, f"the extension {extension} is listed twice", "list it once"))

    def _beside(self, first: str, one: Mapping[str, Any], name: str, table: Mapping[str, Any]) -> None:
        """Report an overlap: a source with watch = "account" sees every extension, including another source's."""
        fix = "remove one of them; a sink can filter by extensions"
        if one.get("watch") == "account":
            key = "watch" if table.get("watch") == "account" else "extensions"
            problem = f"every extension of this account is already watched by source {first}"
            self._again.append((("sources", name, key), problem, fix))
        elif table.get("watch") == "account":
            problem = f"extensions of this account are already watched by source {first}"
            self._again.append((("sources", name, "watch"), problem, fix))

    def twice(self) -> list[Fault]:
        """Return the extensions that are watched twice, in one source or by two."""
        return self._again

    def unseen(self, sinks: Mapping[str, Any]) -> Iterator[Fault]:
        """Yield extensions that a sink filters by but no source watches.

        Yields nothing if a source watches extensions that the configuration does not list.
        """
        if not self._known:
            return
        for name, table in sinks.items():
            extensions = table.get("extensions", [])
            for number, extension in enumerate(extensions if isinstance(extensions, list) else []):
                if isinstance(extension, str) and extension.isdigit() and extension not in self._where:
                    meant = nearest(extension, self._where)
                    fix = (
                        f'did you mean "{meant}"?'
                        if meant
                        else "add it to the extensions of a source, or remove it here"
                    )
                    path = ("sinks", name, "extensions", number)
                    yield path, f"no source watches the extension {extension}", fix

    def idle(self, names: Mapping[str, Any]) -> Iterator[Fault]:
        """Yield names of extensions that no source watches, under the same condition as `unseen`."""
        if not self._known:
            return
        for extension in names:
            if extension.isdigit() and extension not in self._where:
                meant = nearest(extension, self._where)
                fix = f"did you mean {meant}?" if meant else "remove it, or add the extension to a source"
                yield ("names", extension), f"no source watches the extension {extension}", fix


def _of_one_account(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two sources watch the same account: the same account id, or the same credential's own account."""
    same = {key: key in one and one[key] == other.get(key) for key in ("account", "client_id", "jwt")}
    own = one.get("account", "~") == other.get("account", "~") == "~"
    named = same["account"] and one["account"] != "~"
    return one.get("server") == other.get("server") and (named or (own and same["client_id"] and same["jwt"]))
