"""The settings of `[sources.NAME]`: one RingCentral credential and what it watches, and its polling plan."""

import math
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from msgspec import Struct
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from yarl import URL

from callcast.ports.hints import KEEP_ALIVE_S, WITNESSED_S, Via
from callcast.ringcentral.rate_limiter import POLLING_MAX, assumed, polls
from callcast.settings.host import is_host
from callcast.settings.loopback import check_encryption
from callcast.settings.proxy import environment_proxy
from callcast.settings.rejection import expected
from callcast.settings.secret import Secret

# A record stays in the list for at least 120 s after its end; a longer gap between two polls can miss a call.
CYCLE_MAX_S = 100
LIGHT_PER_MINUTE = 50  # documented
PRESENCE_SHARE = 0.5  # of the light group
PRESENCE_TOGETHER = 30  # extensions in one request; the platform's limit
PRESENCE_S = 5.0
PRESENCE_MAX_S = 30.0  # a longer interval would be hardly better than polling
CLIENT_KEYS = (
    *("server", "client_id", "client_secret", "jwt", "watch", "account"),
    *("heavy_per_minute", "headroom", "revoke_on_exit", "allow_plaintext", "trust_env"),
)


def _server(text: str, info: ValidationInfo) -> str:
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host, parts = None, urlsplit("")
    if (
        not host
        or not is_host(host)
        or parts.scheme not in ("http", "https")
        or parts.path not in ("", "/")
        or parts.query
        or "@" in parts.netloc
    ):
        raise expected("scheme and host of the platform, such as https://platform.ringcentral.com", _server_fix(text))
    check_encryption(parts.scheme, host, info, encrypted="https")
    return text.rstrip("/")


def _server_fix(text: str) -> str:
    """Suggest the corrected URL if only the scheme is missing or a path follows the host; else empty."""
    bare = re.fullmatch(r"(https?://)?([A-Za-z0-9.-]+(:[0-9]{1,5})?)(/[^?#@]*)?", text)
    if bare is None or not is_host(bare[2]):
        return ""
    return f'write server = "{bare[1] or "https://"}{bare[2]}"'


def _not_empty(secret: Secret) -> Secret:
    if not secret.reveal().strip():
        raise expected("a string that is not empty")
    return secret


def _id(text: str) -> str:
    if not re.fullmatch(ID, text):
        raise expected('digits, or "~" for the credential\'s own')
    return text


ID = r"~|[0-9]{1,20}"
Id = Annotated[str, AfterValidator(_id), Field(json_schema_extra={"pattern": f"^({ID})$"})]
GivenSecret = Annotated[Secret, AfterValidator(_not_empty)]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]


