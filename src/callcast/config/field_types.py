"""Inspects the type annotations of settings: their alternatives, and whether they hold a secret."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from callcast.settings.secret import Secret


def alternatives(annotation: Any) -> list[Any]:
    """Return the members of a union, at any depth, or else the type itself."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return alternatives(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return [one for member in get_args(annotation) for one in alternatives(member)]
    return [annotation]


def holds_secret(annotation: Any) -> bool:
    """Whether a value of this type can contain a secret at any depth."""
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


def decoded(text: str, annotation: Any) -> object:
    """Convert a variable's text to the type of its key. Raises ValueError if a list or table is not valid JSON.

    Text that cannot be converted is returned unchanged: validation then reports what the key expects.
    """
    kinds = alternatives(annotation)
    if any(get_origin(kind) is Literal and text in get_args(kind) for kind in kinds):
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = text
    if Secret in kinds:  # a reference to a secret is a table
        return value if isinstance(value, dict) else text
    if any(_is_collection(kind) for kind in kinds):
        if not isinstance(value, list | dict):
            raise ValueError("expected a list or a table")
        return value
    return value if isinstance(value, int | float) and str not in kinds and Path not in kinds else text


def _is_collection(kind: Any) -> bool:
    plain = get_origin(kind) or kind
    return isinstance(plain, type) and (hasattr(plain, "__len__") or issubclass(plain, BaseModel)) and plain is not str
