"""The kinds of sinks that are installed: ours and other people's, all found through their entry points."""

from importlib.metadata import EntryPoint, entry_points

from callcast.sinks import SinkSettings

GROUP = "callcast.sinks"


class SinkTypeBroken(Exception):
    """A type that is installed and cannot be used; the text says why."""


def installed() -> dict[str, EntryPoint]:
    """The entry points by `type`. Nothing is imported yet."""
    return {entry.name: entry for entry in sorted(entry_points(group=GROUP), key=lambda one: one.name)}


def settings_class(entry: EntryPoint) -> type[SinkSettings]:
    """The settings of a type. Raises SinkTypeBroken when its package does not keep its word."""
    rivals = {one.value for one in entry_points(group=GROUP, name=entry.name)}
    if len(rivals) > 1:
        raise SinkTypeBroken(f"two packages offer the type {entry.name!r}: {' and '.join(sorted(rivals))}")
    try:
        loaded = entry.load()
    except Exception as error:
        raise SinkTypeBroken(f"{entry.value} cannot be imported: {type(error).__name__}: {error}") from error
    if not (isinstance(loaded, type) and issubclass(loaded, SinkSettings)):
        raise SinkTypeBroken(f"{entry.value} is no subclass of callcast.sinks.SinkSettings")
    return loaded
