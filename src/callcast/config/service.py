"""The settings of `[service]`: data folder, HTTP server, logging."""

import os
import re
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, available_timezones

from platformdirs import user_data_path
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo

from callcast.config.diagnostics import shown
from callcast.formats.cloudevents import Numbers
from callcast.settings.host import is_host
from callcast.settings.loopback import is_loopback
from callcast.settings.nearest import nearest
from callcast.settings.rejection import expected, rejected
from callcast.settings.secret import Secret, located

_NO_HOME = "\0"  # marks a missing default; not a valid path


def _users_folder() -> Any:
    """Return the default as a string, which is validated like a value from the file."""
    try:
        return str(user_data_path("callcast"))
    except RuntimeError:  # $HOME is not set and the user is not in the user database, as on some container platforms
        return _NO_HOME


def _data_dir(path: Path, info: ValidationInfo) -> Path:
    if str(path) == _NO_HOME:
        problem = f"not set, and there is no default: $HOME is not set, and the user {os.getuid()} has no home"
        raise rejected(problem, 'set data_dir = "/var/lib/callcast", or $HOME')
    if "\0" in str(path):
        raise rejected(f"given {shown(str(path))}, expected the path of a folder")
    return located(path, info)


def _timezone(name: str) -> str:
    if name != "local":
        try:
            ZoneInfo(name)
        except (KeyError, OSError, ValueError):
            known = available_timezones()
            meant = nearest(name, known)
            fix = f'did you mean "{meant}"?' if meant else "" if known else "install the package tzdata"
            problem = f'given {shown(name)}, expected "local" or a name such as "Europe/Berlin"'
            raise rejected(problem, fix) from None
    return name


def split_listen(text: str) -> tuple[str, int]:
    """Split `127.0.0.1:9469` or `[::1]:9469` into host and port. Raises ValueError."""
    match = re.fullmatch(r"\[([0-9A-Fa-f:.]+)\]:([0-9]{1,5})|([^\s:\[\]/@]+):([0-9]{1,5})", text)
    if match is None or int(match[2] or match[4]) > 65_535 or not is_host(match[1] or match[3]):
        raise ValueError('expected host and port, such as "127.0.0.1:9469" or "[::1]:9469"')
    return match[1] or match[3], int(match[2] or match[4])


def _host_too(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool):
        fix = f'write host and port in quotes: http_listen = "127.0.0.1:{value}"'
        raise expected("a string in quotes", fix)
    return value


def _listen(text: str, info: ValidationInfo) -> str:
    host, _ = split_listen(text)
    if not is_loopback(host) and not info.data.get("http_open", True) and not info.data.get("http_token", "?"):
        problem = f"listening on {host} without http_token would expose every call to the network"
        raise rejected(problem, 'set http_token or http_open = true, or listen on "127.0.0.1:9469"')
    return text


def _token(secret: Secret) -> Secret:
    text = secret.reveal()
    if not text.isprintable() or text != text.strip():  # a request could not carry it
        raise expected("a token on one line, without spaces at its ends")
    return secret


_HOST_NAME = r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*"
_HOST_SCHEMA = {"pattern": rf"^({_HOST_NAME}|[0-9A-Fa-f]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*)$"}


def _host(text: str) -> str:
    """Validate a name or an address as in a Host header, without its port."""
    with suppress(ValueError):
        return str(ip_address(text))
    if not re.fullmatch(_HOST_NAME, text):
        raise ValueError('expected a host name without scheme, port or path, such as "callcast.example.com"')
    return text


class ServiceSettings(BaseModel):
    """The settings of the service itself: data folder, HTTP server, logging."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data_dir: Annotated[Path, AfterValidator(_data_dir)] = Field(
        default_factory=_users_folder,
        validate_default=True,
        description="folder of the outbox (default: the platform's folder for user data)",
    )
    retention_h: float = Field(
        72, gt=0, le=24 * 3660, description="how long delivered events are kept for replay and explain"
    )
    outbox_max_mb: int = Field(
        1024, ge=50, le=1_048_576, description="above this size, the oldest undelivered events are dropped"
    )
    dead_letter_days: float = Field(30, gt=0, le=3660, description="how long dead letters are kept")
    # Declared before `http_listen`, whose validator needs both.
    http_token: Annotated[Secret, AfterValidator(_token)] = Field(
        Secret(""), description="if set, required by everything except /healthz and /readyz"
    )
    http_open: bool = Field(False, description="true: allow listening beyond loopback without a token")
    http_listen: Annotated[str, BeforeValidator(_host_too), AfterValidator(_listen)] = Field(
        "127.0.0.1:9469", description="host and port of the wallboard, the metrics and the API"
    )
    http_hosts: tuple[Annotated[str, AfterValidator(_host), Field(json_schema_extra=_HOST_SCHEMA)], ...] = Field(
        (), description="additional names to accept in the Host header without a token"
    )
    numbers: Numbers = Field(
        "last4", description="phone numbers on the wallboard, in /api and in tail: full, last4, hash or drop"
    )
    hash_key: Secret = Field(
        Secret(""), description='secret for numbers = "hash" (default: generated once, in data_dir/hash.key)'
    )
    timezone: Annotated[str, AfterValidator(_timezone)] = Field(
        "local", description="time zone of daily statistics: local, or a name such as Europe/Berlin"
    )
    sla_seconds: float = Field(
        20, gt=0, le=3600, description="service level on the wallboard and in /api/summary: answered within this time"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="debug, info, warning or error")
    log_format: Literal["auto", "console", "json"] = Field(
        "auto", description="auto: console on a terminal, JSON otherwise"
    )
    shutdown_s: float = Field(
        10, ge=0, le=600, description="how long to wait for deliveries in flight when the service stops"
    )

    @property
    def listen(self) -> tuple[str, int]:
        """The host and port of `http_listen`."""
        return split_listen(self.http_listen)
