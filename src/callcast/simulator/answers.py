"""Answers as JSON, and every way the platform says no in its own words (shapes: tests/samples/errors)."""

from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import web


def json_answer(body: object, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(body),
        status=status,
        headers={"Content-Type": "application/json;charset=utf-8", **(headers or {})},
    )


class Refusal(Exception):
    """An answer that is an error: status, body and headers as the platform sends them."""

    def __init__(self, status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> None:
        super().__init__(f"{status} {body.get('errorCode', body.get('error', ''))}")
        self.status = status
        self.body = body
        self.headers = dict(headers or {})

    def response(self) -> web.Response:
        return json_answer(self.body, status=self.status, headers=self.headers)


def api_refusal(
    status: int,
    code: str,
    message: str,
    *,
    legacy_code: str | None = None,
    headers: Mapping[str, str] | None = None,
    **facts: str,
) -> Refusal:
    """The API's own errors: the first of `errors` is repeated at the top, as old programs want it."""
    body = {
        "errorCode": legacy_code or code,
        "message": message,
        "errors": [{"errorCode": code, "message": message, **facts}],
        **facts,
    }
    return Refusal(status, body, headers)


def oauth_refusal(error: str, code: str, message: str, *, status: int = 400) -> Refusal:
    """The token endpoint's errors: RFC 6749 with the platform's codes beside it."""
    return Refusal(
        status,
        {"error": error, "errors": [{"errorCode": code, "message": message}], "error_description": message},
    )


def token_missing(message: str = "Token not found", code: str = "OAU-213") -> Refusal:
    return api_refusal(401, code, message, legacy_code="TokenInvalid")


def token_expired() -> Refusal:
    return api_refusal(401, "OAU-128", "Access token expired", legacy_code="TokenExpired")


def app_permission_missing(permission: str) -> Refusal:
    message = f"In order to call this API endpoint, application needs to have [{permission}] permission"
    return api_refusal(403, "CMN-401", message, legacy_code="InsufficientPermissions", permissionName=permission)


def user_permission_missing(permission: str) -> Refusal:
    message = (
        f"In order to call this API endpoint, user needs to have [{permission}] permission for requested resource."
    )
    return api_refusal(403, "CMN-408", message, legacy_code="InsufficientPermissions", permissionName=permission)


def another_extension() -> Refusal:
    return api_refusal(403, "CMN-404", "Attempt to access another extension")


def not_found(parameter: str) -> Refusal:
    return api_refusal(404, "CMN-102", f"Resource for parameter [{parameter}] is not found", parameterName=parameter)


def invalid_parameter(parameter: str, value: str) -> Refusal:
    return api_refusal(
        400,
        "CMN-101",
        f"Parameter [{parameter}] value is invalid",
        legacy_code="InvalidParameter",
        parameterName=parameter,
        parameterValue=value,
    )


def rate_exceeded(headers: Mapping[str, str], code: str = "CMN-301") -> Refusal:
    return api_refusal(429, code, RATE_MESSAGES[code], headers=headers)


RATE_MESSAGES = {
    "CMN-301": "Request rate exceeded",
    "CMN-304": "Duplicate concurrent request",
    "CMN-310": "Global request rate exceeded",
}
