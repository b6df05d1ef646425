"""`callcast healthcheck`: check the health of the running service. For containers and scripts."""

import argparse
import http.client

from callcast.cli.failure import CommandFailed
from callcast.cli.running_service import cause_of, service_of
from callcast.exit_codes import ExitCode

TIMEOUT_S = 5.0
ANSWER_BYTES_MAX = 65_536


def run(args: argparse.Namespace) -> None:
    service, path = service_of(args), "/readyz" if args.ready else "/healthz"
    try:
        response = service.get(path, {}, TIMEOUT_S)
        answer = response.read(ANSWER_BYTES_MAX).decode(errors="replace").strip()
    except (OSError, http.client.HTTPException) as error:
        problem = f"{service}{path}: {cause_of(error)}: check that the service is running (callcast run)"
        raise CommandFailed(problem, ExitCode.UNAVAILABLE) from error
    if response.status != http.client.OK:  # for container runtimes every code except 0 is unhealthy
        raise CommandFailed(f"{service}{path}: {response.status} {answer}", ExitCode.UNAVAILABLE)
