"""What the type of a setting says of it: what it may hold, and whether it must never be shown."""

import json
from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from callcast.settings.secret import Secret


def alternatives(annotation: Any) -> list[Any]:
    """The members of a union, of whatever depth; else the type alone."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return alternatives(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return [one for member in get_args(annotation) for one in alternatives(member)]
    return [annotation]


def holds_secret(annotation: Any) -> bool:
    """True when a secret may stand anywhere in a value of this type."""
    return any(part is Secret for part in _parts(annotation, set()))


def _parts(annotation: Any, seen: set[type]) -> Iterator[Any]:
    for one in alternatives(annotation):
        yield one
        if isinstance(one, type) and issubclass(one, BaseModel) and one not in seen:
            seen.add(one)
            for field in one.model_fields.values():
                yield from _parts(field.annotation, seen)
        elif get_origin(one) not in (None, Literal):
            for argument in get_args(one):
                yield from _parts(argument, seen)


def typed(text: str, annotation: Any) -> object:
    """A variable's text as the value that its key wants. Raises ValueError when a list or table is no JSON.

    A text that does not fit comes back as it is: the check of the key then says what it wants instead.
    """
    kinds = alternatives(annotation)
    if any(get_origin(kind) is Literal and text in get_args(kind) for kind in kinds):
        return text
    if Secret in kinds:
        return _table(text) or text
    if bool in kinds and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if int in kinds or float in kinds:
        return _number(text)
    if any(_is_collection(kind) for kind in kinds):
        return _collection(text)
    return text


def _is_collection(kind: Any) -> bool:
    plain = get_origin(kind) or kind
    return isinstance(plain, type) and (hasattr(plain, "__len__") or issubclass(plain, BaseModel)) and plain is not str


def _collection(text: str) -> object:
    value = json.loads(text)
    if not isinstance(value, list | dict):
        raise ValueError("neither a list nor a table")
    return value


def _table(text: str) -> dict[str, object] | None:
    if not text.lstrip().startswith("{"):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _number(text: str) -> object:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, int | float) and not isinstance(value, bool) else text
