"""A good configuration becomes typed settings, with secrets read and overrides by the environment."""

from pathlib import Path
from typing import get_args

import pytest

from callcast.calls import model
from callcast.calls.model import EVENT_TYPES
from callcast.config import ConfigError, load, validate
from callcast.config.partial import sink_filters
from callcast.settings.secret import Secret
from callcast.sinks import Disposition
from callcast.sinks.webhook import Settings as Webhook
from tests.unit.config.files import GOOD, SOURCE, STDOUT, WEBHOOK, report, settings, verdict, write


def test_defaults(tmp_path: Path) -> None:
    """A source and a sink are enough; everything else has the contract's defaults."""
    got = settings(tmp_path, GOOD)
    source = got.sources["acme"]
    assert (source.server, source.watch, source.account) == ("https://platform.ringcentral.com", "extensions", "~")
    assert (source.extensions, source.poll_interval_s, source.heavy_per_minute) == (("~",), "auto", 10)
    assert (source.headroom, source.settle_s, source.call_log_after_s) == (0.8, 30, 30)
    assert (source.vanished_give_up_s, source.revoke_on_exit, source.accept_blind_spots) == (900, False, False)
    service = got.service
    assert (service.retention_h, service.outbox_max_mb, service.dead_letter_days) == (72, 1024, 30)
    assert (service.listen, service.http_open, service.http_token) == (("127.0.0.1", 9469), False, Secret(""))
    assert (service.numbers, service.timezone, service.shutdown_s) == ("last4", "local", 10)
    assert (service.log_level, service.log_format) == ("info", "auto")
    assert got.sinks["lines"].type == "stdout"
    assert got.names == {}


def test_the_contracts_example(tmp_path: Path) -> None:
    """Every key that the contract shows is taken, with secrets from a variable, a file and a credential."""
    (tmp_path / "client_secret").write_text("from-a-file\n")
    (tmp_path / "password").write_text("from-systemd")
    text = """
    [service]
    data_dir = "data"
    http_listen = "[::1]:9470"
    http_token = { env = "CALLCAST_HTTP_TOKEN" }
    hash_key = ""
    [sources.acme]
    client_id = "..."
    client_secret = { file = "client_secret" }
    jwt = { env = "CALLCAST_JWT__OF_ACME" }
    extensions = ["~", "62264425016"]
    poll_interval_s = 0.25
    [sinks.crm]
    type = "webhook"
    url = "https://crm.example.com/hooks/calls"
    secrets = []
    events = ["call.*"]
    headers = { "X-Team" = "support", X-Key = { env = "CALLCAST_HTTP_TOKEN" } }
    [sinks.wallboard]
    type = "mqtt"
    url = "mqtts://broker.example.com:8883"
    username = "callcast"
    password = { credential = "password" }
    [names]
    62264425016 = "Reception"
    """
    environ = {
        "CALLCAST_HTTP_TOKEN": "from-the-environment",
        "CALLCAST_JWT__OF_ACME": "jwt-with-a-free-name",
        "CREDENTIALS_DIRECTORY": str(tmp_path),
    }
    found = verdict(tmp_path, text, environ)
    got = found.settings
    assert got is not None
    assert got.service.data_dir == tmp_path / "data"
    assert got.service.listen == ("::1", 9470)
    assert got.service.http_token.reveal() == "from-the-environment"
    assert got.sources["acme"].client_secret.reveal() == "from-a-file"
    assert got.sources["acme"].jwt.reveal() == "jwt-with-a-free-name"
    assert got.sources["acme"].poll_interval_s == 0.25
    crm = got.sinks["crm"]
    assert isinstance(crm, Webhook)
    assert {name: value.reveal() for name, value in crm.headers.items()} == {
        "X-Team": "support",
        "X-Key": "from-the-environment",
    }
    assert got.names == {"62264425016": "Reception"}
    assert [warning.key for warning in found.warnings] == ["sources.acme.client_id", "sinks.crm.secrets"]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("SERVICE__LOG_LEVEL", "debug", lambda got: got.service.log_level == "debug"),
        ("SERVICE__OUTBOX_MAX_MB", "64", lambda got: got.service.outbox_max_mb == 64),
        ("SERVICE__HTTP_OPEN", "true", lambda got: got.service.http_open is True),
        ("SERVICE__HTTP_TOKEN", "{not json", lambda got: got.service.http_token == Secret("{not json")),
        ("SERVICE__HTTP_TOKEN", '{"env": "HOME"}', lambda got: got.service.http_token == Secret("/home/x")),
        ("SOURCES__ACME__POLL_INTERVAL_S", "auto", lambda got: got.sources["acme"].poll_interval_s == "auto"),
        ("SOURCES__ACME__POLL_INTERVAL_S", "2.5", lambda got: got.sources["acme"].poll_interval_s == 2.5),
        ("SOURCES__ACME__EXTENSIONS", '["1", "2"]', lambda got: got.sources["acme"].extensions == ("1", "2")),
        ("SOURCES__ACME__CLIENT_ID", "12345", lambda got: got.sources["acme"].client_id == "12345"),
        ("SINKS__CRM__TIMEOUT_S", "5", lambda got: got.sinks["crm"].timeout_s == 5),
        ("SINKS__CRM__HEADERS", '{"X-A": "b"}', lambda got: got.sinks["crm"].headers == {"X-A": Secret("b")}),
        ("NAMES__101", "Reception", lambda got: got.names == {"101": "Reception"}),
    ],
)
def test_a_variable_is_typed_by_its_key(tmp_path: Path, name: str, text: str, expected: object) -> None:
    """The same characters become a text, a number, a list or a secret, as the key requires."""
    got = settings(tmp_path, SOURCE + WEBHOOK, {f"CALLCAST_{name}": text, "HOME": "/home/x"})
    assert callable(expected)
    assert expected(got)


