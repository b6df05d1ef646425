"""Where the running service listens, and its token, for the commands that ask it something."""

import os
from pathlib import Path
from typing import Any

TOKEN_VARIABLE = "CALLCAST_HTTP_TOKEN"  # noqa: S105 (its name)


def address(path: Path) -> tuple[str, int]:
    """Host and port. The configuration's faults do not matter: the service runs with what it has read.

    Raises ValueError when it names none.
    """
    listen = os.environ.get("CALLCAST_SERVICE__HTTP_LISTEN") or _service(path).get("http_listen", "127.0.0.1:9469")
    host, _, port = str(listen).rpartition(":")
    if not host or not port.isdigit():
        raise ValueError("service.http_listen is no host and port; say --url")
    return _reachable(host.strip("[]")), int(port)


def token(path: Path) -> str:
    """What opens the service's HTTP side, or "". Raises ValueError when the place that holds it cannot be read."""
    given = os.environ.get(TOKEN_VARIABLE) or os.environ.get("CALLCAST_SERVICE__HTTP_TOKEN")
    found = given or _service(path).get("http_token", "")
    if not isinstance(found, dict):
        return str(found)
    from callcast.settings.secret import Keyring

    if len(found) != 1:
        raise ValueError("service.http_token is no secret")
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
    """Every address means: this machine's too."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 (compared, not listened on)
