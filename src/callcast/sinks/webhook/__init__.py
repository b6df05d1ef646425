"""Posts events over HTTP, signed according to Standard Webhooks; the status of the response decides the outcome."""

import asyncio
import email.utils
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from datetime import UTC
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import aiohttp
from pydantic import AfterValidator, Field, ValidationInfo, field_validator
from yarl import URL

from callcast.formats.cloudevents import Wire
from callcast.formats.standard_webhooks import key_of, signature
from callcast.ports.clock import Clock
from callcast.ports.connectivity import ConnectivityRequest, ConnectivityResult
from callcast.ports.sink import Delivered, Delivery, Outcome, Rejected, Retry, Sink, SinkContext
from callcast.settings.host import is_host
from callcast.settings.loopback import check_encryption
from callcast.settings.proxy import Proxy, environment_proxy
from callcast.settings.rejection import expected
from callcast.settings.secret import Secret
from callcast.sinks import Lax
from callcast.sinks.connectivity import Unreachable, fix_of, try_connecting, unreachable
from callcast.sinks.tls import TlsSettings
from callcast.sinks.webhook.posting import Client, Response, open_client
from callcast.sinks.webhook.presets import FORMATS, Format, FormatName
from callcast.sinks.webhook.zammad import Entries

RETRY_AFTER_MAX_S = 3600.0
SPACING_MAX_S = 5.0  # for a longer pause than this, the event is retried later