def test_a_variable_wins_over_the_file(tmp_path: Path) -> None:
    """The environment takes precedence; what is set only in the file stays."""
    text = SOURCE + WEBHOOK + "timeout_s = 3\nlive_ttl_s = 4\n"
    crm = settings(tmp_path, text, {"CALLCAST_SINKS__CRM__TIMEOUT_S": "5"}).sinks["crm"]
    assert (crm.timeout_s, crm.live_ttl_s) == (5, 4)


def test_a_variable_may_change_the_type_of_a_sink(tmp_path: Path) -> None:
    """The type decides which keys exist, wherever it is set."""
    environ = {"CALLCAST_SINKS__OUT__TYPE": "webhook", "CALLCAST_SINKS__OUT__URL": "https://crm.example.com/"}
    assert settings(tmp_path, SOURCE + "[sinks.out]\n", environ).sinks["out"].type == "webhook"


def test_what_kubernetes_injects_is_harmless(tmp_path: Path) -> None:
    """A Kubernetes service named callcast adds its variables: warnings with the nearest key, never a fault."""
    environ = {
        "CALLCAST_CONFIG": "/etc/callcast/config.toml",
        "CALLCAST_SERVICE_HOST": "10.0.0.1",
        "CALLCAST_SERVICE_PORT": "9469",
        "CALLCAST_SERVICE_PORT_HTTP": "9469",
        "CALLCAST_PORT": "tcp://10.0.0.1:9469",
        "CALLCAST_PORT_9469_TCP": "tcp://10.0.0.1:9469",
        "CALLCAST_PORT_9469_TCP_PROTO": "tcp",
        "CALLCAST_PORT_9469_TCP_PORT": "9469",
        "CALLCAST_PORT_9469_TCP_ADDR": "10.0.0.1",
        "KUBERNETES_SERVICE_HOST": "10.0.0.1",
    }
    found = verdict(tmp_path, GOOD, environ)
    assert found.settings == settings(tmp_path, GOOD)
    assert {one.where for one in found.warnings} == set(environ) - {"CALLCAST_CONFIG", "KUBERNETES_SERVICE_HOST"}
    assert all("CALLCAST_" in one.fix and "__" in one.fix for one in found.warnings)


