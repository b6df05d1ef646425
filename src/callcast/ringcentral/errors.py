"""Maps answers other than 200 to a failure: a reason for metrics, and a sentence that says what to do.

Codes: developers.ringcentral.com/guide/basics/errors; shapes: `{errors: [{errorCode, message, permissionName?}]}`,
older answers with the same keys at the top.
"""

import re

import msgspec

from callcast.calls.masking import harmless
from callcast.calls.model import Reason
from callcast.ports.upstream import PollFailed
from callcast.ringcentral.http import Answer

BODY_READ_MAX = 65_536
MESSAGE_MAX = 160
LOCKED_OUT_S = 1800.0  # each sign-in attempt of a locked user can extend the lock
LOCKED_OUT = "OAU-147"
_REDIRECT = "redirects are not followed: set server to the host that the redirect leads to"
_CREDENTIAL = "check client_id, client_secret and jwt, and that the app and the JWT belong to this server"
_APP = "check client_id and client_secret, and that the app belongs to this server"
_JWT_FLOW = "enable the JWT auth flow for the app in the developer console"
_REFUSED_AGAIN = (
    "the platform rejects a token that it has just issued: check server, and whether the user and the account are "
    "active; callcast signs in again automatically"
)
NOT_PERMITTED = "add the permission {permission} to the app in the developer console, and check the role of its user"
_ACCOUNT_STATE = (
    "the account does not allow this sign-in (it may be suspended, unconfirmed or of an unsupported type): an "
    "administrator must check its state or contact RingCentral; client_id, client_secret and jwt are not the cause"
)
# By the error code of RFC 6749, used if the platform's own code is not more specific.
_BY_WORD = {
    "invalid_client": _APP,
    "invalid_grant": "check jwt: it must belong to this app and this server, and not be expired, deleted or revoked",
    "unauthorized_client": _JWT_FLOW,
    "unsupported_grant_type": _JWT_FLOW,
}
_BY_CODE = {
    "CMN-109": "the account's plan does not include the call log: an administrator must have it enabled",
    "CMN-211": "the platform is in limited mode and does not serve call data; callcast retries automatically",
    "CMN-304": "the platform was still processing the same request; callcast retries automatically",
    "CMN-401": "the app lacks the permission {permission}: add it to the app in the developer console",
    "CMN-402": "the user is not an administrator: use the JWT of one, or give this user an administrator role",
    "CMN-403": "extensions of this type have no call list: remove it from extensions",
    "CMN-404": "the user can see only their own extension: use an administrator's credential, or that extension's own",
    "CMN-405": _ACCOUNT_STATE,
    "CMN-408": "the user lacks the permission {permission}: an administrator must assign a role that has it",
    "CMN-419": "the user has the permission {permission} only for their own extension: an administrator must assign a "
    "role that has it for other extensions",
    "OAU-105": "the JWT belongs to a call queue or another extension that cannot sign in: create the JWT as a user",
    "OAU-123": _APP,
    "OAU-141": "the user's extension is disabled or not yet activated: an administrator must activate it",
    "OAU-142": _ACCOUNT_STATE,
    LOCKED_OUT: "the user is locked out after too many failed sign-ins: wait, or ask an administrator to unlock it; "
    f"callcast retries every {LOCKED_OUT_S / 60:.0f} minutes",
    "OAU-151": _ACCOUNT_STATE,
}
_NO_EXTENSION = "this may be the extension's number instead of its id: run `callcast extensions` to see the ids"
_NO_ACCOUNT = 'no such account on this server: set account = "~", or to its id'


class _Fault(msgspec.Struct, frozen=True, rename="camel"):
    error_code: str = ""
    message: str = ""
    permission_name: object = ""
    permissions_name: object = ""  # a text or a list
    parameter_name: object = ""

    @property
    def permission(self) -> str:
        """The missing permission."""
        for named in (self.permission_name, self.permissions_name):
            names = [_word(name) for name in (named if isinstance(named, list) else [named])]
            if any(names):
                return ", ".join(filter(None, names))
        return _bracketed(self.message)

    @property
    def parameter(self) -> str:
        return _word(self.parameter_name) or _bracketed(self.message)


