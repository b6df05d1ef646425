"""The platform's own schemas, to hold what we render against."""

import json
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator

from tests import TESTS

SLICES = TESTS / "openapi"
# Seen in production records, and not in the API's enum.
SEEN_LEG_TYPES = ("SipToSip",)


@cache
def validator(slice_name: str, schema: str) -> Draft202012Validator:
    """The validator of one schema of a slice; its references point into the same slice."""
    document: dict[str, Any] = json.loads((SLICES / f"{slice_name}.json").read_text())
    schemas = document["components"]["schemas"]
    if "CallLegTypeEnum" in schemas:
        schemas["CallLegTypeEnum"]["enum"] += SEEN_LEG_TYPES
    return Draft202012Validator({"$ref": f"#/components/schemas/{schema}", "components": document["components"]})


def faults(slice_name: str, schema: str, body: object) -> list[str]:
    found = validator(slice_name, schema).iter_errors(body)
    return [f"{'/'.join(map(str, fault.absolute_path))}: {fault.message}" for fault in found]
