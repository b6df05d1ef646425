"""Whatever a file and an environment hold: settings, or faults that can be read. Never anything else."""

import string
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callcast.config import ConfigError, load, validate
from callcast.config.service import ServiceSettings
from callcast.ringcentral.settings import SourceSettings
from callcast.sinks.mqtt import Settings as Mqtt
from callcast.sinks.webhook import Settings as Webhook

KEYS = sorted(
    {*ServiceSettings.model_fields, *SourceSettings.model_fields, *Webhook.model_fields, *Mqtt.model_fields, "x", "é"}
)
HEADERS = [
    "[service]",
    "[sources.a]",
    "[sources.B-c]",
    "[sinks.w]",
    "[sinks.m]",
    "[names]",
    "[sources]",
    "[[sinks]]",
    "[x]",
]
TYPES = ['type = "webhook"', 'type = "mqtt"', 'type = "stdout"', "type = 1"]
VALUES = [
    *('""', '"x"', '"~"', '"101"', '"auto"', '"account"', '"https://a.example/b?c"', '"mqtts://u:p@h:1"', '"http://["'),
    *(
        '"whsec_YWFh"',
        '"call.*"',
        '"[::1]:99"',
        '"0.0.0.0:80"',
        '"Europe/Paris"',
        '"../../x"',
        '"~unknown/x"',
        '"\\u0000"',
    ),
    *("0", "1", "-1", "0.5", "1e400", "-inf", "nan", "99999999999999999999999", "true", "1979-05-27", "07:32:00"),
    *("[]", '["101", "101"]', "[1, [2, {}]]", '["call.*"]', "{}", '{ env = "A" }', '{ file = "\\u0000" }'),
    *(
        '{ file = "/dev/null" }',
        '{ file = "/dev/zero" }',
        '{ credential = ".." }',
        '{ "X-A" = "b", "x-a" = { env = "A" } }',
    ),
]
LINES = st.one_of(
    st.sampled_from(HEADERS),
    st.sampled_from(TYPES),
    st.builds(lambda key, value: f'"{key}" = {value}', st.sampled_from(KEYS), st.sampled_from(VALUES)),
)
GOOD = [
    *("[sources.a]", 'client_id = "a"', 'client_secret = "b"', 'jwt = "c"', "[sinks.s]", 'type = "stdout"'),
    *("[sinks.w]", 'type = "webhook"', 'url = "https://x.example/"'),
]
NAMES = st.one_of(
    st.builds(lambda key: f"CALLCAST_SINKS__W__{key.upper()}", st.sampled_from(KEYS)),
    st.builds(lambda key: f"CALLCAST_SOURCES__A__{key.upper()}", st.sampled_from(KEYS)),
    st.builds(lambda key: f"CALLCAST_SERVICE__{key.upper()}", st.sampled_from(KEYS)),
    st.text(string.ascii_uppercase + "_", max_size=12).map("CALLCAST_".__add__),
    st.just("A"),
)
TEXTS = st.sampled_from([value.strip('"') for value in VALUES]) | st.text(max_size=12) | st.just("\udcff")
ENVIRON = st.dictionaries(NAMES, TEXTS, max_size=5)


def examined(content: bytes, environ: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "callcast.toml"
        path.write_bytes(content)
        result = validate(path, environ)
        assert (result.settings is None) == bool(result.errors)
        assert all(one.where and one.problem and str(one) for one in (*result.errors, *result.warnings))
        if result.settings is not None:
            assert load(path, environ) == result.settings
            return
        with pytest.raises(ConfigError) as caught:
            load(path, environ)
        assert caught.value.findings == result.errors


@given(st.binary(max_size=60))
def test_any_bytes(content: bytes) -> None:
    """Bytes of no meaning are a fault."""
    examined(content, {})


@given(st.lists(LINES, max_size=12), st.booleans(), ENVIRON)
def test_any_lines(lines: list[str], beside_good: bool, environ: dict[str, str]) -> None:
    """Known keys with any values, in any table, beside good ones or alone, under any environment."""
    unique = list(dict.fromkeys([*(GOOD if beside_good else []), *lines]))
    examined("\n".join(unique).encode(), environ)


@given(st.sampled_from(KEYS), st.sampled_from(VALUES), st.sampled_from(HEADERS[:5]), ENVIRON)
def test_one_wrong_thing(key: str, value: str, header: str, environ: dict[str, str]) -> None:
    """One key with any value, at any place of a good file."""
    lines = (
        ["\n".join(GOOD), header, f'"{key}" = {value}']
        if header not in GOOD
        else ["\n".join(GOOD).replace(header, f'{header}\n"{key}" = {value}')]
    )
    examined("\n".join(lines).encode(), environ)