def test_a_single_underscore_is_reported_with_the_right_name(tmp_path: Path) -> None:
    """The commonest mistake with variables is warned of by the name that was meant."""
    (warning,) = verdict(tmp_path, GOOD, {"CALLCAST_SERVICE_LOG_LEVEL": "debug"}).warnings
    assert warning.fix.endswith("CALLCAST_SERVICE__LOG_LEVEL")


def test_equal_files_give_equal_settings(tmp_path: Path) -> None:
    """A reload compares parts: equal ones are equal, a changed secret makes a difference."""
    first = settings(tmp_path, SOURCE + WEBHOOK + STDOUT)
    same = settings(tmp_path, SOURCE + WEBHOOK + STDOUT)
    other = settings(tmp_path, (SOURCE + WEBHOOK + STDOUT).replace("jwt-of", "another-jwt-of"))
    assert first == same
    assert first.sources != other.sources
    assert first.sinks == other.sinks


def test_the_environment_alone_does_not_fill_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what was handed to `load` counts, never the process's own variables."""
    monkeypatch.setenv("NAMES", '{"1": "x"}')
    monkeypatch.setenv("CALLCAST_SERVICE__LOG_LEVEL", "debug")
    got = settings(tmp_path, GOOD)
    assert (got.names, got.service.log_level) == ({}, "info")


def test_settings_do_not_change(tmp_path: Path) -> None:
    """Frozen: one part of the service cannot change them for the others."""
    got = settings(tmp_path, GOOD)
    for thing, key in ((got, "names"), (got.service, "shutdown_s"), (got.sources["acme"], "jwt")):
        with pytest.raises(ValueError, match="frozen"):
            setattr(thing, key, None)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "no such file"),
        (b"\xff\xfe[\x00", "not valid UTF-8"),
        (b"# x\n" * 300_000, "larger than 1048576 bytes"),
        (b"a = " + b"[" * 5_000, "nested too deep"),
        (b"a = " + b"9" * 5_000, "too many digits"),
    ],
)
def test_a_file_that_cannot_be_read_is_a_fault(tmp_path: Path, content: bytes | None, expected: str) -> None:
    """Trouble with the file itself is reported like every other fault, with its path."""
    path = tmp_path / "callcast.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=expected) as caught:
        load(path, {})
    assert str(path) in str(caught.value)


def test_a_folder_is_not_a_configuration(tmp_path: Path) -> None:
    """`--config /etc/callcast` is a fault and no traceback."""
    with pytest.raises(ConfigError, match="cannot be read: is a directory"):
        load(tmp_path, {})


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    """Windows editors begin files with one."""
    path = write(tmp_path, GOOD)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load(path, {}) == settings(tmp_path, GOOD)


def test_line_numbers_in_a_windows_file(tmp_path: Path) -> None:
    """Lines are counted alike with both kinds of line ends."""
    text = "[service]\nshutdown_s = 5\nlog_levle = 1\n" + GOOD
    path = write(tmp_path, text)
    unix = report(tmp_path, text)
    path.write_bytes(text.replace("\n", "\r\n").encode())
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    assert str(caught.value) == unix
    assert ":3: service.log_levle" in unix


@pytest.mark.parametrize("glob", ["*", "call.*", "source.*", *EVENT_TYPES])
def test_every_event_can_be_asked_for(tmp_path: Path, glob: str) -> None:
    """Each event type, and the globs of the docs, pass as a filter."""
    assert settings(tmp_path, GOOD + f'events = ["{glob}"]\n').sinks["lines"].events == (glob,)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "127.8.8.8"])
def test_plaintext_towards_loopback(tmp_path: Path, host: str) -> None:
    """What never leaves the machine does not need encryption."""
    text = SOURCE + f'server = "http://{host}:8080"\n' + f'[sinks.crm]\ntype = "webhook"\nurl = "http://{host}/"\n'
    assert report(tmp_path, text + f'[sinks.b]\ntype = "mqtt"\nurl = "mqtt://{host}"\n') == ""


