"""`callcast healthcheck`: check the health of the running service. For containers and scripts."""

import argparse
import http.client
import sys
from urllib.parse import urlsplit

from callcast.cli import running_service as running
from callcast.exit_codes import ExitCode

TIMEOUT_S = 5.0
ANSWER_BYTES_MAX = 65_536


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Exit with 0 if /healthz of the running service answers 200, otherwise with 69 and the reason. The service's "
        "address is read from the configuration, or given by --url."
    )
    parser.epilog = "example: callcast healthcheck --ready --url http://127.0.0.1:9469"
    parser.add_argument("--ready", action="store_true", help="check /readyz instead: every source was polled recently")
    parser.add_argument("--url", help="base URL of the service, such as http://127.0.0.1:9469")


def run(args: argparse.Namespace) -> int:
    try:
        host, port = _address(args.url) if args.url else running.address(args.config)
    except ValueError as error:
        print(error, file=sys.stderr)
        return ExitCode.USAGE
    path = "/readyz" if args.ready else "/healthz"
    try:
        status, answer = _ask(host, port, path)
    except (OSError, http.client.HTTPException) as error:
        print(f"{path}: no answer from {host}:{port}: {_why(error)}", file=sys.stderr)
        return ExitCode.UNAVAILABLE
    if status == http.client.OK:
        return ExitCode.DONE
    print(f"{path}: {status} {answer.strip()}", file=sys.stderr)
    return ExitCode.UNAVAILABLE


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError("callcast healthcheck: --url must be a URL such as http://127.0.0.1:9469")
    return parts.hostname, parts.port or 80


def _why(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()


def _ask(host: str, port: int, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read(ANSWER_BYTES_MAX).decode(errors="replace")
    finally:
        connection.close()
