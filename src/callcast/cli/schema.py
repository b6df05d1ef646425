"""`callcast schema`: what callcast reads and writes, for machines."""

import argparse
import json
from collections.abc import Callable, Mapping
from typing import Any

EPILOG = """\
examples
  callcast schema config > callcast.schema.json      # then, in the file's first line: #:schema ./callcast.schema.json
  callcast schema event > event.schema.json
  callcast schema asyncapi > callcast.formats.asyncapi.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = "Print a description for machines: JSON Schema 2020-12, or AsyncAPI 3."
    parser.epilog = EPILOG
    parser.add_argument(
        "what",
        choices=tuple(_DOCUMENTS),
        help="event: an event as it is sent; config: the configuration file, with the sinks that are installed here; "
        "asyncapi: the webhook and the MQTT topics",
    )


def run(args: argparse.Namespace) -> int:
    print(json.dumps(_DOCUMENTS[args.what](), indent=2))
    return 0


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
