"""The kinds of sinks that are installed: ours and other people's, all found through their entry points."""

from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points

from callcast.sinks import SinkSettings

GROUP = "callcast.sinks"


class SinkTypeBroken(Exception):
    """A type that is installed and cannot be used; the text says why."""


def installed() -> dict[str, list[EntryPoint]]:
    """Who offers each `type`, which should be one. Reads every package's metadata, and imports none."""
    types: dict[str, list[EntryPoint]] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda one: (one.name, one.value)):
        types.setdefault(entry.name, []).append(entry)
    return types


def settings_class(offers: Sequence[EntryPoint]) -> type[SinkSettings]:
    """The settings of a type. Raises SinkTypeBroken when a package does not keep its word, or two offer the type."""
    if len(rivals := sorted({one.value for one in offers})) > 1:
        raise SinkTypeBroken(f"two packages offer this type: {' and '.join(rivals)}")
    entry = offers[0]
    try:
        loaded = entry.load()
    except Exception as error:
        raise SinkTypeBroken(f"{entry.value} cannot be imported: {type(error).__name__}: {error}") from error
    if not (isinstance(loaded, type) and issubclass(loaded, SinkSettings)):
        raise SinkTypeBroken(f"{entry.value} is no subclass of callcast.sinks.SinkSettings")
    return loaded
