"""Which source watches which extension, as far as the configuration alone determines it.

Reads the raw tables, valid or not, so that one error does not hide another.
"""

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

from callcast.config.toml_lines import KeyPath
from callcast.settings.nearest import nearest

Fault = tuple[KeyPath, str, str]  # key, problem, fix


def watched_twice(sources: Mapping[str, Any]) -> Iterator[Fault]:
    """Yield the extensions that are watched twice, in one source or by two."""
    first: dict[str, KeyPath] = {}
    for name, table in sources.items():
        for number, extension in _listed(table):
            path: KeyPath = ("sources", name, "extensions", number)
            # ~ is the credential's own extension, another one for each credential
            before = first.setdefault(f"~{name}" if extension == "~" else extension, path)
            if before[1] != name:
                problem = f"the extension {extension} is already watched by source {before[1]}"
                yield path, problem, "list it in one source only"
            elif before != path:
                yield path, f"the extension {extension} is listed twice", "list it once"
    for (one, table), (name, other) in combinations(sources.items(), 2):
        if _of_one_account(table, other):
            yield from _overlap(one, table, name, other)


def _overlap(first: str, one: Mapping[str, Any], name: str, table: Mapping[str, Any]) -> Iterator[Fault]:
    """Yield an overlap: a source with watch = "account" sees every extension, including another source's."""
    fix = "remove one of them; a sink can filter by extensions"
    if one.get("watch") == "account":
        key = "watch" if table.get("watch") == "account" else "extensions"
        yield ("sources", name, key), f"every extension of this account is already watched by source {first}", fix
    elif table.get("watch") == "account":
        yield ("sources", name, "watch"), f"extensions of this account are already watched by source {first}", fix


def unwatched(sources: Mapping[str, Any], named: Mapping[KeyPath, object], add: str) -> Iterator[Fault]:
    """Yield those of the named extensions that no source watches; none if a source watches unlisted extensions.

    add: the fix for an extension that is not similar to a watched one.
    """
    known = dict.fromkeys(extension for table in sources.values() for _, extension in _listed(table))
    if not sources or not all(map(_watches_listed_only, sources.values())):
        return
    for path, extension in named.items():
        if isinstance(extension, str) and extension.isdigit() and extension not in known:
            meant = nearest(extension, known)
            yield path, f"no source watches the extension {extension}", f'did you mean "{meant}"?' if meant else add


def _listed(table: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
    extensions = table.get("extensions", ["~"])
    if table.get("watch") != "account" and isinstance(extensions, list):
        for number, extension in enumerate(extensions):
            if isinstance(extension, str):
                yield number, extension


def _watches_listed_only(table: Mapping[str, Any]) -> bool:
    extensions = table.get("extensions", ["~"])
    return table.get("watch", "extensions") == "extensions" and isinstance(extensions, list) and "~" not in extensions


def _of_one_account(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two sources watch the same account: the same account id, or the same credential's own account."""
    same = {key: key in one and one[key] == other.get(key) for key in ("account", "client_id", "jwt")}
    own = one.get("account", "~") == other.get("account", "~") == "~"
    named = same["account"] and one["account"] != "~"
    return one.get("server") == other.get("server") and (named or (own and same["client_id"] and same["jwt"]))
