"""The HTTP face of the cluster: authentication, routing, faults, verbs."""

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

import orjson
from aiohttp import web

from tests.kubernetes.fake.cluster import Cluster
from tests.kubernetes.fake.discovery import discovery
from tests.kubernetes.fake.faults import Fault, Faults
from tests.kubernetes.fake.listing import list_objects
from tests.kubernetes.fake.resources import ACCESS_REVIEWS, ALL, PODS, Target, target
from tests.kubernetes.fake.status import ApiError, Manifest, method_not_allowed
from tests.kubernetes.fake.watching import watch
from tests.kubernetes.fake.writing import ORPHANS, Reply, Writer

ADMIN_TOKEN = "admin-token"
LIMITED_TOKEN = "limited-token"
_USERS = {ADMIN_TOKEN: "admin", LIMITED_TOKEN: "limited"}
_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch"}
_REVIEW = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


class ApiServer:
    """Serves one cluster on a free port of 127.0.0.1.

    `requests` counts by verb and resource; `deletions` holds the name, or the selector, and options of each DELETE.
    """

    def __init__(self, cluster: Cluster, *, rate: float | None = 1.0, open_to_all: bool = False) -> None:
        """`rate`: simulated seconds per real second; none leaves the clock to the test.

        `open_to_all`: no token is needed; kubectl sends none over plain HTTP.
        """
        self.cluster = cluster
        self.faults = Faults()
        self.requests: Counter[tuple[str, str]] = Counter()
        self.deletions: list[tuple[str, Manifest]] = []
        self.url = ""
        self._rate = rate
        self._open_to_all = open_to_all
        self._writer = Writer(cluster)
        self._ticker: asyncio.Task[None] | None = None
        self._watches: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=3 * 2**20)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        if self._rate is not None:
            self._ticker = asyncio.create_task(self.cluster.clock.follow(self._rate))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ticker is not None:
            self._ticker.cancel()
        self.drop_watches()
        await self._runner.cleanup()

    def drop_watches(self) -> None:
        """Cut every open watch in the middle, as a load balancer does."""
        for task in self._watches:
            task.cancel()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        try:
            return await self._struck(request)
        except ApiError as error:
            warning = error.headers
            return _json(error.code, error.status(), warning)

    async def _struck(self, request: web.Request) -> web.StreamResponse:
        """Serve the request through whatever faults are armed for it."""
        lost, cut = False, None
        for fault in self.faults.hits(request.method, request.path_qs):
            match fault.kind:
                case "status":
                    self.requests["fault", str(fault.code)] += 1
                    raise _failure(fault)
                case "slow":
                    await request.read()  # so that it is served though its client should be gone by then
                    await asyncio.sleep(fault.seconds)
                case "lost_response":
                    lost = True
                case "drop_watch":
                    cut = fault.seconds
        response = await self._serve(request, cut)
        if lost and request.transport is not None:
            request.transport.abort()
        return response

    async def _serve(self, request: web.Request, cut: float | None) -> web.StreamResponse:
        user = "admin" if self._open_to_all else _user(request)
        if request.path == "/openapi/v3":
            return _openapi()
        if request.path == "/version":
            return _json(200, {"major": "1", "minor": "36", "gitVersion": "v1.36.2"})
        if (document := discovery(request.path)) is not None:
            return _json(200, document)
        if request.path == _REVIEW:
            return await self._review(request, user)
        found = target(request.path)
        _authorise(user, request.method, found)
        verb = _verb(request, found)
        self.requests[verb, found.resource.plural] += 1
        if verb == "watch":
            return await self._watch(request, found, cut)
        handler = _HANDLERS.get((request.method, bool(found.name)))
        if handler is None:
            raise method_not_allowed()
        reply = await handler(self, request, found)
        return _json(reply.code, reply.body, _warnings(reply.warnings))

    async def _review(self, request: web.Request, user: str) -> web.Response:
        body = await _body(request)
        verb = body["spec"].get("resourceAttributes", {}).get("verb")
        allowed = user == "admin" or (user == "limited" and verb in ("get", "list", "watch"))
        item = body | {"metadata": {}}
        shown = self.cluster.store.preview(ACCESS_REVIEWS, item, _manager(request), item)
        return _json(201, shown | {"status": {"allowed": allowed}})

    async def _watch(self, request: web.Request, found: Target, cut: float | None) -> web.StreamResponse:
        task = asyncio.current_task()
        assert task is not None
        self._watches.add(task)
        try:
            return await asyncio.wait_for(watch(self.cluster, request, found), cut)
        except (TimeoutError, asyncio.CancelledError):
            if request.transport is not None:
                request.transport.abort()
            return web.Response()
        finally:
            self._watches.discard(task)

    async def _get(self, _: web.Request, found: Target) -> Reply:
        if found.resource is PODS and found.subresource == "log":
            raise ApiError(500, "", "no preferred addresses found; known addresses: []")
        return Reply(200, self.cluster.store.get(found.resource, found.namespace, found.name))

    async def _list(self, request: web.Request, found: Target) -> Reply:
        return Reply(200, list_objects(self.cluster, found, request.query))

    async def _create(self, request: web.Request, found: Target) -> Reply:
        body = await _body(request, found.resource.kind)
        return self._writer.create(found, body, request.query, _manager(request))

    async def _evict(self, request: web.Request, found: Target) -> Reply:
        if found.resource is not PODS or found.subresource != "eviction":
            raise method_not_allowed()
        self.cluster.evict(found.namespace, found.name)
        return Reply(201, {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201})

    async def _replace(self, request: web.Request, found: Target) -> Reply:
        body = await _body(request, found.resource.kind)
        return self._writer.replace(found, body, request.query, _manager(request))

    async def _patch(self, request: web.Request, found: Target) -> Reply:
        kind = request.headers.get("Content-Type", "").split(";")[0]
        return self._writer.patch(found, kind, await _body(request), request.query, _manager(request))

    async def _delete(self, request: web.Request, found: Target) -> Reply:
        options = await _options(request)
        self.deletions.append((found.name, options))
        return self._writer.delete(found, options)

    async def _delete_all(self, request: web.Request, found: Target) -> Reply:
        options = await _options(request)
        self.deletions.append((request.query.get("labelSelector", ""), options))
        listed = list_objects(self.cluster, found, request.query)
        for item in listed["items"]:
            self._writer.delete(
                Target(found.resource, item["metadata"]["namespace"], item["metadata"]["name"]), options
            )
        return Reply(200, listed, [ORPHANS] if "propagationPolicy" not in options else [])


