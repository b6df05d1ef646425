"""The access token of a credential: obtained with the JWT, renewed before it expires, requested as rarely as possible.

Sources: developers.ringcentral.com/guide/authentication/jwt-flow, /refresh-tokens, /tokens.
"""

import asyncio
import math
from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime

import msgspec

from callcast.observability.fatal import observed
from callcast.ports.clock import Clock
from callcast.ports.upstream import PollFailed
from callcast.ringcentral.errors import token_failure
from callcast.ringcentral.http import Answer, Exchange
from callcast.ringcentral.rate_limiter import RateLimiter, Slot
from callcast.ringcentral.settings import SourceSettings
from callcast.ringcentral.sign_in import LIFETIME_MAX_S, Held, SignIns, Standing, credential_digest
from callcast.settings.secret import Secret

TOKEN_PATH = "/restapi/oauth/token"  # noqa: S105 - an address
REVOKE_PATH = "/restapi/oauth/revoke"
JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
ASK_TIMEOUT_S = 10.0
REVOKE_TIMEOUT_S = 5.0
REFUSED_WAIT_S = 300.0  # an invalid credential stays invalid until it is changed
TROUBLE_WAIT_S = 10.0  # documented for 408, 500 and no answer
NEW_REFUSED_WAIT_S = 60.0  # wait before renewing a new token that is rejected as well; doubles each time
NEW_REFUSED_WAIT_MAX_S = 300.0


class _Granted(msgspec.Struct, frozen=True):
    access_token: str
    expires_in: float
    refresh_token: str | None = None
    refresh_token_expires_in: float | None = None
    owner_id: str | int | None = None


