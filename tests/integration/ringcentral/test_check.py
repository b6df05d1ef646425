"""The requests of a check, and its results, against the fake platform."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

import callcast.ringcentral.check as check_module
from callcast.ports.connectivity import ConnectivityResult
from callcast.ringcentral.check import check_source
from callcast.ringcentral.settings import SourceSettings
from callcast.ringcentral.sign_in import FILE, SignIns, credential_digest
from callcast.settings.secret import Secret
from callcast.simulator import Credential, Fault, Limits, Platform, SimulatedClock
from callcast.simulator.scenarios import busy
from callcast.simulator.tokens import JWT_GRANT
from callcast.testing import RealClock

LISTS = "*/active-calls"


def crowd(extensions: int, *, ahead_s: float = 0, **settings: Any) -> Platform:
    """A platform with so many phones, whose clock is so far ahead."""
    clock = SimulatedClock()
    clock.turn(ahead_s)
    return Platform(busy(clock.now(), extensions, 1), clock=clock, **settings)


async def check(platform: Platform, **settings: Any) -> list[ConnectivityResult]:
    async with platform.serve() as url:
        return await check_at(url, **settings)


async def check_at(url: str, **settings: Any) -> list[ConnectivityResult]:
    credential = Credential()
    given: dict[str, Any] = {
        "server": url,
        "client_id": credential.client_id,
        "client_secret": Secret(credential.client_secret),
        "jwt": Secret(credential.jwt),
        "hints": "off",
    }
    results: list[ConnectivityResult] = []
    async with ClientSession() as session:
        source = SourceSettings(**{**given, **settings})
        clock = RealClock()
        sign_ins = SignIns(clock)
        await check_source("acme", source, results.append, session=session, sign_ins=sign_ins, clock=clock)
    secrets = [source.client_secret.reveal(), source.jwt.reveal()]
    assert not [secret for secret in secrets for one in results if secret in repr(one)]
    assert all(one.fix for one in results if one.status in ("failed", "warning")), "a failure without a fix"
    return results


def by_subject(results: list[ConnectivityResult]) -> Mapping[str, ConnectivityResult]:
    """The answers by what they are about; each once."""
    assert len({one.about for one in results}) == len(results)
    return {one.about: one for one in results}


async def test_all_is_well() -> None:
    """Token, clock, permission and rate limit are good, and each says what was found; the token goes back."""
    platform = crowd(3, limits=Limits())
    results = by_subject(await check(platform))
    assert [(about, one.status) for about, one in results.items()] == [
        ("token", "good"),
        ("clock", "good"),
        ("permission", "good"),
        ("rate limit", "good"),
    ]
    assert platform.scenario.extension_ids()[0] in results["token"].detail
    assert "the credential's extension" in results["permission"].detail
    assert "10 requests per minute, 9 left" in results["rate limit"].detail
    assert [request.path.rpartition("/")[2] for request in platform.requests] == ["token", "active-calls", "revoke"]


async def test_half_of_the_rate_limit_stays_free() -> None:
    """A service may run on the same credential: of a dozen extensions only five are polled, and the result says so."""
    platform = crowd(12, limits=Limits())
    results = by_subject(await check(platform, extensions=tuple(platform.scenario.extension_ids())))
    assert results["permission"].detail.startswith("the active calls of 5 extensions can be read (7 more")
    assert len([request for request in platform.requests if request.group == "heavy"]) == 5


async def test_without_an_announced_limit_the_configured_one_counts() -> None:
    """Then only what polling leaves of it is used: two of ten."""
    platform = crowd(12)
    results = by_subject(await check(platform, extensions=tuple(platform.scenario.extension_ids())))
    assert "2 extensions" in results["permission"].detail
    assert results["rate limit"].status == "good"
    assert "heavy_per_minute = 10 applies" in results["rate limit"].detail


@pytest.mark.parametrize(
    ("wrong", "remedy"),
    [
        ({"client_secret": Secret("no-such-secret")}, "check client_id and client_secret"),
        ({"client_id": "unknown-client"}, "check client_id and client_secret"),
        ({"jwt": Secret("forged-assertion")}, "check jwt"),
    ],
)
async def test_a_wrong_credential(wrong: dict[str, Any], remedy: str) -> None:
    """The part that is wrong is named, and no further request is sent."""
    platform = crowd(1)
    results = await check(platform, **wrong)
    assert [(one.about, one.status) for one in results] == [("token", "failed")]
    assert results[0].fix.startswith(remedy)
    assert platform.requests.count == 1


@pytest.mark.parametrize(
    ("permissions", "admin", "settings", "named"),
    [
        ((), True, {}, "the app lacks the permission ReadCallLog"),
        (("ReadCallLog",), True, {"watch": "account"}, "the user lacks the permission ReadCompanyCallLog"),
        (("ReadCallLog",), False, {"extensions": ("~", "OTHER")}, "use an administrator's credential"),
        (("ReadCallLog",), True, {"extensions": ("999999",)}, "callcast extensions"),
        (("ReadCallLog",), True, {"account": "999999"}, "no such account"),
    ],
)
async def test_a_missing_permission_is_named(
    permissions: tuple[str, ...], admin: bool, settings: dict[str, Any], named: str
) -> None:
    """403 and 404 say which permission is missing, who lacks it, and where it is given."""
    platform = crowd(3, credentials=[Credential(permissions=frozenset(permissions), admin=admin)])
    other = platform.scenario.extension_ids()[1]
    if "extensions" in settings:
        settings = {"extensions": tuple(other if one == "OTHER" else one for one in settings["extensions"])}
    permission = by_subject(await check(platform, **settings))["permission"]
    assert permission.status == "failed"
    assert named in permission.fix


async def test_another_extension_is_polled_before_the_own() -> None:
    """Where the rate limit has room for one only, it is the one that needs more permission."""
    platform = crowd(2, credentials=[Credential(admin=False)], limits=Limits(heavy=2))
    own, other = platform.scenario.extension_ids()
    for mine in (own, "~"):
        permission = by_subject(await check(platform, extensions=(mine, other)))["permission"]
        assert permission.detail.startswith(f"extension {other}: 403"), permission
        platform.limits.limits = Limits(heavy=3)


async def test_one_wrong_extension_among_good_ones() -> None:
    """It is named; the others are polled all the same."""
    platform = crowd(3, limits=Limits())
    results = await check(platform, extensions=("999999", *platform.scenario.extension_ids()))
    permissions = [one for one in results if one.about == "permission"]
    assert [one.status for one in permissions] == ["failed"]
    assert permissions[0].detail.startswith("extension 999999: 404")
    assert len([request for request in platform.requests if request.group == "heavy"]) == 4


@pytest.mark.parametrize(
    ("heavy", "extensions", "settings", "verdict", "words"),
    [
        (10, 1, {}, "good", "each target every 7.5 s"),
        (40, 1, {}, "good", "40 requests per minute"),
        (5, 1, {}, "warning", "not 10: each target is polled every 15 s, not every 7.5 s"),
        (5, 10, {}, "failed", "every 150 s; above 100 s calls can be missed"),
        (5, 10, {"accept_blind_spots": True}, "warning", "every 150 s, not every 75 s"),
    ],
)
async def test_the_announced_limit_against_the_plan(
    heavy: int, extensions: int, settings: dict[str, Any], verdict: str, words: str
) -> None:
    """Less than was planned with is a warning, so little that calls can be missed a failure."""
    platform = crowd(extensions, limits=Limits(heavy=heavy))
    results = await check(platform, extensions=tuple(platform.scenario.extension_ids()), **settings)
    limit = by_subject(results)["rate limit"]
    assert (limit.status, words in limit.detail) == (verdict, True), limit
    if verdict == "warning":
        assert limit.fix.startswith("set heavy_per_minute = 5,")
    if verdict == "failed":
        assert 'watch = "account"' in limit.fix


@pytest.mark.parametrize(
    ("skew_s", "verdict", "words"),
    [
        (0, "good", "in sync"),
        (20, "warning", "s behind"),
        (-20, "warning", "s ahead of"),
        (300, "failed", "5 minutes behind"),
        (400 * 86_400, "failed", "400 days behind"),
    ],
)
async def test_the_clock(skew_s: float, verdict: str, words: str) -> None:
    """This machine's clock against the platform's Date header; a few seconds are nothing."""
    platform = crowd(1, ahead_s=skew_s)
    clock = by_subject(await check(platform))["clock"]
    assert (clock.status, words in clock.detail) == (verdict, True), clock


@pytest.mark.parametrize(
    ("fault", "about", "remedy"),
    [
        (Fault(kind="status", status=404, path="*/token"), "token", "check server"),
        (Fault(kind="html", path="*/token"), "token", "check server"),
        (Fault(kind="redirect", path="*/token"), "token", "set server"),
        (Fault(kind="reset", path="*/token"), "token", "check server, and that this machine can reach it"),
        (Fault(kind="status", status=503, path="*/token"), "token", "retries automatically"),
        (
            Fault(kind="status", status=429, path=LISTS),
            "rate limit",
            "check whether another program uses the same credential",
        ),
        (Fault(kind="status", status=429, headers=False, path="*/token"), "token", "another program"),
        (Fault(kind="status", status=503, code="CMN-211", path=LISTS), "permission", "limited mode"),
        (Fault(kind="reset", path=LISTS), "permission", "check server"),
    ],
)
async def test_trouble_of_every_kind_has_its_remedy(fault: Fault, about: str, remedy: str) -> None:
    """Whatever comes instead of an answer, the result has the next step, and no second request follows."""
    platform = crowd(2, faults=[fault])
    results = await check(platform, extensions=tuple(platform.scenario.extension_ids()))
    (failed,) = [one for one in results if one.status == "failed"]
    assert (failed.about, remedy in failed.fix) == (about, True), failed
    assert len([request for request in platform.requests if request.path.endswith("active-calls")]) <= 1


async def test_nothing_listens() -> None:
    """The system's error, and what to check."""
    async with crowd(1).serve() as url:
        pass
    (token,) = await check_at(url)
    assert "onnection refused" in token.detail
    assert "check server" in token.fix


