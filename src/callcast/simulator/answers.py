"""Answers as JSON, and the platform's errors (shapes: tests/samples/errors)."""

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
    """An error of the platform: status, body and headers of the answer."""

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
    """An error of the API. The first of `errors` is repeated at the top, for old programs."""
    body = {
        "errorCode": legacy_code or code,
        "message": message,
        "errors": [{"errorCode": code, "message": message, **facts}],
        **facts,
    }
    return Refusal(status, body, headers)


def oauth_refusal(error: str, code: str, message: str, *, status: int = 400) -> Refusal:
    """An error of the token endpoint: RFC 6749, and the platform's codes."""
    return Refusal(
        status,
        {"error": error, "errors": [{"errorCode": code, "message": message}], "error_description": message},
    )


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
