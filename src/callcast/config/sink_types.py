"""Finds the installed sink types, built-in and third-party, through their entry points."""

from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points

from callcast.sinks import SinkSettings

GROUP = "callcast.sinks"


class SinkTypeBroken(Exception):
    """A sink type is installed but cannot be used. The message says why."""


def installed() -> dict[str, list[EntryPoint]]:
    """Return the entry points of each `type`; there should be one each. Reads package metadata, imports nothing."""
    types: dict[str, list[EntryPoint]] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda one: (one.name, one.value)):
        types.setdefault(entry.name, []).append(entry)
    return types


def settings_class(offers: Sequence[EntryPoint]) -> type[SinkSettings]:
    """Return the settings class of a type. Raises SinkTypeBroken if it is invalid or two packages provide the type."""
    if len(rivals := sorted({one.value for one in offers})) > 1:
        raise SinkTypeBroken(f"two packages provide this type: {' and '.join(rivals)}")
    entry = offers[0]
    try:
        loaded = entry.load()
    except Exception as error:
        raise SinkTypeBroken(f"{entry.value} cannot be imported: {type(error).__name__}: {error}") from error
    if not (isinstance(loaded, type) and issubclass(loaded, SinkSettings)):
        raise SinkTypeBroken(f"{entry.value} is not a subclass of callcast.sinks.SinkSettings")
    return loaded