class _Body(_Fault, frozen=True, rename="camel"):
    error: object = None  # a word of RFC 6749
    errors: list[_Fault] = []


class _Refusal:
    """The error information in an answer's body; empty strings where it is missing."""

    def __init__(self, answer: Answer) -> None:
        body = _body(answer)
        first = body.errors[0] if body.errors else body
        self.code = _word(first.error_code or body.error_code)
        self.word = _word(body.error)
        self.permission = first.permission or body.permission
        self.parameter = first.parameter or body.parameter
        self._status = answer.status
        self._message = harmless(first.message or body.message, MESSAGE_MAX)

    def __str__(self) -> str:
        words = " ".join(part for part in (self.code or self.word, self._message) if part)
        return f"{self._status} ({words})" if words else str(self._status)


def poll_failure(
    answer: Answer, *, extension: bool, permission: str = "ReadCallLog", retry_after_s: float | None = None
) -> PollFailed:
    """Return the failure for an API answer. A 401 here means that a token was rejected right after it was issued.

    extension: whether the path names an extension. permission: the required one, if the answer does not name it.
    """
    refusal = _Refusal(answer)
    unknown_id = _unknown_id(answer.status, refusal, extension)
    return PollFailed(
        "permission" if unknown_id else _reason(answer.status),
        str(refusal),
        fix=unknown_id or _fix(answer.status, refusal, permission),
        retry_after_s=retry_after_s,
        request_id=answer.request_id,
    )


def token_failure(answer: Answer, *, retry_after_s: float | None = None) -> PollFailed:
    """Return the failure for an answer of the token endpoint, where 4xx means that the credential is invalid."""
    refusal = _Refusal(answer)
    reason = _reason(answer.status)
    cause = f"the token endpoint answered {refusal}"
    fix = _REDIRECT if 300 <= answer.status < 400 else ""
    if 400 <= answer.status < 500 and reason not in ("rate_limited", "timeout"):
        reason = "auth"
        fix = _BY_CODE.get(refusal.code, "").format(permission=refusal.permission)
        fix = fix or _BY_WORD.get(refusal.word, _CREDENTIAL)
        if answer.status in (404, 405):
            fix = "check server: the host has no token endpoint"
        if refusal.code == LOCKED_OUT:
            retry_after_s = max(LOCKED_OUT_S, retry_after_s or 0.0)
    return PollFailed(reason, cause, fix=fix, retry_after_s=retry_after_s, request_id=answer.request_id)


def _reason(status: int) -> Reason:
    known: dict[int, Reason] = {
        401: "auth", 403: "permission", 404: "permission", 408: "timeout", 429: "rate_limited"
    }  # fmt: skip
    return known.get(status, "parse" if 200 <= status < 300 else "server")


def _unknown_id(status: int, refusal: _Refusal, extension: bool) -> str:
    """Return the fix for an id that the platform does not know; empty if the error is about something else."""
    if (status, refusal.code) not in ((404, "CMN-102"), (400, "CMN-101")):
        return ""
    meant = refusal.parameter or ("extensionId" if extension else "accountId")
    return {"extensionId": _NO_EXTENSION, "accountId": _NO_ACCOUNT}.get(meant, "")


def _fix(status: int, refusal: _Refusal, permission: str) -> str:
    """Return the fix; empty if the error code is unknown."""
    if 300 <= status < 400:
        return _REDIRECT
    fix = _BY_CODE.get(refusal.code, {401: _REFUSED_AGAIN, 403: NOT_PERMITTED}.get(status, ""))
    return fix.format(permission=refusal.permission or permission)


def _body(answer: Answer) -> _Body:
    try:
        return msgspec.json.decode(answer.body[:BODY_READ_MAX], type=_Body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return _Body()


def _bracketed(message: str) -> str:
    """Return the word in brackets of a message such as `user needs to have [ReadCallLog] permission`."""
    found = re.search(r"\[([A-Za-z]{1,60})\]", message)
    return found.group(1) if found else ""


def _word(text: object) -> str:
    return text if isinstance(text, str) and re.fullmatch(r"[A-Za-z0-9_-]{1,60}", text) else ""