_RESERVED = re.compile(
    r"webhook-.*|x-callcast-.*|content-type|content-length|content-encoding|transfer-encoding|"
    r"user-agent|host|connection|expect|upgrade|te|trailer|accept-encoding",
    re.IGNORECASE,
)
_FIXES = {
    "redirect": "set url to the address that it redirects to",
    "gone": "the receiver has removed this address: create a new one there, and set url to it",
    **dict.fromkeys(
        ("http_401", "http_403"), "the receiver rejects the authentication: check secrets and headers on both sides"
    ),
    **dict.fromkeys(("http_404", "http_405"), "check the path of url: it must accept POST"),
    **dict.fromkeys(
        ("http_400", "http_422"),
        "check format and secrets; the receiver must respond with 2xx to event types that it does not know",
    ),
    **dict.fromkeys(("http_413", "http_415"), "check format, and the size and content types that the receiver accepts"),
    "http_429": "the receiver is rate limiting requests: try again later",
    "rate_limited": "the receiver's rate limit is used up; the sink continues when it allows requests again",
}
_PRESET_FIXES = {  # of a product that gets what it documents, unsigned
    **dict.fromkeys(("http_401", "http_403"), "the product rejects this address: check url, and what it allows there"),
    **dict.fromkeys(("http_400", "http_422"), "check that format and url are of the same product"),
}
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[\x21-\x7e\x80-\xff]([\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?")


def _signing(secret: Secret) -> Secret:
    try:
        key_of(secret.reveal())
    except ValueError as error:
        fix = 'generate one with: echo "whsec_$(openssl rand -base64 32)"'
        raise expected(str(error), fix) from None
    return secret


SigningSecret = Annotated[Secret, AfterValidator(_signing)]


class Settings(TlsSettings):
    """Events as HTTP POST requests, signed according to Standard Webhooks."""

    example_name: ClassVar[str] = "crm"

    type: Literal["webhook"] = "webhook"
    url: Secret = Field(description="URL to which events are posted", examples=["https://crm.example.com/hooks/calls"])
    secrets: Annotated[tuple[SigningSecret, ...], Lax] = Field(
        default=(),
        description="signing secrets: whsec_ and base64 of 24 to 64 bytes; each signs; none: unsigned",
        examples=[[{"env": "CRM_SIGNING_SECRET"}]],
    )
    format: FormatName = Field(
        default="cloudevents",
        description="standard: {type, timestamp, data} instead of a CloudEvent; the others: for that product",
    )
    headers: Mapping[str, Secret] = Field(
        default_factory=dict, description="sent with every request", examples=[{"X-Team": "support"}]
    )
    trust_env: bool = Field(default=False, description="true: use the proxy of HTTPS_PROXY, HTTP_PROXY and NO_PROXY")

    defaults_depend_on: ClassVar[tuple[str, ...]] = ("format",)

    @classmethod
    def defaults(cls, table: Mapping[str, Any], /) -> Mapping[str, Any]:
        form = FORMATS.get(table.get("format", "cloudevents"))
        return form.defaults if form else {}

    @field_validator("format")
    @classmethod
    def _signed_if_secrets(cls, name: FormatName, info: ValidationInfo) -> FormatName:
        if info.data.get("secrets") and not FORMATS[name].signed:
            raise ValueError(f"{name} cannot verify signatures: remove secrets")
        return name

    @field_validator("url")
    @classmethod
    def _url_is_safe(cls, secret: Secret, info: ValidationInfo) -> Secret:
        try:
            url = URL(secret.reveal())
        except ValueError:
            raise ValueError("is not a URL; expected https://HOST/PATH") from None
        if url.scheme not in ("http", "https") or not is_host(url.raw_host or ""):
            raise ValueError("expected https://HOST/PATH")
        check_encryption(url.scheme, url.host or "", info, encrypted="https")
        return secret

    @field_validator("headers")
    @classmethod
    def _headers_can_be_sent(cls, headers: Mapping[str, Secret], info: ValidationInfo) -> Mapping[str, Secret]:
        if len({name.lower() for name in headers}) < len(headers):
            raise ValueError("the same header is given twice (case does not matter)")
        for name, value in headers.items():
            if not _HEADER_NAME.fullmatch(name):
                raise ValueError(f"{name!r} is not a header name")
            if _RESERVED.fullmatch(name):
                raise ValueError(f"{name} is set by callcast itself")
            if not _HEADER_VALUE.fullmatch(value.reveal()):
                raise ValueError(f"the value of {name} contains characters that a header cannot have")
            if name.lower() == "authorization" and "url" in info.data and URL(info.data["url"].reveal()).user:
                raise ValueError(f"{name} is also derived from the user and password in url: remove one of the two")
        return headers

    @field_validator("trust_env")
    @classmethod
    def _proxy_can_be_used(cls, trust_env: bool, info: ValidationInfo) -> bool:
        if trust_env and "url" in info.data:
            environment_proxy(URL(info.data["url"].reveal()))
        return trust_env

    def proxy(self) -> Proxy:
        return environment_proxy(URL(self.url.reveal())) if self.trust_env else Proxy()

    def warnings(self) -> Sequence[tuple[str, str, str]]:
        found = list(super().warnings())
        if self.format == "zammad" and self.numbers != "full":
            problem = f"{self.numbers}: Zammad shows every caller as anonymous"
            found.append(("numbers", problem, 'set numbers = "full" to let Zammad find the customer'))
        if not self.secrets and FORMATS[self.format].signed:
            fix = "add secrets = [...], and verify the signature in the receiver"
            found.append(("secrets", "none: the receiver cannot verify who sent an event", fix))
        return found

    @asynccontextmanager
    async def open(self, context: SinkContext, /) -> AsyncIterator[Sink]:
        async with self._client() as client:
            webhook = _Webhook(self, client, context.wire, context.clock, context.version)
            if FORMATS[self.format].one_entry_per_session:
                webhook.entries = Entries(context.wire, context.live_calls, self.filter())
            yield webhook

    async def check_connectivity(self, request: ConnectivityRequest, /) -> ConnectivityResult:
        """Connects and performs the TLS handshake; with `send`, posts a signed `callcast.check`."""
        check = FORMATS[self.format].check
        if not request.send or check is None:
            return await self._reach()
        async with self._client() as client:
            webhook = _Webhook(self, client, Wire(), request.clock, request.version)
            at = request.clock.wall()
            event_id = f"evt_check{at.timestamp() * 1000:.0f}"
            outcome = await webhook.post(event_id, check(event_id, request.name, at), attempt=1)
        if isinstance(outcome, Delivered):
            return ConnectivityResult("good", f"{webhook.where} accepted a callcast.check")
        detail = outcome.detail if outcome.detail.startswith(webhook.where) else f"{webhook.where}: {outcome.detail}"
        return ConnectivityResult("failed", detail, webhook.fix(outcome))

    async def _reach(self) -> ConnectivityResult:
        url, proxy = URL(self.url.reveal()), self.proxy().url
        peer = proxy or url
        where = f"the proxy {proxy.host}" if proxy else f"{url.scheme}://{url.host}"
        tls = self.tls_context() if peer.scheme == "https" else None
        try:
            await try_connecting(peer.host or "", peer.port or 80, tls, timeout_s=self.timeout_s)
        except Unreachable as error:
            return ConnectivityResult("failed", f"{where}: {error.detail}", fix_of(error.reason, error.detail))
        nothing = f"{self.format} has no request for a test"
        more = nothing if FORMATS[self.format].check is None else "add --send to post a test event"
        return ConnectivityResult("good", f"{where} is reachable; {more}")

    def _client(self) -> AbstractAsyncContextManager[Client]:
        headers = {name: value.reveal() for name, value in self.headers.items()}
        url, tls = URL(self.url.reveal()), self.tls_context()
        return open_client(url, self.proxy(), connections=self.concurrency, headers=headers, ssl=tls)


class _Webhook:
    def __init__(self, settings: Settings, client: Client, wire: Wire, clock: Clock, version: str) -> None:
        url = URL(settings.url.reveal())
        self.where = f"{url.scheme}://{url.host}"
        self._client = client
        self._timeout_s = settings.timeout_s
        self._clock = clock
        self.entries: Entries | None = None
        self._wire = wire
        self._format = FORMATS[settings.format]
        self._turn = asyncio.Lock()  # held only by formats with a spacing
        self._next_at_s = 0.0
        self._keys = [key_of(secret.reveal()) for secret in settings.secrets]
        self._headers = {
            "content-type": self._format.content_type,
            "user-agent": f"callcast/{version}",
            "accept-encoding": "identity",
        }
        if url.scheme == "http":  # without a CONNECT to carry them
            self._headers |= settings.proxy().headers or {}

    async def send(self, delivery: Delivery, /) -> Outcome:
        post = partial(self.post, delivery.event.id, attempt=delivery.attempt)
        if self.entries is not None:
            return await self.entries.send(delivery, post)
        return await post(self._format.encode(self._wire, delivery.event))

    async def post(self, event_id: str, body: bytes, *, attempt: int) -> Outcome:
        if not self._format.spacing_s:
            return await self._post(event_id, body, attempt)
        async with self._turn:
            wait_s = self._next_at_s - self._clock.monotonic()
            if wait_s > SPACING_MAX_S:
                return Retry("rate_limited", "the receiver allows no request yet", after_s=wait_s, holds_sink=True)
            await self._clock.sleep(wait_s)
            try:
                return await self._post(event_id, body, attempt)
            finally:
                self._next_at_s = max(self._next_at_s, self._clock.monotonic() + self._format.spacing_s)

    async def _post(self, event_id: str, body: bytes, attempt: int) -> Outcome:
        at = str(int(self._clock.wall().timestamp()))
        headers = {"webhook-id": event_id, "webhook-timestamp": at, "x-callcast-attempt": str(attempt)}
        if self._keys:
            signed = f"{event_id}.{at}.".encode() + body
            headers["webhook-signature"] = " ".join(f"v1,{signature(key, signed)}" for key in self._keys)
        try:
            response = await self._client.post(body, self._headers | headers, timeout_s=self._timeout_s)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            reason, what = _describe(error)
            return Retry(reason, f"{self.where}: {what}")
        if response.exhausted_for and (pause_s := _seconds(response.exhausted_for)):
            self._next_at_s = self._clock.monotonic() + pause_s
        return outcome_of(response, self._clock, self._format)

    def fix(self, outcome: Retry | Rejected, /) -> str:
        fixes = _FIXES if self._format.signed else _FIXES | _PRESET_FIXES
        if outcome.reason in fixes:
            return fixes[outcome.reason]
        if outcome.reason.startswith("http_"):
            return "the receiver reports an error of its own: check its log"
        return fix_of(outcome.reason, outcome.detail)


def outcome_of(response: Response, clock: Clock, form: Format = FORMATS["cloudevents"]) -> Outcome:
    """The outcome of a response. Only permanent errors are rejected; a wrong secret, for example, is retried."""
    status = response.status
    detail = f"answered {status}"
    match status:
        case _ if 200 <= status < 300:
            return Delivered(detail)
        case 413 | 415:
            return Rejected(f"http_{status}", detail)
        case 400 | 422:
            return Rejected(f"http_{status}", detail, unless_alone=True)
        case _ if status in form.deleted:
            return Retry("gone", detail, gone=True)
    delay_s = _retry_after_s(response.retry_after, clock)
    reason = "redirect" if 300 <= status < 400 else f"http_{status}"
    return Retry(reason, detail, after_s=delay_s, holds_sink=delay_s is not None and status in (429, 503))


def _retry_after_s(value: str | None, clock: Clock) -> float | None:
    """Seconds from a number or an HTTP date, at most an hour; None if it is missing, invalid or past."""
    if value is None:
        return None
    delay_s = 0.0
    if re.fullmatch(r"\s*\d{1,10}\s*", value, re.ASCII):
        delay_s = float(value)
    else:
        with suppress(ValueError, OverflowError):
            at = email.utils.parsedate_to_datetime(value)
            at = at if at.tzinfo else at.replace(tzinfo=UTC)
            delay_s = (at - clock.wall()).total_seconds()
    return min(delay_s, RETRY_AFTER_MAX_S) if delay_s > 0 else None


def _seconds(text: str) -> float:
    """Seconds, with fractions, at most an hour; 0 if it is not a number."""
    return min(float(text), RETRY_AFTER_MAX_S) if re.fullmatch(r"\d{1,10}(\.\d{1,10})?", text, re.ASCII) else 0.0


def _describe(error: Exception) -> tuple[str, str]:
    """A label for metrics and a description. Never the library's own text, which may contain the whole URL."""
    match error:
        case aiohttp.ClientProxyConnectionError():
            return "proxy", "the proxy is unreachable"
        case aiohttp.ClientHttpProxyError():
            return "proxy", f"the proxy answered {error.status}"
        case aiohttp.ClientConnectorError():
            failed = unreachable(error)
            return failed.reason, failed.detail
        case aiohttp.ConnectionTimeoutError():
            return "timeout", "no connection in time"
        case TimeoutError():
            return "timeout", "no response in time"
        case aiohttp.ClientResponseError() | aiohttp.ClientPayloadError():
            return "bad_answer", "the response is not HTTP"
    return "disconnected", "the connection was lost before the response"
