"""The token exchange: who gets a token, how long it lives, and what ends it early."""

import pytest

from callcast.simulator import Credential, Limits, Platform, SimulatedClock
from tests.integration.simulator.caller import JWT_GRANT, OWN, calling
from tests.integration.simulator.openapi import faults

LIST = OWN + "/active-calls"


async def test_a_jwt_gives_a_token_that_opens_the_list() -> None:
    """The answer is a TokenInfo of the API, names its owner, and its token opens the own extension's list."""
    platform = Platform()
    async with calling(platform) as caller:
        credential = platform.tokens.credentials[0]
        answer = await caller.post_token(credential, grant_type=JWT_GRANT, assertion=credential.jwt)
        assert faults("oauth", "TokenInfo", answer.body) == []
        assert answer.body["owner_id"] == "62264425016"
        assert answer.body["expires_in"] == 3600
        assert "refresh_token" not in answer.body
        assert (await caller.get(LIST)).status == 200


@pytest.mark.parametrize(
    ("credential", "form", "error", "code"),
    [
        (Credential(client_secret="wrong"), {}, "invalid_client", "OAU-153"),
        (Credential(client_id="no one"), {}, "invalid_client", "OAU-153"),
        (Credential(), {"assertion": "forged"}, "invalid_grant", "OAU-251"),
        (Credential(), {"grant_type": "password"}, "unsupported_grant_type", "OAU-250"),
        (Credential(), {"grant_type": "refresh_token", "refresh_token": "old"}, "invalid_grant", "OAU-210"),
    ],
)
async def test_a_wrong_credential_is_refused(
    credential: Credential, form: dict[str, str], error: str, code: str
) -> None:
    """Each wrong part of a token request is a 400 with the OAuth word and the platform's code."""
    async with calling(Platform()) as caller:
        answer = await caller.post_token(
            credential, **({"grant_type": JWT_GRANT, "assertion": Credential().jwt} | form)
        )
        assert (answer.status, answer.body["error"], answer.code) == (400, error, code)


@pytest.mark.parametrize(("header", "code"), [("", "OAU-149"), ("Bearer nonsense", "OAU-213")])
async def test_no_token_no_answer(header: str, code: str) -> None:
    """Without a token, or with one that was never granted, the API answers 401."""
    async with (
        calling(Platform()) as caller,
        caller.http.get(caller.url + LIST, headers={"Authorization": header}) as response,
    ):
        assert response.status == 401
        assert (await response.json())["errors"][0]["errorCode"] == code


async def test_a_token_expires_on_the_platforms_clock(clock: SimulatedClock) -> None:
    """After its time the token is refused as expired, and not a second before."""
    async with calling(Platform(clock=clock, token_ttl_s=100)) as caller:
        clock.turn(99)
        assert (await caller.get(LIST)).status == 200
        clock.turn(1)
        answer = await caller.get(LIST)
        assert (answer.status, answer.code) == (401, "OAU-128")


async def test_the_sixth_session_displaces_the_oldest() -> None:
    """Five tokens of one credential live side by side; the sixth ends the first, which reads as not found."""
    async with calling(Platform()) as caller:
        first = caller.token
        for _ in range(4):
            second_to_fifth = await caller.log_in()
        caller.token = first
        assert (await caller.get(LIST)).status == 200
        await caller.log_in()
        caller.token = first
        answer = await caller.get(LIST)
        assert (answer.status, answer.code, answer.body["errorCode"]) == (401, "OAU-213", "TokenInvalid")
        caller.token = second_to_fifth
        assert (await caller.get(LIST)).status == 200


async def test_a_revoked_token_is_gone() -> None:
    """Revoking ends the whole session."""
    async with calling(Platform()) as caller:
        await caller.post_token(Credential(), "revoke", token=caller.token)
        assert (await caller.get(LIST)).code == "OAU-213"


async def test_a_refresh_token_renews_once(clock: SimulatedClock) -> None:
    """It gives a new pair and ends the old token at once; used again it gives the same pair for a short while."""
    async with calling(Platform(clock=clock, refresh_tokens=True)) as caller:
        credential = Credential()
        one = await caller.post_token(credential, grant_type=JWT_GRANT, assertion=credential.jwt)
        form = {"grant_type": "refresh_token", "refresh_token": one.body["refresh_token"]}
        two = await caller.post_token(credential, **form)
        caller.token = one.body["access_token"]
        assert (await caller.get(LIST)).code == "OAU-213"
        assert (await caller.post_token(credential, **form)).body["access_token"] == two.body["access_token"]
        caller.token = two.body["access_token"]
        assert (await caller.get(LIST)).status == 200
        clock.turn(11)
        assert (await caller.post_token(credential, **form)).code == "OAU-210"


async def test_the_request_must_be_a_form() -> None:
    """JSON at the token endpoint is refused by its media type."""
    async with calling(Platform()) as caller:
        secret = "Basic c2ltdWxhdGVkLWNsaWVudDpzaW11bGF0ZWQtc2VjcmV0"
        url = caller.url + "/restapi/oauth/token"
        async with caller.http.post(url, json={"grant_type": JWT_GRANT}, headers={"Authorization": secret}) as response:
            assert response.status == 415


async def test_several_users_share_one_app() -> None:
    """Each JWT gives a token of its own user; a JWT of another app is refused."""
    users = [Credential(jwt=f"jwt-{number}", extension_id=str(number)) for number in (101, 102)]
    stranger = Credential(client_id="other", jwt="jwt-other")
    async with calling(Platform(credentials=[*users, stranger])) as caller:
        for user in users:
            answer = await caller.post_token(user, grant_type=JWT_GRANT, assertion=user.jwt)
            assert answer.body["owner_id"] == user.extension_id
        assert (await caller.post_token(users[0], grant_type=JWT_GRANT, assertion=stranger.jwt)).code == "OAU-251"


async def test_five_token_requests_a_minute_for_all_users_of_an_app(clock: SimulatedClock) -> None:
    """The sixth is refused, from any client; another app has its own limit, and so has each user's other groups."""
    users = [Credential(jwt=f"jwt-{number}", extension_id="62264425016") for number in range(6)]
    other = Credential(client_id="other", jwt="jwt-other")
    async with calling(Platform(credentials=[*users, other], clock=clock, limits=Limits())) as caller:  # signs in once
        answers = [await caller.post_token(u, grant_type=JWT_GRANT, assertion=u.jwt) for u in users[1:]]
        assert [answer.status for answer in answers] == [200] * 4 + [429]
        assert answers[0].headers["X-Rate-Limit-Group"] == "auth"
        assert (await caller.post_token(other, grant_type=JWT_GRANT, assertion=other.jwt)).status == 200
        assert (await caller.get(LIST)).status == 200


async def test_revoking_nothing_ends_no_session() -> None:
    """A request that names no token changes nothing."""
    async with calling(Platform()) as caller:
        await caller.post_token(Credential(), "revoke")
        assert (await caller.get(LIST)).status == 200