class SourceSettings(BaseModel):
    """One RingCentral credential and what it watches. Each source has its own rate limit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # Before `server`, whose check needs it.
    allow_plaintext: bool = Field(False, description="true: allow http to a server that is not on this machine")
    server: Annotated[str, AfterValidator(_server)] = Field(
        "https://platform.ringcentral.com", description="scheme and host of the platform; some partners have their own"
    )
    client_id: str = Field(min_length=1, description="the app's client id", examples=["app-client-id"])
    client_secret: GivenSecret = Field(description="the app's client secret", examples=["app-client-secret"])
    jwt: GivenSecret = Field(description="the user's JWT credential", examples=["user-jwt"])
    watch: Literal["extensions", "account"] = Field(
        "extensions",
        description='"account": one request sees every extension; needs a permission for the whole company',
    )
    account: Id = Field("~", description="account id; ~ is the credential's own account")
    extensions: Annotated[tuple[Id, ...], Field(min_length=1, max_length=10_000)] = Field(
        ("~",), description='ids of the extensions to poll, with watch = "extensions"; ~ is the credential\'s own'
    )
    poll_interval_s: Literal["auto"] | Seconds = Field(
        "auto",
        description="seconds between two polls of a target (with hints, at most); auto: as fast as the limit allows",
    )
    hints: Literal["auto", "push", "presence", "off"] = Field(
        "auto",
        description="what makes callcast poll at once: push (a WebSocket), presence, both (auto) or nothing (off)",
    )
    heavy_per_minute: float = Field(
        10,
        gt=0,
        le=10_000,
        allow_inf_nan=False,
        description="requests a minute that RingCentral allows, until its response headers say otherwise",
    )
    headroom: float = Field(
        0.8,
        gt=0,
        le=1,
        allow_inf_nan=False,
        description="share of that budget for polling; one slot in five stays free for the call log",
    )
    accept_blind_spots: bool = Field(False, description="true: accept a polling plan that can miss calls")
    settle_s: Seconds = Field(30, description="a provisional result becomes final after this long")
    call_log_after_s: Seconds = Field(30, description="a vanished call is looked up in the call log after this long")
    vanished_give_up_s: Seconds = Field(900, description="time until a vanished call ends with disposition unknown")
    revoke_on_exit: bool = Field(False, description="true: revoke the access token on a clean stop")
    trust_env: bool = Field(False, description="true: use the proxy of HTTPS_PROXY, HTTP_PROXY and NO_PROXY")

    @field_validator("trust_env")
    @classmethod
    def _proxy_can_be_used(cls, trust_env: bool, info: ValidationInfo) -> bool:
        if trust_env and "server" in info.data:
            environment_proxy(URL(info.data["server"]))
        return trust_env

    @property
    def ways(self) -> Sequence[Via]:
        """The ways of hints that these settings permit. Presence of a whole account does not name its calls."""
        ways: Sequence[Via] = ("push",) if self.watch == "account" else ("push", "presence")
        return tuple(way for way in ways if self.hints in ("auto", way))

    def access(self) -> dict[str, Any]:
        """Return the settings that a client is made from. Any other can change without a new client."""
        return {key: getattr(self, key) for key in CLIENT_KEYS}

    def warnings(self) -> Sequence[tuple[str, str, str]]:
        """Return questionable settings as key, problem and fix, shown by `callcast check`."""
        found = [
            (key, "still has the value from the example", "replace it with your own")
            for key in ("client_id", "client_secret", "jwt")
            if _text(getattr(self, key)) in (type(self).model_fields[key].examples or ())
        ]
        if self.allow_plaintext:
            problem = "credentials and call data may be sent unencrypted"
            found.append(("allow_plaintext", problem, "use https and remove this key"))
        if self.headroom > POLLING_MAX:
            problem = f"polling uses at most {POLLING_MAX:.0%} of the rate limit; the rest is left for the call log"
            found.append(("headroom", problem, f"set it to {POLLING_MAX} or less"))
        if self.watch == "account" and "extensions" in self.model_fields_set:
            problem = 'has no effect with watch = "account"'
            found.append(("extensions", problem, "remove it; sinks can filter by extensions"))
        if self.hints == "presence" and self.watch == "account":
            problem = 'presence is not read with watch = "account", so no hints come'
            found.append(("hints", problem, 'set it to "push" or "auto"'))
        elif self.hints == "presence" and presence_interval_s(len(self.extensions)) > PRESENCE_MAX_S:
            problem = f"presence of {len(self.extensions)} extensions is not read, so no hints come"
            found.append(("hints", problem, 'set it to "push" or "auto"'))
        return found


def _text(value: str | Secret) -> str:
    return value.reveal() if isinstance(value, Secret) else value


class Plan(Struct, frozen=True, kw_only=True):
    """How often a source polls each of its targets within the configured rate limit.

    extensions: how many are polled; None means all extensions of the account.
    cycle_s: seconds between two polls of a target, and so the longest time until a change is detected.
    requests_per_minute: the part of the rate limit (`polls_per_minute`) that polling uses.
    ways: how hints come, if the platform permits it. All other fields are about polling without hints.
    quiet_s: with hints, the seconds until a target is polled although nothing happens.
    witnessed_s: the same for a target whose presence is read; none where it is not.
    presence_s: seconds between two readings of presence; more than `PRESENCE_MAX_S`: it is not read.
    """

    source: str
    watch: str
    extensions: int | None
    interval_s: float | None
    cycle_s: float
    requests_per_minute: float
    polls_per_minute: float
    ways: Sequence[Via]
    quiet_s: float
    witnessed_s: float | None
    presence_s: float

    @property
    def delay_s(self) -> float:
        """The longest time until a change is detected, not counting the platform's own delay."""
        return self.cycle_s

    @property
    def blind(self) -> bool:
        """Whether a call can start and disappear again between two polls without being detected."""
        return self.cycle_s > CYCLE_MAX_S


def plan(name: str, settings: SourceSettings) -> Plan:
    """Return the polling plan of a source, before the platform's headers correct the rate limit."""
    targets = 1 if settings.watch == "account" else len(settings.extensions)
    wish_s = None if settings.poll_interval_s == "auto" else settings.poll_interval_s
    cycle_s = max(targets * _spacing_s(settings), wish_s or 0.0)
    presence_s = presence_interval_s(targets)
    read = "presence" in settings.ways and presence_s <= PRESENCE_MAX_S
    longest_s = math.inf if wish_s is None else wish_s
    return Plan(
        source=name,
        watch=settings.watch,
        extensions=None if settings.watch == "account" else targets,
        interval_s=wish_s,
        cycle_s=cycle_s,
        requests_per_minute=60 * targets / cycle_s,
        polls_per_minute=settings.heavy_per_minute,
        ways=settings.ways,
        quiet_s=max(cycle_s, min(KEEP_ALIVE_S, longest_s)),
        witnessed_s=max(cycle_s, min(WITNESSED_S, longest_s)) if read else None,
        presence_s=presence_s,
    )


def presence_interval_s(extensions: int, spacing_s: float = 60 / (LIGHT_PER_MINUTE * PRESENCE_SHARE)) -> float:
    """Seconds between two readings of the presence of all extensions, where a request takes `spacing_s` on average."""
    return max(PRESENCE_S, math.ceil(extensions / PRESENCE_TOGETHER) * spacing_s)


def plan_fix(settings: SourceSettings) -> tuple[str, str]:
    """Return the key that causes the plan to miss calls, and the fix."""
    if settings.poll_interval_s != "auto" and settings.poll_interval_s > CYCLE_MAX_S:
        return "poll_interval_s", f'set it to {CYCLE_MAX_S} or less, or to "auto"'
    most = math.floor(CYCLE_MAX_S / _spacing_s(settings) + 1e-9)
    if settings.watch == "account" or most == 0:
        return "heavy_per_minute", "raise it" if settings.headroom >= POLLING_MAX else "raise it, or headroom"
    sources = math.ceil(len(settings.extensions) / most)
    fix = (
        f'set watch = "account" (one request covers all extensions), or distribute them over {sources} credentials, '
        f"or watch at most {most} of them"
    )
    return "extensions", fix


def _spacing_s(settings: SourceSettings) -> float:
    limit, window_s = assumed(settings.heavy_per_minute)
    return window_s / polls(limit, settings.headroom)