class Tokens:
    """The token of one credential. `current()` and `renewed()` raise PollFailed, if futile without a request.

    now: returns the platform's time. show: called when the platform has announced the limit of token requests.
    """

    def __init__(
        self,
        exchange: Exchange,
        sign_ins: SignIns,
        settings: SourceSettings,
        *,
        clock: Clock,
        now: Callable[[], datetime],
        show: Callable[[RateLimiter], None] = lambda _: None,
    ) -> None:
        self._exchange = exchange
        self._sign_ins = sign_ins
        self.credential = credential_digest(settings)
        self.now = now
        self.show = show
        self._settings = settings
        self._clock = clock
        self._renewal: asyncio.Task[None] | None = None
        self._slot: Slot | None = None  # of the renewal in progress
        self._refresh: Secret | None = None
        self._refresh_until = 0.0
        self._refusal: Standing | None = None  # of this credential
        self._failing_from_grant: int | None = None  # how many tokens the application had been given when that began
        self._own_trouble = 0  # failures in a row while others were given tokens, at most as many as count
        self._new_refused = 0  # consecutive new tokens that were rejected
        self._application = sign_ins.application(settings)
        self._application.join(self)

    @property
    def _held(self) -> Held | None:
        """The token, if it has not expired. Sources with the same credential share it."""
        return self._sign_ins.held(self.credential)

    @property
    def signed_in(self) -> bool:
        return self._held is not None

    @property
    def owner_id(self) -> str | None:
        return self._held.owner_id if self._held else None

    @property
    def oauth_session(self) -> int | None:
        """The number of the OAuth session of the current token, none without a token. A refresh keeps the session."""
        return self._held.session if self._held else None

    def push_wait_s(self) -> float:
        """Return the seconds until a wstoken can be requested, if no other source waits for one."""
        return self._application.limiter.wait_s("push_token")

    def push_slot(self) -> Slot:
        """Return a slot for a wstoken: from what the application's access tokens leave, and never beside one."""
        return self._application.limiter.acquire("push_token", TOKEN_PATH)

    @property
    def may_ask(self) -> bool:
        """Whether a token request could be sent at once, without delaying another source."""
        limiter = self._application.limiter
        return limiter.wait_s("token") <= 0 and not limiter.waits

    def ahead(self) -> int | None:
        """How many sign in before this credential.

        None: it has a token, does not wait for its place, or the token endpoint is in trouble.
        """
        if self._slot is None or self._application.trouble or self._held:
            return None
        return self._application.limiter.ahead(self._slot)

    def waits_until(self) -> float | None:
        """Until when it only waits for its place; None where `ahead` is none. A request that hangs is no such wait."""
        if self.ahead() is None:
            return None
        under_way_since = self._application.limiter.under_way_since
        return self._clock.monotonic() if under_way_since is None else under_way_since

    def _waits_for_place(self) -> bool:
        return self._slot is not None and self._application.limiter.ahead(self._slot) is not None

    def failing(self) -> tuple[PollFailed, float] | None:
        """Return why the token could not be renewed in time, and for how many seconds it remains valid."""
        held, now = self._held, self._clock.monotonic()
        standing = self._refusal or self._application.trouble
        if held is None or standing is None or now < held.renew_at:
            return None
        return standing.failure, held.expires_at - now

    async def current(self) -> Secret:
        """Return a valid token. Waits for a slot and signs in if there is none."""
        held = self._held
        if held is None:
            held = await self._given()
        elif self._clock.monotonic() >= held.renew_at and not self._pause_s():
            self._renew(held)  # in the background: requests use the old token until it expires
        return held.token

    async def renewed(self, refused: Secret) -> bool:
        """After a 401: get another token and return true. Returns false if a new token was rejected as well."""
        held = self._held
        if held is not None and held.token == refused:
            if self._clock.monotonic() < held.renew_again_at:
                return False
            self._sign_ins.forget(self.credential)
            if self._waits_for_place():
                await self._stop_renewal()  # it waits with the priority of a credential that still has a token
        await self._given()
        return True

    def answered(self, token: Secret, *, refused: bool) -> None:
        """Note whether the platform accepted a token."""
        held = self._held
        if held is None or held.token != token:
            return
        if not refused:
            self._new_refused = 0
        elif not held.refused:
            wait_s = min(NEW_REFUSED_WAIT_S * 2.0 ** min(self._new_refused, 10), NEW_REFUSED_WAIT_MAX_S)
            held.renew_again_at = self._clock.monotonic() + wait_s
            self._new_refused += 1
            self._sign_ins.refuse(held)

    async def revoke(self) -> None:
        """End the platform's session, unless another source uses the token. If that fails, it ends when it expires."""
        held = self._held
        if held is None or self._application.uses(self.credential):
            return
        self._sign_ins.forget(self.credential)
        with suppress(PollFailed, TimeoutError):
            async with asyncio.timeout(REVOKE_TIMEOUT_S), self._application.acquire(REVOKE_PATH, math.inf):
                await self._post(REVOKE_PATH, {"token": held.token.reveal()}, REVOKE_TIMEOUT_S)

    async def close(self) -> None:
        self._application.leave(self)
        await self._stop_renewal()

    def give_up(self) -> None:
        if self._renewal is not None and self._waits_for_place():
            self._renewal.cancel()

    # Renewal

    async def _given(self) -> Held:
        """Return the current token, or a new one. Concurrent callers share one request."""
        while (held := self._held) is None:
            if pause_s := self._pause_s():
                raise self._failed(pause_s)
            await asyncio.wait((self._renew(None),))
        return held

    def _pause_s(self) -> float:
        """Return the seconds until another token request makes sense."""
        now = self._clock.monotonic()
        standing = [one.until - now for one in (self._refusal, self._application.trouble) if one]
        return max(0.0, self._application.limiter.hold_s(), *standing)

    def _failed(self, pause_s: float) -> PollFailed:
        now = self._clock.monotonic()
        for standing in (self._refusal, self._application.trouble):
            if standing is not None and now < standing.until:
                failure = standing.failure
                return PollFailed(
                    failure.reason,
                    failure.cause,
                    fix=failure.fix,
                    retry_after_s=pause_s,
                    request_id=failure.request_id,
                )
        return PollFailed("rate_limited", "rate limited; token requests paused", retry_after_s=pause_s)

    def _renew(self, old: Held | None) -> asyncio.Task[None]:
        """Return the renewal in progress, or start one. Raises unexpected exceptions of the previous one."""
        if self._renewal is not None and self._renewal.done():
            renewal, self._renewal = self._renewal, None
            if not renewal.cancelled():
                renewal.result()
        if self._renewal is None:
            self._renewal = observed(asyncio.create_task(self._sign_in(old)))
        return self._renewal

    async def _stop_renewal(self) -> None:
        renewal, self._renewal = self._renewal, None
        if renewal is not None:
            renewal.cancel()
            await asyncio.wait((renewal,))

    async def _sign_in(self, old: Held | None) -> None:
        """Get a token other than `old`, or record a failure that applies for some time."""
        if self._pause_s():
            return  # the endpoint failed before this task started
        try:
            if not await self._refreshed(old):
                await self._grant(old, {"grant_type": JWT_BEARER, "assertion": self._settings.jwt.reveal()})
        except PollFailed as failure:
            self._sign_in_failed(failure)

    def _sign_in_failed(self, failure: PollFailed) -> None:
        """Trouble is the token endpoint's, unless other credentials were given tokens since this one began to fail.

        Its own trouble keeps only this one waiting, twice as long each time, so that it takes few of their places.
        """
        application, asked_s = self._application, failure.retry_after_s or 0.0

        def standing(wait_s: float) -> Standing:
            return Standing(failure, self._clock.monotonic() + max(wait_s, asked_s))

        if failure.reason == "auth":
            self._refusal = standing(REFUSED_WAIT_S)
        elif failure.reason == "rate_limited":
            application.troubled(standing(TROUBLE_WAIT_S))
        elif self._failing_from_grant is not None and application.grants > self._failing_from_grant:
            self._own_trouble = min(self._own_trouble + 1, 10)
            self._refusal = standing(min(TROUBLE_WAIT_S * 2.0**self._own_trouble, REFUSED_WAIT_S))
        else:
            self._failing_from_grant = application.grants
            if application.is_shared:
                self._refusal = standing(2 * TROUBLE_WAIT_S)  # another one goes first, and shows whose trouble it is
            application.troubled(standing(TROUBLE_WAIT_S))

    async def _refreshed(self, old: Held | None) -> bool:
        """Try the refresh token, if the app issues them. It is valid for one use. Returns whether it worked."""
        refresh, self._refresh = self._refresh, None
        if refresh is None or self._clock.monotonic() >= self._refresh_until:
            return False
        try:
            await self._grant(old, {"grant_type": "refresh_token", "refresh_token": refresh.reveal()})
        except PollFailed as failure:
            if failure.reason != "auth":
                raise
            return False
        return True

    async def _grant(self, old: Held | None, form: dict[str, str]) -> None:
        self._slot = self._application.acquire(TOKEN_PATH, old.expires_at if old else -math.inf)
        try:
            async with self._slot as slot:
                # Another source with the same credential may have signed in meanwhile.
                renewed = self._held not in (old, None)
                if renewed or self._pause_s():
                    slot.unused()
                    return
                answer = await self._post(TOKEN_PATH, form, ASK_TIMEOUT_S)
                retry_after_s = slot.answered(answer.status, answer.headers)
        finally:
            self._slot = None
        if answer.status != 200:
            raise token_failure(answer, retry_after_s=retry_after_s)
        try:
            granted = msgspec.json.decode(answer.body, type=_Granted)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise PollFailed(
                "parse", "the token endpoint's answer cannot be read", request_id=answer.request_id
            ) from None
        self._refusal = self._application.trouble = self._failing_from_grant = None
        self._own_trouble = 0
        self._application.grants += 1
        owner_id = None if granted.owner_id is None else str(granted.owner_id)
        refreshed = old if form["grant_type"] == "refresh_token" else None
        self._sign_ins.keep(self.credential, granted.access_token, owner_id, granted.expires_in, refreshed=refreshed)
        if granted.refresh_token:
            self._refresh = Secret(granted.refresh_token)
            self._refresh_until = self._clock.monotonic() + (granted.refresh_token_expires_in or LIFETIME_MAX_S)

    async def _post(self, path: str, form: dict[str, str], timeout_s: float) -> Answer:
        pair = f"{self._settings.client_id}:{self._settings.client_secret.reveal()}"
        basic = "Basic " + b64encode(pair.encode()).decode()
        return await self._exchange.ask(
            "token", self._exchange.url(path), authorization=basic, form=form, timeout_s=timeout_s
        )
