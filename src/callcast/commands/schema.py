"""`callcast schema`: what callcast reads and writes, for machines."""

import argparse
import json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Print the JSON Schema of the configuration, with the sinks that are installed here."
    parser.epilog = "example: callcast schema config > callcast.schema.json"
    parser.add_argument("what", choices=("config",), help="config: the configuration file")


def run(args: argparse.Namespace) -> int:
    del args
    from callcast.config.schema import config_schema

    print(json.dumps(config_schema(), indent=2))
    return 0
