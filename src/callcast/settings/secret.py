"""Texts that must never be shown: in the configuration a string, or the place where the string is kept."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, cast

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

HIDDEN = "**********"
FILE_BYTES_MAX = 65_536
PLACES = ("env", "file", "credential")
EXPECTED = 'a text, or { env = "NAME" }, { file = "/path" } or { credential = "name" }'


class Keyring:
    """Reads secrets from where they are kept. Given to pydantic as the validation's context.

    `credentials`: systemd's, by name, as they were read. `folder` is what a relative path starts from. `seen`
    collects every secret's text, so that a report can be searched for them before anybody reads it.
    """

    def __init__(self, environ: Mapping[str, str], folder: Path) -> None:
        self._environ = environ
        self.folder = folder
        self.seen: set[str] = set()
        self.credentials: dict[str, Secret] = {}

    def read(self, place: str, name: str) -> str:
        """The secret's text. Raises PydanticCustomError when it cannot be had, without ever quoting it."""
        text = self._variable(name) if place == "env" else self._file(self._path(place, name))
        if not text:
            raise unreadable(f"{place} {name!r} is empty", "put the secret there, or name another place")
        if place == "credential":
            self.credentials[name] = Secret(text)
        return text

    def _variable(self, name: str) -> str:
        if name not in self._environ:
            raise unreadable(f"the variable {name!r} is not set", f"set {name} where callcast is started")
        text = self._environ[name]
        if not text.isascii() and any("\ud800" <= dead_letter <= "\udfff" for dead_letter in text):
            raise unreadable(f"the variable {name!r} is not text in UTF-8", "set it anew")
        return text

    def _path(self, place: str, name: str) -> Path:
        if place == "file":
            return beside(self.folder, name)
        folder = self._environ.get("CREDENTIALS_DIRECTORY")
        if not folder:
            raise unreadable(
                f"the credential {name!r} cannot be had: $CREDENTIALS_DIRECTORY is not set",
                f"start callcast with systemd and LoadCredential={name}:/path, or use {{ file = ... }}",
            )
        if Path(name).name != name:
            raise unreadable(f"the credential {name!r} is no plain name", "name it without a path")
        return Path(folder) / name

    def _file(self, path: Path) -> str:
        try:
            with path.open("rb") as file:
                raw = file.read(FILE_BYTES_MAX + 1)
            if len(raw) > FILE_BYTES_MAX:
                raise unreadable(f"the file {path} is larger than {FILE_BYTES_MAX} bytes", "is it the right one?")
            return raw.decode().strip("\r\n")
        except OSError as error:
            reason = (error.strerror or type(error).__name__).lower()
            raise unreadable(f"the file {path} cannot be read: {reason}", _remedy(error)) from None
        except ValueError:
            raise unreadable(f"the file {path} is not text in UTF-8", "is it the right one?") from None


def _remedy(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "make the file, or correct the path"
    if isinstance(error, PermissionError):
        return "let the user who runs callcast read it"
    return "name a plain file that holds nothing but the secret"


def located(path: Path, info: ValidationInfo) -> Path:
    """A path of the configuration: `~` is the user's home, a relative one starts beside the configuration's file."""
    return beside(info.context.folder if isinstance(info.context, Keyring) else Path(), path)


def beside(folder: Path, path: Path | str) -> Path:
    """`path` from `folder` on. Raises PydanticCustomError when `~somebody` is nobody."""
    try:
        return folder / Path(path).expanduser()
    except RuntimeError:
        raise unreadable(f"{path}: there is no such user", "write the path in full") from None


def unreadable(problem: str, fix: str) -> PydanticCustomError:
    """The error of a secret that cannot be had; `config` shows both parts."""
    return PydanticCustomError("secret_unreadable", "{problem}", {"problem": problem, "fix": fix})


class Secret:
    """A text that repr, str, JSON and errors never show. Two are equal when their texts are."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __bool__(self) -> bool:
        return bool(self._text)

    def __repr__(self) -> str:
        return f"Secret('{HIDDEN if self._text else ''}')"

    def __str__(self) -> str:
        return HIDDEN if self._text else ""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash((Secret, self._text))

    @classmethod
    def _validate(cls, value: object, info: ValidationInfo) -> Self:
        if isinstance(value, cls):
            return value
        keyring = info.context if isinstance(info.context, Keyring) else None
        if isinstance(value, str):
            text = value
        else:
            place, name = _reference(value)
            if keyring is None:
                raise unreadable(f"{place} {name!r} is read only where a configuration is loaded", "use Secret(...)")
            text = keyring.read(place, name)
        if keyring is not None:
            keyring.seen.add(text)
        return cls(text)

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: type, _handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(
            cls._validate, serialization=core_schema.plain_serializer_function_ser_schema(str)
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, _schema: CoreSchema, _handler: GetJsonSchemaHandler) -> dict[str, Any]:
        places = [
            {
                "type": "object",
                "properties": {place: {"type": "string", "minLength": 1}},
                "required": [place],
                "additionalProperties": False,
            }
            for place in PLACES
        ]
        return {"anyOf": [{"type": "string"}, *places], "writeOnly": True}


def _reference(value: object) -> tuple[str, str]:
    """The place and the name in it. Raises PydanticCustomError for anything that is no reference."""
    if isinstance(value, dict) and len(value) == 1:
        place, name = next(iter(cast("dict[str, object]", value).items()))
        if place in PLACES and isinstance(name, str) and name:
            return place, name
    raise PydanticCustomError("secret_type", "{expected}", {"expected": EXPECTED})
