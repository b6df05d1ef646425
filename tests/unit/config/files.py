"""Configurations that tests write, and what they read of them."""

from collections.abc import Mapping
from pathlib import Path

from callcast.config import ConfigError, Settings, ValidationResult, load, validate

SOURCE = """
[sources.acme]
client_id = "app"
client_secret = "secret-of-the-app"
jwt = "jwt-of-the-user"
"""
STDOUT = """
[sinks.lines]
type = "stdout"
"""
WEBHOOK = """
[sinks.crm]
type = "webhook"
url = "https://crm.example.com/hooks"
secrets = ["whsec_QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFB"]
"""
GOOD = SOURCE + STDOUT


def write(folder: Path, text: str) -> Path:
    path = folder / "callcast.toml"
    path.write_text(text, encoding="utf-8")
    return path


def settings(folder: Path, text: str, environ: Mapping[str, str] | None = None) -> Settings:
    return load(write(folder, text), environ or {})


def verdict(folder: Path, text: str, environ: Mapping[str, str] | None = None) -> ValidationResult:
    return validate(write(folder, text), environ or {})


def report(folder: Path, text: str, environ: Mapping[str, str] | None = None) -> str:
    """The faults as a person reads them; empty when there are none."""
    try:
        settings(folder, text, environ)
    except ConfigError as faults:
        return str(faults)
    return ""
