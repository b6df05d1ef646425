"""Errors that a validator raises for a value that cannot be used. `config` shows them with the key and its line."""

from pydantic_core import PydanticCustomError


def rejected(problem: str, fix: str = "") -> PydanticCustomError:
    """Return an error that says itself what is wrong with the value."""
    return PydanticCustomError("rejected", "{problem}", {"problem": problem, "fix": fix})


def expected(what: str, fix: str = "") -> PydanticCustomError:
    """Return an error that is shown as `given ..., expected WHAT`."""
    return PydanticCustomError("expected", "{expected}", {"expected": what, "fix": fix})
