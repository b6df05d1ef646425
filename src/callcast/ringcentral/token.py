"""The access token: exchanged for the JWT, kept until a minute before its end, never asked for more than needed.

Sources: developers.ringcentral.com/guide/authentication/jwt-flow, /refresh-tokens, /tokens.
"""

import asyncio
from base64 import b64encode
from contextlib import suppress

import msgspec

from callcast.core.clock import Clock
from callcast.core.upstream import LookFailed
from callcast.ringcentral.budget import Budget
from callcast.ringcentral.exchange import Answer, Exchange
from callcast.ringcentral.refusals import token_failure
from callcast.secret import Secret

TOKEN_PATH = "/restapi/oauth/token"  # noqa: S105 - an address
REVOKE_PATH = "/restapi/oauth/revoke"
JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
ASK_TIMEOUT_S = 10.0
REVOKE_TIMEOUT_S = 5.0
RENEWED_BEFORE_S = 60.0
REQUESTS_PER_MINUTE = 3
REFUSED_WAIT_S = 300.0  # a wrong credential does not become right by itself
TROUBLE_WAIT_S = 10.0  # documented for 408, 500 and no answer
LIFETIME_MAX_S = 86_400.0


class _Granted(msgspec.Struct, frozen=True):
    access_token: str
    expires_in: float
    refresh_token: str | None = None
    refresh_token_expires_in: float | None = None
    owner_id: str | int | None = None


class Tokens:
    """One credential's token. `current()` and `renew()` raise LookFailed, without a request where one is no use."""

    def __init__(
        self,
        exchange: Exchange,
        budget: Budget,
        *,
        client_id: str,
        client_secret: Secret,
        jwt: Secret,
        clock: Clock,
    ) -> None:
        self._exchange = exchange
        self._budget = budget
        self._client_id = client_id
        self._client_secret = client_secret
        self._jwt = jwt
        self._clock = clock
        self._one_at_a_time = asyncio.Lock()
        self._token: Secret | None = None
        self._renew_at = 0.0
        self._refresh: Secret | None = None
        self._refresh_until = 0.0
        self._failure: LookFailed | None = None
        self._failing_until = 0.0
        self.owner_id: str | None = None

    async def current(self) -> Secret:
        """A token that is good for a minute at least, as far as is known."""
        if self._token is not None and self._clock.monotonic() < self._renew_at:
            return self._token
        return await self.renew(self._token)

    async def renew(self, old: Secret | None) -> Secret:
        """Another token than `old`; whoever comes while it is asked for gets the same."""
        async with self._one_at_a_time:
            if self._token is not None and self._token != old:
                return self._token
            self._token = None
            return await self._ask()

    async def revoke(self) -> None:
        """End the platform's session. Whether it worked is of no use to anybody: it ends by itself too."""
        token, self._token = self._token, None
        if token is None:
            return
        with suppress(LookFailed, TimeoutError):
            async with asyncio.timeout(REVOKE_TIMEOUT_S), self._budget.turn("token", REVOKE_PATH):
                await self._post(REVOKE_PATH, {"token": token.reveal()}, REVOKE_TIMEOUT_S)

    async def _ask(self) -> Secret:
        self._fail_early()
        if self._refresh is not None and self._clock.monotonic() < self._refresh_until:
            refresh, self._refresh = self._refresh, None  # good for one use only
            with suppress(LookFailed):
                return await self._grant({"grant_type": "refresh_token", "refresh_token": refresh.reveal()})
            if self._failure is not None and self._failure.reason != "auth":
                raise self._failure
            self._failure = None
            self._fail_early()
        return await self._grant({"grant_type": JWT_BEARER, "assertion": self._jwt.reveal()})

    def _fail_early(self) -> None:
        """The last failure stands until asking again is of use; and three requests a minute must do."""
        now = self._clock.monotonic()
        if self._failure is not None and now < self._failing_until:
            raise _again(self._failure, self._failing_until - now)
        wait_s = self._budget.wait_s("token")
        if wait_s > 0 and self._budget.hold_s() > 0:
            raise LookFailed("rate_limited", "the token endpoint wants silence", retry_after_s=wait_s)
        if wait_s > 0:
            raise LookFailed("auth", "the token requests of this minute are used up", retry_after_s=wait_s)

    async def _grant(self, form: dict[str, str]) -> Secret:
        try:
            granted = await self._request(form)
        except LookFailed as failure:
            self._remember(failure)
            raise
        now = self._clock.monotonic()
        lifetime_s = min(max(granted.expires_in, 0.0), LIFETIME_MAX_S)
        self._failure = None
        self._token = Secret(granted.access_token)
        self._renew_at = now + max(lifetime_s - RENEWED_BEFORE_S, lifetime_s / 2)
        if granted.refresh_token:
            self._refresh = Secret(granted.refresh_token)
            self._refresh_until = now + (granted.refresh_token_expires_in or LIFETIME_MAX_S)
        self.owner_id = str(granted.owner_id) if granted.owner_id is not None else self.owner_id
        return self._token

    async def _request(self, form: dict[str, str]) -> _Granted:
        async with self._budget.turn("token", TOKEN_PATH) as turn:
            answer = await self._post(TOKEN_PATH, form, ASK_TIMEOUT_S)
            retry_after_s = turn.answered(answer.status, answer.headers)
        if answer.status != 200:
            raise token_failure(answer, retry_after_s=retry_after_s)
        try:
            return msgspec.json.decode(answer.body, type=_Granted)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise LookFailed(
                "parse", "the token endpoint's answer cannot be read", request_id=answer.request_id
            ) from None

    def _remember(self, failure: LookFailed) -> None:
        wait_s = REFUSED_WAIT_S if failure.reason == "auth" else TROUBLE_WAIT_S
        self._failure = failure
        self._failing_until = self._clock.monotonic() + max(wait_s, failure.retry_after_s or 0.0)

    async def _post(self, path: str, form: dict[str, str], timeout_s: float) -> Answer:
        pair = f"{self._client_id}:{self._client_secret.reveal()}"
        basic = "Basic " + b64encode(pair.encode()).decode()
        return await self._exchange.post(
            "token", self._exchange.url(path), authorization=basic, form=form, timeout_s=timeout_s
        )


def _again(failure: LookFailed, wait_s: float) -> LookFailed:
    return LookFailed(
        failure.reason, failure.said, remedy=failure.remedy, retry_after_s=wait_s, request_id=failure.request_id
    )