def test_plaintext_can_be_allowed_and_is_warned_of(tmp_path: Path) -> None:
    """`allow_plaintext` permits http and mqtt beyond loopback, with a warning."""
    text = SOURCE + 'server = "http://rc.example.com"\nallow_plaintext = true\n'
    text += WEBHOOK.replace("https", "http") + "allow_plaintext = true\n"
    text += '[sinks.b]\ntype = "mqtt"\nurl = "mqtt://broker.example.com"\nallow_plaintext = true\n'
    found = verdict(tmp_path, text)
    assert found.settings is not None
    keys = [one.key for one in found.warnings]
    assert keys == ["sources.acme.allow_plaintext", "sinks.crm.allow_plaintext", "sinks.b.allow_plaintext"]


def test_listening_beyond_loopback_requires_a_token_or_consent(tmp_path: Path) -> None:
    """A token, or `http_open`, opens the page to the network."""
    listen = '[service]\nhttp_listen = "0.0.0.0:9469"\n'
    assert "without http_token" in report(tmp_path, listen + GOOD)
    assert report(tmp_path, listen + 'http_token = "t0ken"\n' + GOOD) == ""
    assert report(tmp_path, listen + "http_open = true\n" + GOOD) == ""


def test_a_sink_may_ask_for_any_extension_where_all_may_be_watched(tmp_path: Path) -> None:
    """With an account watch, or the credential's own extension, the ids are not known beforehand."""
    sink = STDOUT + 'extensions = ["101", "unassigned"]\n'
    assert report(tmp_path, SOURCE + sink) == ""
    assert report(tmp_path, SOURCE + 'watch = "account"\n' + sink) == ""
    assert "no source watches the extension 101" in report(tmp_path, SOURCE + 'extensions = ["102"]\n' + sink)


def test_an_accepted_blind_spot_is_a_warning(tmp_path: Path) -> None:
    """`accept_blind_spots` permits a slow plan; `check` still warns of it."""
    extensions = ", ".join(f'"{number}"' for number in range(100, 118))
    text = SOURCE + f"extensions = [{extensions}]\naccept_blind_spots = true\n" + STDOUT
    found = verdict(tmp_path, text)
    assert found.settings is not None
    (warning,) = found.warnings
    assert "every 135 s" in warning.problem


def test_extensions_with_an_account_watch_are_warned_of(tmp_path: Path) -> None:
    """A list of extensions does nothing beside `watch = "account"`."""
    found = verdict(tmp_path, SOURCE + 'watch = "account"\nextensions = ["101"]\n' + STDOUT)
    assert [one.key for one in found.warnings] == ["sources.acme.extensions"]


def test_names_that_nothing_shows(tmp_path: Path) -> None:
    """A name for an extension that no source watches is a warning, most likely a typing mistake."""
    named = '[names]\n62264425017 = "Desk"\n62264425016 = "Reception"\n5 = "Lobby"\n'
    found = verdict(tmp_path, SOURCE + 'extensions = ["62264425016"]\n' + STDOUT + named)
    assert [(one.key, one.fix) for one in found.warnings] == [
        ("names.62264425017", 'did you mean "62264425016"?'),
        ("names.5", "remove it, or add the extension to a source"),
    ]
    assert verdict(tmp_path, SOURCE + STDOUT + named).warnings == (), "~ may be any extension"
    assert verdict(tmp_path, SOURCE + 'watch = "account"\n' + STDOUT + named).warnings == ()


def test_one_credential_in_two_sources(tmp_path: Path) -> None:
    """They share a rate limit that each plan takes for its own: a warning, since the service copes with it."""
    east = SOURCE.replace("acme", "east") + 'extensions = ["101"]\n'
    (warning,) = verdict(tmp_path, SOURCE + east + STDOUT).warnings
    assert warning.key == "sources.east.jwt"
    assert "source acme" in warning.problem
    assert verdict(tmp_path, SOURCE + east.replace("jwt-of-the-user", "another-jwt") + STDOUT).warnings == ()