async def test_a_token_that_the_service_keeps_is_used(tmp_path: Path) -> None:
    """No sign-in and no revocation: the running service needs both its places and its token."""
    platform, clock = crowd(1, limits=Limits()), RealClock()
    credential = Credential()
    secret, jwt = Secret(credential.client_secret), Secret(credential.jwt)
    async with platform.serve() as url, ClientSession() as session:
        settings = SourceSettings(
            server=url, client_id=credential.client_id, client_secret=secret, jwt=jwt, hints="off"
        )
        service = SignIns(clock, path=tmp_path / FILE)
        first: list[ConnectivityResult] = []
        form = {"grant_type": JWT_GRANT, "assertion": credential.jwt}
        tokens = platform.tokens.exchange(credential, form, datetime.now(UTC))
        digest = credential_digest(settings)
        service.keep(digest, tokens.access_token, "7", 3600)
        await service.close()
        command = SignIns(clock, path=tmp_path / FILE, writes=False)
        await command.load()
        await check_source("acme", settings, first.append, session=session, sign_ins=command, clock=clock)
    results = by_subject(first)
    assert results["token"] == ConnectivityResult("good", "the service's token, extension 7", about="token")
    assert {one.status for one in first} == {"good"}
    assert [request.path.rpartition("/")[2] for request in platform.requests] == ["active-calls"]


