"""`callcast schema`: print machine-readable descriptions of events, configuration and channels."""

import argparse
import json

from callcast.config.json_schema import config_schema
from callcast.formats.asyncapi import asyncapi
from callcast.formats.event_schema import event_schema


def run(args: argparse.Namespace) -> None:
    documents = {"event": event_schema, "config": config_schema, "asyncapi": asyncapi}
    print(json.dumps(documents[args.what](), indent=2))