def test_mqtt_sinks_side_by_side(tmp_path: Path) -> None:
    """Several are fine as long as each has a topic of its own, or a broker."""
    live_calls = '[sinks.{}]\ntype = "mqtt"\nurl = "mqtts://{}"\ntopic = "{}"\n'
    sinks = live_calls.format("a", "x.example", "callcast") + live_calls.format("b", "x.example", "other")
    assert verdict(tmp_path, SOURCE + sinks + live_calls.format("c", "y.example", "callcast")).errors == ()


@pytest.mark.parametrize(
    ("error", "fix"),
    [
        (PermissionError(13, "Permission denied"), "run this as the user that runs the service, create the folder"),
        (OSError(30, "Read-only file system"), "choose a folder that can be created and written to"),
    ],
)
def test_a_folder_that_cannot_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, fix: str
) -> None:
    """`run` would not start there, so `check` refuses it too."""

    def refuse(_: Path) -> None:
        raise error

    monkeypatch.setattr("callcast.config.checks.try_location", refuse)
    (found,) = validate(write(tmp_path, GOOD), {}, check_folders=True).errors
    assert found.key == "service.data_dir"
    assert found.fix.startswith(fix)


PLACEHOLDERS = ["...", "whsec_...", "<client id>", "changeme", "CHANGE-ME", "your-client-id", "xxxx", "TODO"]


@pytest.mark.parametrize("text", PLACEHOLDERS)
def test_placeholders_are_warned_of(tmp_path: Path, text: str) -> None:
    """A value that was copied from an example is most likely forgotten; its text is not shown."""
    found = verdict(tmp_path, SOURCE.replace('"app"', f'"{text}"') + STDOUT)
    assert [(one.key, one.problem, one.fix) for one in found.warnings] == [
        ("sources.acme.client_id", "is a placeholder", "replace it with your own")
    ]


def test_placeholders_in_lists_and_tables(tmp_path: Path) -> None:
    """Also of a variable, in which case it is named."""
    text = SOURCE + WEBHOOK + 'headers = { "X-Key" = "<key>" }\n'
    found = verdict(tmp_path, text, {"CALLCAST_SOURCES__ACME__CLIENT_ID": "..."})
    assert [(one.where, one.key) for one in found.warnings] == [
        (f"{tmp_path}/callcast.toml:11", "sinks.crm.headers.X-Key"),
        ("CALLCAST_SOURCES__ACME__CLIENT_ID", "sources.acme.client_id"),
    ]


@pytest.mark.parametrize("text", ["app", "x", "a.b", "xx1", "todos", "~"])
def test_ordinary_values_are_no_placeholders(tmp_path: Path, text: str) -> None:
    """Short and odd values are left alone."""
    assert verdict(tmp_path, SOURCE.replace('"app"', f'"{text}"') + STDOUT).warnings == ()


def test_the_dispositions_of_a_filter_are_those_of_calls() -> None:
    """A new disposition can be filtered by."""
    assert get_args(Disposition) == tuple(model.Disposition)


def test_the_format_of_a_webhook_decides_its_defaults(tmp_path: Path) -> None:
    """In the service and in commands that read the filters only, from the file and from a variable."""
    sinks = '[sinks.team]\ntype = "webhook"\nurl = "https://a.example/x"\n'
    path = write(tmp_path, SOURCE + sinks + "dispositions = []\n")
    for environ, events in (({}, ("*",)), ({"CALLCAST_SINKS__TEAM__FORMAT": "slack"}, ("call.ended",))):
        whole, part = load(path, environ).sinks["team"].filter(), sink_filters(path, environ)["team"]
        assert whole == part
        assert (part.events, part.dispositions) == (events, ())
        assert part.directions == (("inbound",) if events != ("*",) else ("inbound", "outbound"))