Handler = Callable[[ApiServer, web.Request, Target], Awaitable[Reply]]
_HANDLERS: dict[tuple[str, bool], Handler] = {
    ("GET", True): ApiServer._get,
    ("GET", False): ApiServer._list,
    ("POST", False): ApiServer._create,
    ("POST", True): ApiServer._evict,
    ("PUT", True): ApiServer._replace,
    ("PATCH", True): ApiServer._patch,
    ("DELETE", True): ApiServer._delete,
    ("DELETE", False): ApiServer._delete_all,
}


def _failure(fault: Fault) -> ApiError:
    reason = {429: "TooManyRequests", 500: "InternalError", 503: "ServiceUnavailable"}.get(fault.code, "")
    headers = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
    details = {} if fault.retry_after is None else {"retryAfterSeconds": fault.retry_after}
    return ApiError(fault.code, reason, "injected", details=details, headers=headers)


def _json(code: int, body: Manifest, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(status=code, body=orjson.dumps(body), content_type="application/json", headers=headers)


def _warnings(found: list[str]) -> dict[str, str]:
    return {"Warning": ", ".join(f"299 - {json.dumps(text)}" for text in found)} if found else {}


def _user(request: web.Request) -> str:
    given = request.headers.get("Authorization", "")
    if not given:
        return "system:anonymous"
    user = _USERS.get(given.removeprefix("Bearer "))
    if user is None:
        raise ApiError(401, "Unauthorized", "Unauthorized")
    return user


def _verb(request: web.Request, found: Target) -> str:
    if request.method == "DELETE":
        return "delete" if found.name else "deletecollection"
    if request.method != "GET":
        return _VERBS.get(request.method, request.method.lower())
    if found.name:
        return "get"
    return "watch" if request.query.get("watch") in ("1", "true", "True") else "list"


def _authorise(user: str, method: str, found: Target) -> None:
    if user == "admin" or (user == "limited" and method == "GET"):
        return
    verb = _VERBS.get(method, "list" if not found.name else "get")
    details = found.resource.details()
    who = f'User "{user}" cannot {verb} resource "{found.resource.plural}"'
    where = f'in API group "{found.resource.group}" in the namespace "{found.namespace}"'
    message = f"{found.resource.qualified} is forbidden: {who} {where}"
    raise ApiError(403, "Forbidden", message, details=details)


def _manager(request: web.Request) -> str:
    given = request.query.get("fieldManager")
    return given if given is not None else request.headers.get("User-Agent", "").split("/")[0]


async def _body(request: web.Request, kind: str = "") -> Any:
    text = await request.text()
    try:
        return json.loads(text)
    except ValueError as error:
        reason = f"couldn't get version/kind; json parse error: unexpected end of JSON input ({text})"
        message = f"the object provided is unrecognized (must be of type {kind}): {reason}"
        raise ApiError(400, "BadRequest", message) from error


async def _options(request: web.Request) -> Manifest:
    text = await request.text()
    given = {key: value for key, value in request.query.items() if key in ("propagationPolicy", "gracePeriodSeconds")}
    found: Manifest = (json.loads(text) if text else {}) | given
    return found


def _openapi() -> web.Response:
    """The index, for the groups that are served."""
    groups = {f"apis/{r.api_version}" if r.group else f"api/{r.version}" for r in ALL}
    paths = {path: {"serverRelativeURL": f"/openapi/v3/{path}?hash=0"} for path in sorted(groups)}
    return web.Response(body=json.dumps({"paths": paths}).encode(), content_type="text/plain", charset="utf-8")