async def test_of_many_sources_of_one_app_those_that_wait_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four sign in; the others say how many are ahead and that it is no fault; no request is refused."""
    monkeypatch.setattr(check_module, "SIGN_IN_TIMEOUT_S", 2.0)
    users = [Credential(jwt=f"jwt-{number}", extension_id=str(400_200_001 + number)) for number in range(6)]
    platform, clock = crowd(6, limits=Limits(), credentials=users), RealClock()
    results: list[ConnectivityResult] = []
    async with platform.serve() as url, ClientSession() as session:
        sign_ins = SignIns(clock)
        sources = [
            SourceSettings(
                server=url, client_id=one.client_id, client_secret=Secret(one.client_secret), jwt=Secret(one.jwt)
            )
            for one in users
        ]
        await asyncio.gather(
            *[
                check_source("acme", one, results.append, session=session, sign_ins=sign_ins, clock=clock)
                for one in sources
            ]
        )
    waiting = [one for one in results if one.status == "unasked" and one.about == "token"]
    # The first of the two may give up before the second counts those ahead of it.
    details = [one.detail.partition(":")[0] for one in waiting]
    assert details in ([f"waiting to sign in, {n} ahead" for n in ahead] for ahead in ((0, 1), (1, 0), (0, 0)))
    assert waiting[0].fix == "run the check again in a minute"
    assert 429 not in {request.status for request in platform.requests}
