"""What the platform's refusals mean, and what to do about each."""

import json
from typing import Any

import pytest

from callcast.ringcentral.errors import poll_failure, token_failure
from callcast.ringcentral.http import Answer


def answer(status: int, code: str = "", message: str = "no", **facts: Any) -> Answer:
    body = {"errors": [{"errorCode": code, "message": message, **facts}]} if code else facts
    return Answer(status, {}, json.dumps(body).encode(), 0.1)


NUMBER = "this may be the extension's number instead of its id"

POLLS = [
    (404, "CMN-102", {}, "permission", NUMBER),
    (404, "CMN-102", {"parameterName": "extensionId"}, "permission", NUMBER),
    (400, "CMN-101", {}, "permission", NUMBER),
    (400, "CMN-101", {"parameterName": "extensionId"}, "permission", NUMBER),
    (404, "CMN-102", {"parameterName": "accountId"}, "permission", "no such account"),
    (400, "CMN-101", {"parameterName": "view"}, "server", ""),
    (403, "CMN-109", {}, "permission", "plan does not include"),
    (403, "CMN-401", {}, "permission", "the app lacks the permission ReadCallLog"),
    (403, "CMN-402", {}, "permission", "not an administrator"),
    (403, "CMN-403", {}, "permission", "remove it from extensions"),
    (403, "CMN-404", {}, "permission", "only their own extension"),
    (403, "CMN-408", {"permissionName": "ReadCompanyCallLog"}, "permission", "user lacks the permission ReadCompanyC"),
    (403, "CMN-419", {"permissionsName": "ReadCallLogX"}, "permission", "permission ReadCallLogX only for their own"),
    (
        403,
        "CMN-419",
        {"permissionsName": ["ReadA", "ReadB"]},
        "permission",
        "permission ReadA, ReadB only for their own",
    ),
    (403, "CMN-419", {"message": "user needs to have [ReadC] permission"}, "permission", "permission ReadC only for"),
    (401, "CMN-405", {}, "auth", "client_id, client_secret and jwt are not the cause"),
    (401, "OAU-142", {}, "auth", "client_id, client_secret and jwt are not the cause"),
    (401, "OAU-151", {}, "auth", "client_id, client_secret and jwt are not the cause"),
    (401, "OAU-141", {}, "auth", "extension is disabled"),
    (401, "AGW-402", {}, "auth", "rejects a token that it has just issued"),
    (401, "", {"error": "invalid_token"}, "auth", "rejects a token that it has just issued"),
]


@pytest.mark.parametrize(("status", "code", "facts", "reason", "remedy"), POLLS)
def test_each_refusal_of_a_list_has_its_next_step(
    status: int, code: str, facts: dict[str, Any], reason: str, remedy: str
) -> None:
    """Reason and remedy follow from status and code; the code is shown."""
    failure = poll_failure(answer(status, code, **facts), extension=True)
    assert failure.reason == reason
    assert remedy in failure.fix
    assert (code or facts["error"]) in failure.cause


def test_an_unknown_id_of_the_account_is_not_taken_for_an_extension() -> None:
    """A path without an extension: what is unknown is the account."""
    for status, code in ((404, "CMN-102"), (400, "CMN-101")):
        failure = poll_failure(answer(status, code), extension=False)
        assert (failure.reason, "no such account" in failure.fix) == ("permission", True)


def test_what_the_question_needs_is_named_where_the_answer_does_not() -> None:
    """A 403 that names no permission."""
    failure = poll_failure(answer(403, "CMN-401"), extension=False, permission="ReadAccounts")
    assert "the app lacks the permission ReadAccounts" in failure.fix


TOKENS = [
    (400, "OAU-147", {}, "locked out"),
    (403, "OAU-105", {}, "call queue"),
    (401, "OAU-142", {}, "client_id, client_secret and jwt are not the cause"),
    (401, "OAU-151", {}, "client_id, client_secret and jwt are not the cause"),
    (401, "CMN-405", {}, "client_id, client_secret and jwt are not the cause"),
    (401, "OAU-123", {}, "check client_id and client_secret"),
    (400, "", {"error": "unauthorized_client"}, "JWT auth flow"),
    (400, "", {"error": "invalid_grant"}, "check jwt"),
    (400, "", {}, "check client_id, client_secret and jwt"),
]


@pytest.mark.parametrize(("status", "code", "facts", "remedy"), TOKENS)
def test_each_refusal_of_the_token_endpoint_has_its_next_step(
    status: int, code: str, facts: dict[str, Any], remedy: str
) -> None:
    """Always `auth`; the code says more than the OAuth word."""
    failure = token_failure(answer(status, code, **facts))
    assert (failure.reason, remedy in failure.fix) == ("auth", True)


def test_a_locked_user_is_left_alone_for_half_an_hour() -> None:
    """Each further sign-in could make the lock last longer."""
    assert token_failure(answer(400, "OAU-147")).retry_after_s == 1800


@pytest.mark.parametrize("body", [b"", b"[]", b"<html>", b'{"errors": 3}', b'{"errors": [], "permissionName": {}}'])
def test_a_body_that_says_nothing_is_no_trouble(body: bytes) -> None:
    """The status alone decides then."""
    assert poll_failure(Answer(403, {}, body, 0.1), extension=True).reason == "permission"
    assert token_failure(Answer(500, {}, body, 0.1)).reason == "server"
