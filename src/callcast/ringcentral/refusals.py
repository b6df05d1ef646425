"""What an answer other than 200 means: a reason for metrics, and a sentence that says what to do.

Codes: developers.ringcentral.com/guide/basics/errors; shapes: `{errors: [{errorCode, message, permissionName?}]}`,
older answers with the same keys at the top.
"""

import re

import msgspec

from callcast.core.masking import harmless
from callcast.core.upstream import LookFailed, Reason
from callcast.ringcentral.exchange import Answer

TOKEN_IS_OLD = frozenset({"OAU-128", "OAU-129", "OAU-149", "OAU-213"})
BODY_READ_MAX = 65_536
MESSAGE_MAX = 160
_REDIRECT_REMEDY = "redirects are not followed; set server to the host that answers"
_CREDENTIAL_REMEDY = "check client_id, client_secret, jwt and that the app and the JWT belong to this server"
_CREDENTIAL_REMEDIES = {
    "invalid_client": "check client_id and client_secret, and that the app belongs to this server",
    "invalid_grant": "check jwt: made for this app and this server, not yet expired, neither deleted nor cut off",
    "unauthorized_client": "allow the app the JWT auth flow in the developer console",
    "unsupported_grant_type": "allow the app the JWT auth flow in the developer console",
}


class _Fault(msgspec.Struct, frozen=True):
    errorCode: str = ""  # noqa: N815 - the platform's word
    message: str = ""
    permissionName: str = ""  # noqa: N815 - the platform's word


class _Body(msgspec.Struct, frozen=True):
    error: object = None  # a word of RFC 6749, from the token endpoint
    errors: list[_Fault] = []
    errorCode: str = ""  # noqa: N815 - the platform's word
    message: str = ""
    permissionName: str = ""  # noqa: N815 - the platform's word


def code_of(answer: Answer) -> str:
    """The platform's error code, or an empty text."""
    return _fault(answer).errorCode


def look_failure(answer: Answer, *, retry_after_s: float | None = None) -> LookFailed:
    """The failure that an answer to a look or to a question to the call log stands for."""
    fault = _fault(answer)
    return LookFailed(
        _reason(answer.status),
        _named(answer.status, fault),
        remedy=_remedy(answer.status, fault),
        retry_after_s=retry_after_s,
        request_id=answer.request_id,
    )


def token_failure(answer: Answer, *, retry_after_s: float | None = None) -> LookFailed:
    """The same for the token endpoint, where 4xx means the credential."""
    fault = _fault(answer)
    reason = _reason(answer.status)
    said = f"the token endpoint answered {_named(answer.status, fault)}"
    remedy = _REDIRECT_REMEDY if 300 <= answer.status < 400 else ""
    if 400 <= answer.status < 500 and reason not in ("rate_limited", "timeout"):
        reason = "auth"
        remedy = _CREDENTIAL_REMEDIES.get(str(_body(answer).error), _CREDENTIAL_REMEDY)
        if answer.status in (404, 405):
            remedy = "check server: what answers there has no token endpoint"
    return LookFailed(reason, said, remedy=remedy, retry_after_s=retry_after_s, request_id=answer.request_id)


def _reason(status: int) -> Reason:
    known: dict[int, Reason] = {
        401: "auth", 403: "permission", 404: "permission", 408: "timeout", 429: "rate_limited"
    }  # fmt: skip
    return known.get(status, "parse" if 200 <= status < 300 else "server")


def _remedy(status: int, fault: _Fault) -> str:
    """What to do about it; empty where the code says nothing of that."""
    if 300 <= status < 400:
        return _REDIRECT_REMEDY
    permission = fault.permissionName or _bracketed(fault.message) or "ReadCallLog"
    remedies = {
        "CMN-401": f"the app lacks the permission {permission}: add it to the app in the developer console",
        "CMN-404": "the user may see only the own extension: use an administrator's credential, or one of its own",
        "CMN-408": f"the user lacks the permission {permission}: an administrator must give a role that has it",
        "CMN-102": "there is no such extension or account here: check the ids",
        "CMN-211": "the platform runs in limited mode and does not serve calls",
        "CMN-304": "the platform was still at work on the same request",
    }
    return remedies.get(fault.errorCode, "")


def _named(status: int, fault: _Fault) -> str:
    words = " ".join(part for part in (fault.errorCode, harmless(fault.message, MESSAGE_MAX)) if part)
    return f"{status} ({words})" if words else str(status)


def _bracketed(message: str) -> str:
    """The permission that older messages name as `[ReadCallLog] permission`."""
    found = re.search(r"\[([A-Za-z]{1,60})\]", message)
    return found.group(1) if found else ""


def _body(answer: Answer) -> _Body:
    try:
        return msgspec.json.decode(answer.body[:BODY_READ_MAX], type=_Body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return _Body()


def _fault(answer: Answer) -> _Fault:
    body = _body(answer)
    first = body.errors[0] if body.errors else _Fault()
    code, message = first.errorCode or body.errorCode, first.message or body.message
    permission = first.permissionName or body.permissionName
    return _Fault(errorCode=_word(code), message=message, permissionName=_word(permission))


def _word(text: str) -> str:
    return text if re.fullmatch(r"[A-Za-z0-9-]{1,60}", text) else ""
