"""The address and token of the running service, for the commands that send it requests."""

import os
from pathlib import Path
from typing import Any

TOKEN_VARIABLE = "CALLCAST_HTTP_TOKEN"  # noqa: S105 (its name)


def address(path: Path) -> tuple[str, int]:
    """Return host and port. Other errors in the configuration do not matter: the service is already running.

    Raises ValueError if http_listen is invalid.
    """
    listen = os.environ.get("CALLCAST_SERVICE__HTTP_LISTEN") or _service(path).get("http_listen", "127.0.0.1:9469")
    host, _, port = str(listen).rpartition(":")
    if not host or not port.isdigit():
        raise ValueError("service.http_listen is not host and port: correct it, or give the address with --url")
    return _reachable(host.strip("[]")), int(port)


def token(path: Path) -> str:
    """Return the token of the service's HTTP server, or "". Raises ValueError if it cannot be read."""
    given = os.environ.get(TOKEN_VARIABLE) or os.environ.get("CALLCAST_SERVICE__HTTP_TOKEN")
    found = given or _service(path).get("http_token", "")
    if not isinstance(found, dict):
        return str(found)
    from callcast.settings.secret import Keyring

    if len(found) != 1:
        raise ValueError("service.http_token is not a string or a reference to a secret")
    ((place, name),) = found.items()
    return Keyring(os.environ, path.parent).read(place, str(name))


def _service(path: Path) -> dict[str, Any]:
    import tomllib

    try:
        service = tomllib.loads(path.read_text(encoding="utf-8")).get("service", {})
    except (OSError, ValueError):
        return {}
    return service if isinstance(service, dict) else {}


def _reachable(host: str) -> str:
    """Replace a wildcard address by loopback."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 (compared, not listened on)
