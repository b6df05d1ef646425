"""Secrets: strings that are never shown. The configuration holds the string itself or a reference to it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, cast

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, SecretStr, ValidationInfo
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from callcast.settings.rejection import rejected

HIDDEN = "**********"
FILE_BYTES_MAX = 65_536
PLACES = ("env", "file", "credential")
EXPECTED = 'a string, or { env = "NAME" }, { file = "/path" } or { credential = "name" }'

Stamp = tuple[int, ...]


class Keyring:
    """Reads secrets from environment variables, files and systemd credentials. It is pydantic's validation context.

    folder: relative paths start here.
    credentials: the systemd credentials that were read, by name.
    files: the secret and certificate files that were read, with their stamps.
    seen: the text of every secret, so that reports can be masked before they are shown.
    """

    def __init__(self, environ: Mapping[str, str], folder: Path) -> None:
        self._environ = environ
        self.folder = folder
        self.seen: set[str] = set()
        self.credentials: dict[str, Secret] = {}
        self.files: dict[Path, Stamp] = {}

    def read(self, place: str, name: str) -> str:
        """Return the secret's text. Raises PydanticCustomError if it cannot be read; the error never quotes it."""
        text = self._variable(name) if place == "env" else self._file(self._path(place, name))
        if not text:
            raise rejected(f"{place} {name!r} is empty", "put the secret there, or refer to another place")
        if place == "credential":
            self.credentials[name] = Secret(text)
        return text

    def _variable(self, name: str) -> str:
        if name not in self._environ:
            raise rejected(f"the variable {name!r} is not set", f"set {name} where callcast is started")
        text = self._environ[name]
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            raise rejected(f"the variable {name!r} is not valid UTF-8", "set it again")
        return text

    def _path(self, place: str, name: str) -> Path:
        if place == "file":
            path = beside(self.folder, name)
            self.files[path] = stamp_of(path)
            return path
        folder = self._environ.get("CREDENTIALS_DIRECTORY")
        if not folder:
            raise rejected(
                f"the credential {name!r} is unavailable: $CREDENTIALS_DIRECTORY is not set",
                f"start callcast with systemd and LoadCredential={name}:/path, or use {{ file = ... }}",
            )
        if Path(name).name != name:
            raise rejected(f"the credential {name!r} is not a plain name", "write the name without a path")
        return Path(folder) / name

    def _file(self, path: Path) -> str:
        try:
            with path.open("rb") as file:
                raw = file.read(FILE_BYTES_MAX + 1)
            if len(raw) > FILE_BYTES_MAX:
                problem = f"the file {path} is larger than {FILE_BYTES_MAX} bytes"
                raise rejected(problem, "check that this is the right file")
            return raw.decode().strip("\r\n")
        except UnicodeDecodeError:
            raise rejected(f"the file {path} is not valid UTF-8", "check that this is the right file") from None
        except (OSError, ValueError) as error:
            raise unreadable(path, error) from None


def unreadable(path: Path, error: OSError | ValueError) -> PydanticCustomError:
    """Return the error for a file that cannot be read. A ValueError is that of a path with a NUL character."""
    fix = "use a regular file that contains nothing but the secret or certificate"
    if isinstance(error, FileNotFoundError | ValueError):
        fix = "create the file, or correct the path"
    elif isinstance(error, PermissionError):
        fix = "make it readable for the user that runs callcast"
    reason = (getattr(error, "strerror", None) or "not the path of a file").lower()
    shown = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in str(path))
    return rejected(f"the file {shown} cannot be read: {reason}", fix)


def stamp_of(path: Path) -> Stamp:
    """Differs when the file was written or replaced; empty if it is missing."""
    try:
        stat = path.stat()
    except (OSError, ValueError):
        return ()
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def located(path: Path, info: ValidationInfo) -> Path:
    """Resolve a path: `~` is the user's home, and relative paths start at the configuration file's folder."""
    return beside(info.context.folder if isinstance(info.context, Keyring) else Path(), path)


def beside(folder: Path, path: Path | str) -> Path:
    """Resolve `path` relative to `folder`. Raises PydanticCustomError if the user in `~user` does not exist."""
    try:
        return folder / Path(path).expanduser()
    except RuntimeError:
        raise rejected(f"{path}: no such user", "write the full path") from None


class Secret(SecretStr):
    """A string that repr, str, JSON and errors never show. Secrets compare by their text."""

    def reveal(self) -> str:
        return self.get_secret_value()

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
                raise rejected(f"{place} {name!r} can be read only when loading a configuration", "use Secret(...)")
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
    """Return the kind of place and the name in it. Raises PydanticCustomError if `value` is not a reference."""
    if isinstance(value, dict) and len(value) == 1:
        place, name = next(iter(cast("dict[str, object]", value).items()))
        if place in PLACES and isinstance(name, str) and name:
            return place, name
    raise PydanticCustomError("secret_type", "{expected}", {"expected": EXPECTED})
