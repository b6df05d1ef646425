"""The simulated RingCentral: an aiohttp application that answers as the platform does, on a clock that can be turned.

What it answers is a function of the scenario and the clock, so it is the same in real time, faster, and in a
test that turns the hands. Facts: developers.ringcentral.com/guide, and the recordings in tests/samples.
"""

import ssl
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler
from msgspec import Struct

from callcast.simulator import events, lists
from callcast.simulator.admin import Admin
from callcast.simulator.answers import (
    Refusal,
    another_extension,
    api_refusal,
    app_permission_missing,
    json_answer,
    not_found,
    oauth_refusal,
    user_permission_missing,
)
from callcast.simulator.calls import Record, Scenario, Truth, filled
from callcast.simulator.clock import SimulatedClock, Time, http_date
from callcast.simulator.faults import Fault, Faults, perform
from callcast.simulator.limits import Group, Limits, RateLimits
from callcast.simulator.push import Gateway, Push
from callcast.simulator.scenarios import seed
from callcast.simulator.story import Story
from callcast.simulator.tokens import Credential, Tokens
from callcast.simulator.tokens import Session as SignIn

TOKEN_PATH = "/restapi/oauth/token"  # noqa: S105 (a path)
ACCOUNT = "/restapi/v1.0/account/{account}"
EXTENSION = ACCOUNT + "/extension/{extension}"
BODY_BYTES_MAX = 1_048_576
PRESENCE_MAX = 30  # extensions in one request
MULTIPART_JSON = "application/vnd.ringcentral.multipart+json"


class Request(Struct, kw_only=True):
    """A request. `status` is 0 if no answer was sent (reset, hang); `fault` is the kind of the applied fault."""

    number: int
    at: datetime
    method: str
    path: str
    query: str
    client_id: str | None = None
    user_agent: str = ""
    group: str | None = None
    status: int = 0
    fault: str | None = None
    request_id: str = ""


class RequestLog:
    """The last 10,000 requests, and how many there were in all. Holds no secret."""

    def __init__(self) -> None:
        self._requests: deque[Request] = deque(maxlen=10_000)
        self.count = 0

    def __iter__(self) -> Iterator[Request]:
        return iter(self._requests)

    def begin(self, at: datetime, method: str, path: str, query: str, user_agent: str) -> Request:
        self.count += 1
        request = Request(
            number=self.count,
            at=at,
            method=method,
            path=path,
            query=query,
            user_agent=user_agent,
            request_id=f"simulated-{self.count:08d}",
        )
        self._requests.append(request)
        return request

    def clear(self) -> None:
        self._requests.clear()
        self.count = 0


REQUEST: web.RequestKey[Request] = web.RequestKey("callcast_request", Request)
CREDENTIAL: web.RequestKey[Credential] = web.RequestKey("callcast_credential", Credential)
SIGN_IN: web.RequestKey[SignIn] = web.RequestKey("callcast_sign_in", SignIn)


