"""Requests to the running service, for the commands that ask it something."""

import argparse
import http.client
import json
import os
import re
import ssl
import tomllib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from callcast.cli.failure import CommandFailed
from callcast.settings.host import is_host

TOKEN_VARIABLE = "CALLCAST_HTTP_TOKEN"  # noqa: S105 (its name)
DEFAULT_LISTEN = "127.0.0.1:9469"
HERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (a wildcard address is reached by loopback)


@dataclass(frozen=True)
class RunningService:
    """Where the service is. Other errors in the configuration do not matter: the service is already running."""

    encrypted: bool
    host: str
    port: int
    path: str = ""
    token: str = ""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.encrypted else 'http'}://{host}:{self.port}{self.path}"

    def get(self, path: str, headers: dict[str, str], timeout_s: float) -> http.client.HTTPResponse:
        """Send a request and return the response, whose body is not read yet. Raises OSError or HTTPException."""
        kind = http.client.HTTPSConnection if self.encrypted else http.client.HTTPConnection
        connection = kind(self.host, self.port, timeout=timeout_s)
        authorization = {"Authorization": f"Bearer {self.token}".encode()} if self.token else {}
        connection.request("GET", f"{self.path}{path}", headers={**headers, **authorization})
        return connection.getresponse()


def service_of(args: argparse.Namespace, *, with_token: bool = False) -> RunningService:
    """Return the service that the arguments and the configuration name. Raises CommandFailed."""
    token = _token(args.config) if with_token else ""
    if args.url is None:
        return RunningService(False, *_address(args.config), token=token)
    try:
        parts = urlsplit(args.url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    schemes = ("http", "https")
    if not host or not is_host(host) or parts.scheme not in schemes or not re.fullmatch("[!-~]*", parts.path):
        raise CommandFailed("--url must be a URL such as http://127.0.0.1:9469")
    encrypted = parts.scheme == "https"
    return RunningService(encrypted, host, port or (443 if encrypted else 80), parts.path.rstrip("/"), token)


def cause_of(error: Exception) -> str:
    """Return why a request failed, in a few words."""
    match error:
        case ssl.SSLCertVerificationError():
            return error.verify_message
        case TimeoutError():
            return "no answer in time"
        case OSError():
            return (error.strerror or type(error).__name__).lower()
    return "the answer is not HTTP"


def _address(path: Path) -> tuple[str, int]:
    listen = os.environ.get("CALLCAST_SERVICE__HTTP_LISTEN") or _service(path).get("http_listen", DEFAULT_LISTEN)
    host, _, port = str(listen).rpartition(":")
    host = host.strip("[]")
    if not is_host(host) or not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65_535:
        raise CommandFailed("service.http_listen is not host and port: correct it, or give the address with --url")
    return HERE.get(host, host), int(port)


def _token(path: Path) -> str:
    """Return the token of the service's HTTP server, or "". Raises CommandFailed, without quoting it."""
    token = _given_token(path)
    if not token.isprintable():
        fix = f"correct service.http_token or ${TOKEN_VARIABLE}"
        raise CommandFailed(f"the token of the service is not one line of text: {fix}")
    return token


def _given_token(path: Path) -> str:
    """Return the token as it is configured. It may be a reference to a secret."""
    found: Any = os.environ.get(TOKEN_VARIABLE)
    if not found and (found := os.environ.get("CALLCAST_SERVICE__HTTP_TOKEN", "")).startswith("{"):
        with suppress(ValueError):
            found = json.loads(found)
    found = found or _service(path).get("http_token", "")
    if not isinstance(found, dict):
        return str(found)
    from callcast.settings.secret import PLACES, Keyring  # imported here because it needs pydantic

    try:
        ((place, name),) = found.items()
        if place not in PLACES:
            raise ValueError("it is not a reference to a secret")
        return Keyring(os.environ, path.parent).read(place, str(name))
    except ValueError as error:
        problem = f"service.http_token cannot be read: {error}"
        raise CommandFailed(f"{problem}: correct it, or set ${TOKEN_VARIABLE}") from None


def _service(path: Path) -> dict[str, Any]:
    try:
        service = tomllib.loads(path.read_text(encoding="utf-8")).get("service", {})
    except (OSError, ValueError):
        return {}
    return service if isinstance(service, dict) else {}
