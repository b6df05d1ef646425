"""Credentials, the token exchange, and the limit of five sessions."""

import base64
import hashlib
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from itertools import count
from typing import Any

from msgspec import Struct, field

from callcast.simulator.answers import api_refusal, oauth_refusal

JWT_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
REFRESH_TTL = timedelta(days=7)
# A refresh token that was used gives the same successor again: until ten seconds after that one was first
# used, for an hour at the longest (the platform's guide on refresh tokens).
REUSE_AFTER_USE = timedelta(seconds=10)
REUSE_AT_MOST = timedelta(minutes=60)

PUSH_PERMISSIONS = frozenset({"ReadPresence", "SubscriptionWebSocket", "WebSocket"})
ALL_PERMISSIONS = PUSH_PERMISSIONS | {"ReadCallLog", "ReadCompanyCallLog", "CallControl", "ReadAccounts"}


class Credential(Struct, frozen=True, kw_only=True):
    """A user of an app. The users of one app share its id and secret; each has a JWT.

    `admin` may read the data of other extensions; `permissions` are those of user and app.
    """

    client_id: str = "simulated-client"
    client_secret: str = "simulated-secret"  # noqa: S105 (not a real secret; printed for users)
    jwt: str = "simulated.jwt.assertion"
    extension_id: str | None = None  # None: the scenario's first extension
    admin: bool = True
    permissions: frozenset[str] = ALL_PERMISSIONS

    @property
    def user(self) -> str:
        """The name under which rate limits count: a user of an app."""
        return self.client_id if self.extension_id is None else f"{self.client_id}/{self.extension_id}"


class Session(Struct, kw_only=True):
    """An OAuth session: its present token, and the refresh token that renews it (empty: none)."""

    credential: Credential
    access_token: str = ""
    expires_at: datetime
    refresh_token: str = ""
    refresh_until: datetime
    first_used_at: datetime | None = None
    used_refresh: dict[str, datetime] = field(default_factory=dict)


class Tokens:
    """The sessions of all credentials. Methods raise `Refusal`."""

    def __init__(
        self,
        credentials: Iterable[Credential],
        *,
        ttl_s: float = 3600,
        refresh: bool = False,
        sessions_max: int = 5,
    ) -> None:
        self.credentials = list(credentials)
        self._ttl = timedelta(seconds=ttl_s)
        self._refresh = refresh
        self._sessions_max = sessions_max
        self._sessions: list[Session] = []  # oldest first
        self._count = count(1)

    def client(self, authorization: str | None) -> Credential:
        """A credential of the app with the id and secret of an Authorization header."""
        for credential in self.credentials:
            secret = f"{credential.client_id}:{credential.client_secret}".encode()
            if authorization == f"Basic {base64.b64encode(secret).decode()}":
                return credential
        raise oauth_refusal("invalid_client", "OAU-153", "Invalid client: ")

    def exchange(self, app: Credential, form: Mapping[str, str], now: datetime) -> Session:
        """A token for a JWT or a refresh token of one of the app's users."""
        grant = form.get("grant_type", "")
        if grant == JWT_GRANT:
            for credential in self.credentials:
                if credential.client_id == app.client_id and credential.jwt == form.get("assertion"):
                    return self._open(credential, now)
            raise oauth_refusal("invalid_grant", "OAU-251", "JWT is not valid")
        if grant == "refresh_token":
            return self._renew(app, form.get("refresh_token", ""), now)
        raise oauth_refusal("unsupported_grant_type", "OAU-250", "Unsupported grant type")

    def holder(self, authorization: str | None, now: datetime) -> Session:
        """The session of an access token."""
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise api_refusal(401, "OAU-149", "Unparsable access token", legacy_code="TokenInvalid")
        session = next((one for one in self._sessions if one.access_token == token), None)
        if session is None:
            raise api_refusal(401, "OAU-213", "Token not found", legacy_code="TokenInvalid")
        if now >= session.expires_at:
            raise api_refusal(401, "OAU-128", "Access token expired", legacy_code="TokenExpired")
        session.first_used_at = session.first_used_at or now
        return session

    def alive(self, session: Session, now: datetime) -> bool:
        """A session lasts as long as its token, or the refresh token that can renew it."""
        until = session.refresh_until if session.refresh_token else session.expires_at
        return now < until and any(one is session for one in self._sessions)

    def revoke(self, token: str) -> None:
        """End the session of an access or refresh token."""
        kept = [one for one in self._sessions if token not in (one.access_token, one.refresh_token)]
        self._sessions = kept if token else self._sessions

    def revoke_all(self) -> None:
        """Revoke every token, as a changed password does."""
        self._sessions.clear()

    def answer(self, session: Session, owner_id: str, now: datetime) -> dict[str, Any]:
        """The body of a successful exchange (TokenInfo)."""
        body: dict[str, Any] = {
            "access_token": session.access_token,
            "token_type": "bearer",
            "expires_in": int((session.expires_at - now).total_seconds()),
            "scope": " ".join(sorted(session.credential.permissions)),
            "owner_id": owner_id,
            "endpoint_id": _opaque("endpoint", session.credential.client_id)[:22],
            "session_id": _opaque("session", session.access_token)[:22],
        }
        if session.refresh_token:
            body["refresh_token"] = session.refresh_token
            body["refresh_token_expires_in"] = int((session.refresh_until - now).total_seconds())
        return body

    def _open(self, credential: Credential, now: datetime) -> Session:
        session = Session(credential=credential, expires_at=now, refresh_until=now)
        self._fill(session, now)
        mine = [one for one in self._sessions if one.credential is credential]
        if len(mine) >= self._sessions_max:
            self._sessions.remove(mine[0])
        self._sessions.append(session)
        return session

    def _fill(self, session: Session, now: datetime) -> None:
        number = str(next(self._count))
        session.access_token = _opaque("access", number)
        session.expires_at = now + self._ttl
        session.first_used_at = None
        session.refresh_token = _opaque("refresh", number) if self._refresh else ""
        session.refresh_until = now + REFRESH_TTL

    def _renew(self, app: Credential, token: str, now: datetime) -> Session:
        for session in self._sessions:
            if session.credential.client_id != app.client_id:
                continue
            if token and token == session.refresh_token and now < session.refresh_until:
                session.used_refresh = {token: now}
                self._fill(session, now)
                return session
            used_at = session.used_refresh.get(token, now - 2 * REUSE_AT_MOST)
            if now - used_at <= REUSE_AT_MOST and now - (session.first_used_at or now) <= REUSE_AFTER_USE:
                return session
        raise oauth_refusal("invalid_grant", "OAU-210", "Token expired")


def _opaque(*parts: str) -> str:
    digest = hashlib.blake2b("\0".join(parts).encode(), digest_size=48).digest()
    return base64.urlsafe_b64encode(digest).decode()