class Platform:
    """The platform behind one scenario.

    scenario: default the recorded seed, one response further with every poll.
    clock: what `Date`, windows, token lives and the scenario run on; default this machine's.
    limits: None lets everything pass and sends no rate limit headers.
    refresh_tokens: the app's setting to issue them (off on the real platform unless asked for).
    push: times and limits of the WebSocket gateway. A scenario that is not a `Story` has no events, and its presence is
    hidden.
    """

    def __init__(
        self,
        scenario: Scenario | None = None,
        *,
        clock: Time | None = None,
        credentials: Iterable[Credential] = (Credential(),),
        limits: Limits | None = None,
        faults: Iterable[Fault] = (),
        token_ttl_s: float = 3600,
        refresh_tokens: bool = False,
        sessions_max: int = 5,
        push: Push | None = None,
    ) -> None:
        self.scenario: Scenario = scenario or seed.by_poll()
        self.clock: Time = clock or SimulatedClock()
        self.story = self.scenario if isinstance(self.scenario, Story) else None  # others have lists only
        self.tokens = Tokens(credentials, ttl_s=token_ttl_s, refresh=refresh_tokens, sessions_max=sessions_max)
        self.limits = RateLimits(limits)
        self.requests = RequestLog()
        self.faults = Faults()
        self.push = Gateway(self, push or Push())
        if isinstance(self.clock, SimulatedClock):
            self.clock.on_turn.append(self.push.wake)
        for fault in [*(self.story.faults if self.story else ()), *faults]:
            self.strike(fault)

    def truth(self) -> Sequence[Truth]:
        """What has really happened so far."""
        return self.scenario.truth(self.clock.now())

    def strike(self, fault: Fault) -> int:
        """Arm a fault from now on."""
        number = self.faults.add(fault, self.clock.now())
        self.push.wake()
        return number

    def app(self) -> web.Application:
        """A new application; all of them share this platform's state."""
        app = web.Application(middlewares=[self._gate], client_max_size=BODY_BYTES_MAX)
        app.router.add_post(TOKEN_PATH, self._token)
        app.router.add_post("/restapi/oauth/revoke", self._revoke)
        for level in (EXTENSION, ACCOUNT):
            app.router.add_get(level + "/active-calls", self._active_calls)
            app.router.add_get(level + "/call-log", self._call_log)
            app.router.add_get(level + "/call-log/{record}", self._call_log_record)
        app.router.add_get(EXTENSION + "/presence", self._presence)
        app.router.add_post("/restapi/oauth/wstoken", self._ws_token)
        app.router.add_get("/ws", self.push.connect)
        app.router.add_get(ACCOUNT + "/extension", self._extensions)
        app.router.add_get(ACCOUNT + "/telephony/sessions/{session}", self._telephony_session)
        app.router.add_routes(Admin(self).routes())
        app.on_response_prepare.append(self._stamp)
        app.on_shutdown.append(self.push.close)
        return app

    @asynccontextmanager
    async def serve(
        self, host: str = "127.0.0.1", port: int = 0, *, tls: ssl.SSLContext | None = None
    ) -> AsyncIterator[str]:
        """Listen until the block ends; yields the base URL. Port 0 is any free port."""
        runner = web.AppRunner(self.app(), access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port, ssl_context=tls).start()
            bound = runner.addresses[0][1]
            name = f"[{host}]" if ":" in host else host
            yield f"{'https' if tls else 'http'}://{name}:{bound}"
        finally:
            await runner.cleanup()

    # What every request goes through, in this order: log, fault, who, how many, the answer itself.

    @web.middleware
    async def _gate(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path.startswith("/simulator/"):
            return await handler(request)
        noted = self.requests.begin(
            self.clock.now(),
            request.method,
            request.path,
            "" if request.path == "/ws" else request.query_string,  # holds a token
            request.headers.get("User-Agent", ""),
        )
        request[REQUEST] = noted
        fault = self.faults.strike(request.path, noted.at)
        if fault is None:
            response: web.StreamResponse = await self._answer(request, handler)
        else:
            noted.fault = fault.kind
            response = await perform(fault, request, noted.at, lambda: self._answer(request, handler))
        noted.status = 0 if noted.fault == "reset" else response.status
        return response

    async def _stamp(self, request: web.Request, response: web.StreamResponse) -> None:
        """Add the headers of each answer, incomplete ones included."""
        if (noted := request.get(REQUEST)) is not None:
            response.headers["Date"] = http_date(self.clock.now())
            response.headers["RCRequestId"] = noted.request_id

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            if request.path == "/ws":
                return await handler(request)
            return await self._counted(request, handler)
        except Refusal as refusal:
            return refusal.response()
        except web.HTTPNotFound:
            return not_found("resource").response()

    async def _counted(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        authorization, noted = request.headers.get("Authorization"), request[REQUEST]
        if request.path in (TOKEN_PATH, "/restapi/oauth/revoke"):
            credential = self.tokens.client(authorization)
        else:
            request[SIGN_IN] = self.tokens.holder(authorization, noted.at)
            credential = request[SIGN_IN].credential
        group = _group(request.path)
        noted.client_id, noted.group = credential.client_id, group
        request[CREDENTIAL] = credential
        counted = credential.client_id if group == "auth" else credential.user
        self.limits.count(counted, group, noted.at)
        self.limits.enter(credential.user, request.path_qs)
        try:
            response = await handler(request)
        except Refusal as refusal:
            response = refusal.response()
        finally:
            self.limits.leave(credential.user, request.path_qs)
        response.headers.update(self.limits.headers(counted, group, noted.at))
        return response

    # The token endpoint

    async def _token(self, request: web.Request) -> web.Response:
        if request.content_type != "application/x-www-form-urlencoded":
            raise oauth_refusal("invalid_request", "OAU-112", "Unsupported media type", status=415)
        form = {name: str(value) for name, value in (await request.post()).items()}
        now = self.clock.now()
        session = self.tokens.exchange(request[CREDENTIAL], form, now)
        return json_answer(self.tokens.answer(session, self.own(session.credential), now))

    async def _revoke(self, request: web.Request) -> web.Response:
        form = await request.post()
        self.tokens.revoke(str(form.get("token", request.query.get("token", ""))))
        return web.Response()

    async def _ws_token(self, request: web.Request) -> web.Response:
        return json_answer(self.push.issue(request[SIGN_IN], str(request.url.origin())))

    # Presence

    async def _presence(self, request: web.Request) -> web.Response:
        """The presence of one extension, or of up to 30 in one answer."""
        self._permit(request, "ReadPresence")
        wanted = request.match_info["extension"].split(",")
        if len(wanted) > PRESENCE_MAX:
            message = f"Extension Presence Info multipart request is limited to {PRESENCE_MAX} extensions"
            raise api_refusal(400, "InvalidMultipartRequest", message)
        if len(wanted) == 1:
            return json_answer(self._presence_of(request, wanted[0]))
        parts = []
        for asked in wanted:
            try:
                parts.append({"resourceId": asked, "status": 200, "body": self._presence_of(request, asked)})
            except Refusal as refusal:
                parts.append({"resourceId": asked, "status": refusal.status, "body": dict(refusal.body)})
        if MULTIPART_JSON in request.headers.get("Accept", ""):
            return json_answer(parts, 207, {"Content-Type": MULTIPART_JSON})
        summary = {"response": [{"href": "", "status": part["status"]} for part in parts]}
        texts = [msgspec.json.encode(part).decode() for part in (summary, *(part["body"] for part in parts))]
        body = "".join(f"--Boundary\r\nContent-Type: application/json\r\n\r\n{text}\r\n" for text in texts)
        return web.Response(
            text=body + "--Boundary--\r\n",
            status=207,
            headers={"Content-Type": 'multipart/mixed; boundary="Boundary"'},
        )

    def _presence_of(self, request: web.Request, asked: str) -> Record:
        own = self.own(request[CREDENTIAL])
        extension_id = own if asked == "~" else asked
        numbers = {str(one["id"]): one["extensionNumber"] for one in lists.directory(self.scenario, "")}
        if extension_id not in {*numbers, *self.queue_ids()}:
            raise not_found("extensionId")
        place = f"{request.url.origin()}{self.path_of(extension_id)}"
        extension = filled(uri=place, id=int(extension_id), extensionNumber=numbers.get(extension_id))
        head: Record = {"uri": f"{place}/presence", "extension": extension}
        hidden = self.hides_presence(extension_id, own)
        if hidden or extension_id not in numbers:
            return {**head, "presenceStatus": "Offline", "allowSeeMyPresence": not hidden}
        now = self.clock.now()
        sessions = self.story.sessions_of(extension_id, now) if self.story else []
        shown = events.presence(extension_id, sessions, now, ended_since=now)
        if request.query.get("detailedTelephonyState") != "true":
            shown.pop("activeCalls", None)
        return {**head, **shown}

    def path_of(self, extension_id: str | None) -> str:
        """The path of an extension, or of the account."""
        account = f"/restapi/v1.0/account/{self.scenario.account_id}"
        return f"{account}/extension/{extension_id}" if extension_id else account

    def queue_ids(self) -> set[str]:
        return {queue.id for queue in self.story.account.queues if queue.id} if self.story else set()

    def hides_presence(self, extension_id: str, asked_by: str) -> bool:
        if self.story is None:
            return True
        phones = self.story.account.extensions
        return extension_id != asked_by and any(one.presence_hidden for one in phones if one.id == extension_id)

    # The lists and what belongs to them

    async def _active_calls(self, request: web.Request) -> web.Response:
        extension = self._extension(request)
        if request.query.get("page", "1") == "1":
            self.scenario.poll(extension)
        return self._list(request, self.scenario.active(extension, self.clock.now()))

    async def _call_log(self, request: web.Request) -> web.Response:
        extension = self._extension(request)
        now = self.clock.now()
        session_id = request.query.get("telephonySessionId", request.query.get("sessionId"))
        since = lists.moment(request.query, "dateFrom")
        records = self.scenario.log(extension, now, session_id=session_id, since=since)
        return self._list(request, lists.in_log(records, request.query, now))

    async def _call_log_record(self, request: web.Request) -> web.Response:
        records = {record["id"]: record for record in self.scenario.log(self._extension(request), self.clock.now())}
        record = records.get(request.match_info["record"])  # several ids at once are not simulated
        if record is None:
            raise not_found("callRecordId")
        return json_answer(lists.as_viewed(record, lists.view(request.query, "Detailed")))

    async def _extensions(self, request: web.Request) -> web.Response:
        self._permit(request, "ReadAccounts")
        url = f"{request.url.origin()}{self._resolved(request)}"
        records = lists.directory(self.scenario, url)
        return json_answer(lists.page(url, request.query, records))

    async def _telephony_session(self, request: web.Request) -> web.Response:
        self._permit(request, "CallControl")
        session = self.scenario.session(request.match_info["session"], self.clock.now())
        if session is None:
            raise not_found("telephonySessionId")
        return json_answer(session)

    def _list(self, request: web.Request, records: Iterable[Record]) -> web.Response:
        url = f"{request.url.origin()}{self._resolved(request)}"
        return json_answer(lists.page(url, request.query, lists.chosen(records, request.query)))

    def _resolved(self, request: web.Request) -> str:
        """The request's path with the ids that `~` stands for."""
        path = request.path.replace("/account/~", f"/account/{self.scenario.account_id}")
        return path.replace("/extension/~", f"/extension/{self.own(request[CREDENTIAL])}")

    # Who may see what

    def own(self, credential: Credential) -> str:
        return credential.extension_id or self.scenario.extension_ids()[0]

    def _permit(self, request: web.Request, permission: str) -> Credential:
        """Refuse a request for another account, or without an app permission."""
        if request.match_info["account"] not in ("~", self.scenario.account_id):
            raise not_found("accountId")
        if permission not in request[CREDENTIAL].permissions:
            raise app_permission_missing(permission)
        return request[CREDENTIAL]

    def _extension(self, request: web.Request) -> str | None:
        """The extension whose list is requested; None for the account's list."""
        credential = self._permit(request, "ReadCallLog")
        asked = request.match_info.get("extension")
        if asked is None:
            if "ReadCompanyCallLog" not in credential.permissions:
                raise user_permission_missing("ReadCompanyCallLog")
            return None
        extension = self.own(credential) if asked == "~" else asked
        if extension != self.own(credential) and not credential.admin:
            raise another_extension()
        if extension not in self.scenario.extension_ids():
            raise not_found("extensionId")
        return extension


def _group(path: str) -> Group:
    if path.startswith("/restapi/oauth/"):
        return "auth"
    light = "/telephony/" in path or path.endswith("/presence")
    return "light" if light else "medium" if path.endswith("/extension") else "heavy"
