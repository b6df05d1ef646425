"""`callcast schema`: print machine-readable descriptions of events, configuration and channels."""

import argparse
import json
from collections.abc import Callable, Mapping
from typing import Any

from callcast.exit_codes import ExitCode

EPILOG = """\
examples
  callcast schema config > callcast.schema.json      # then start callcast.toml with: #:schema ./callcast.schema.json
  callcast schema event > event.schema.json
  callcast schema asyncapi > callcast.asyncapi.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = "Print a machine-readable description: JSON Schema 2020-12 or AsyncAPI 3."
    parser.epilog = EPILOG
    parser.add_argument(
        "what",
        choices=tuple(_DOCUMENTS),
        help="event: events as they are sent; config: the configuration file, with the sink types installed here; "
        "asyncapi: the webhook and the MQTT topics",
    )


def run(args: argparse.Namespace) -> int:
    print(json.dumps(_DOCUMENTS[args.what](), indent=2))
    return ExitCode.DONE


def _config() -> Mapping[str, Any]:
    from callcast.config.json_schema import config_schema

    return config_schema()


def _event() -> Mapping[str, Any]:
    from callcast.formats.event_schema import event_schema

    return event_schema()


def _asyncapi() -> Mapping[str, Any]:
    from callcast.formats.asyncapi import asyncapi

    return asyncapi()


_DOCUMENTS: Mapping[str, Callable[[], Mapping[str, Any]]] = {"event": _event, "config": _config, "asyncapi": _asyncapi}
