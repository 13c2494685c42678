"""The API server as the engineer sees it: the official client on threads, every refusal classified here.

Writes and lists are retried on 429, on 5xx and on broken connections, waiting as long as `Retry-After` asks;
whether a lost answer was a success is found out by asking again, which is safe for all of them.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any, Literal, Self

import orjson
import urllib3
from kubernetes import config
from kubernetes.client.api_client import ApiClient
from kubernetes.client.configuration import Configuration

from evolvent.errors import Conflict, EvolventError, Permanent, Transient
from evolvent_engineer.kubernetes.manifests import Manifest, same_experiment

Kind = Literal["jobs", "pods", "networkpolicies"]
PAGE = 500
WATCH_SECONDS = 300
"""Length of one watch; the server would choose between 30 and 60 minutes. Shorter ends find dead connections sooner."""
_SILENCE_SECONDS = 150.0
"""Bookmarks come about once a minute; a watch silent for longer than two of them is taken for dead."""
_ANSWER_SECONDS = 60.0
"""The API server itself gives up on a request after a minute."""
_CLOSE_SECONDS = 5.0
_ROOTS: dict[Kind, str] = {
    "jobs": "/apis/batch/v1",
    "pods": "/api/v1",
    "networkpolicies": "/apis/networking.k8s.io/v1",
}
_NEW = {"fieldValidation": "Strict", "fieldManager": "evolvent-engineer"}
_AT_ONCE = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background", "gracePeriodSeconds": 0}
"""Without a policy the pods of a deleted Job go on running."""
_TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})


class Expired(EvolventError):
    """The version to resume from has been compacted: list again (HTTP 410)."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How a failing request is repeated."""

    first: float = 0.25
    """Seconds before the second attempt; doubled for each further one."""
    longest: float = 15.0
    attempts: int = 8
    """About a minute in all, after which the message that caused the request is delivered again."""

    def delay(self, attempt: int, asked: float | None) -> float:
        """Seconds to wait after attempt 0, 1, …; what the server asked for is never undercut."""
        return max(min(self.first * 2.0**attempt, self.longest), asked or 0.0)


@dataclass(frozen=True, slots=True)
class Answer:
    """A response read to its end."""

    status: int
    body: Manifest
    retry_after: float | None

    @property
    def message(self) -> str:
        return str(self.body.get("message", self.body))


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a watch."""

    type: str
    object: Manifest
    version: str
    """Where to resume after it."""


class Client:
    """One namespace of one API server."""

    def __init__(
        self, configuration: Configuration, namespace: str, *, workers: int = 8, patience: Patience | None = None
    ) -> None:
        configuration.retries = False  # they belong to one place, and that is `_ask`
        configuration.connection_pool_maxsize = workers + 2
        self.namespace = namespace
        self._api = ApiClient(configuration)
        self._threads = ThreadPoolExecutor(workers + 2, "kubernetes")
        self._room = asyncio.Semaphore(workers)
        self._patience = patience or Patience()
        self._open: set[urllib3.BaseHTTPResponse] = set()

    @classmethod
    def connect(cls, namespace: str) -> Self:
        """Use the pod's service account inside a cluster, and the kubeconfig outside.

        Raises:
            Permanent: neither is there.
        """
        configuration = Configuration()
        try:
            try:
                config.load_incluster_config(configuration)  # type: ignore[no-untyped-call]
            except config.ConfigException:
                config.load_kube_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        except config.ConfigException as error:
            raise Permanent(f"no cluster is configured: {error}; set KUBECONFIG or run inside one") from error
        return cls(configuration, namespace)

    async def create_job(self, manifest: Manifest) -> Manifest:
        """Create a Job, or find that the same one exists; returns it as the server has it. Idempotent.

        Raises:
            Conflict: another Job has the name.
            Permanent: the server refuses the manifest or us.
            Transient: it did not answer for about a minute, or a quota is exhausted.
        """
        answer = await self._ask("POST", self._path("jobs"), _NEW, manifest)
        if answer.status == HTTPStatus.CONFLICT:
            return await self._adopt(manifest)
        return self._require(answer, f"Job {manifest['metadata']['name']}")

    async def _adopt(self, manifest: Manifest) -> Manifest:
        name = manifest["metadata"]["name"]
        answer = await self._ask("GET", self._path("jobs", name))
        if answer.status == HTTPStatus.NOT_FOUND:
            raise Transient(f"Job {name} vanished while it was being adopted", delay=1.0)
        found = self._require(answer, f"Job {name}")
        if not same_experiment(found, manifest):
            raise Conflict(f"Job {name} exists and was built from another manifest; delete it, or change the try")
        return found

    async def create_policy(self, manifest: Manifest) -> None:
        """Create a network policy, or find that its name is taken, which only the same one can have. Idempotent.

        Raises:
            Permanent, Transient: as for `create_job`.
        """
        answer = await self._ask("POST", self._path("networkpolicies"), _NEW, manifest)
        if answer.status != HTTPStatus.CONFLICT:
            self._require(answer, f"NetworkPolicy {manifest['metadata']['name']}")

    async def delete_job(self, name: str) -> None:
        """Delete a Job and its pods at once. Idempotent.

        Raises:
            Permanent, Transient: as for `create_job`.
        """
        answer = await self._ask("DELETE", self._path("jobs", name), {}, _AT_ONCE)
        if answer.status != HTTPStatus.NOT_FOUND:
            self._require(answer, f"Job {name}")

    async def delete_jobs(self, selector: str) -> None:
        """Delete all Jobs that a label selector finds, and their pods, at once. Idempotent.

        Raises:
            Permanent, Transient: as for `create_job`.
        """
        answer = await self._ask("DELETE", self._path("jobs"), {"labelSelector": selector}, _AT_ONCE)
        self._require(answer, f"Jobs of {selector}")

    async def list(self, kind: Kind, selector: str) -> tuple[list[Manifest], str]:
        """All objects a label selector finds, and the version from which to watch.

        Raises:
            Expired: the pages took too long; list again.
            Permanent, Transient: as for `create_job`.
        """
        items: list[Manifest] = []
        query = {"labelSelector": selector, "limit": str(PAGE)}
        while True:
            answer = await self._ask("GET", self._path(kind), query)
            if answer.status == HTTPStatus.GONE:
                raise Expired(answer.message)
            page = self._require(answer, f"{kind} of {selector}")
            items += page["items"]
            query["continue"] = page["metadata"].get("continue", "")
            if not query["continue"]:
                return items, page["metadata"]["resourceVersion"]

    def _path(self, kind: Kind, name: str = "") -> str:
        found = f"{_ROOTS[kind]}/namespaces/{self.namespace}/{kind}"
        return f"{found}/{name}" if name else found

    async def watch(self, kind: Kind, selector: str, version: str) -> AsyncIterator[Event]:
        """Everything that changes after `version`, until the server or the network ends the stream.

        Raises:
            Expired: list again.
            Permanent: the server refuses us.
            Transient: watch again from the last version after its delay.
        """
        response = await self._open_watch(kind, selector, version)
        self._open.add(response)
        try:
            async for line in self._lines(response):
                yield _event(line)
        finally:
            _stop(response)
            self._open.discard(response)

    async def _open_watch(self, kind: Kind, selector: str, version: str) -> urllib3.BaseHTTPResponse:
        query = {
            "labelSelector": selector,
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        start = partial(self._send, "GET", self._path(kind), query, None, _SILENCE_SECONDS)
        response: urllib3.BaseHTTPResponse = await self._thread(start)
        if response.status != HTTPStatus.OK:
            answer = await self._thread(partial(_read, response))
            if answer.status == HTTPStatus.GONE:
                raise Expired(answer.message)
            self._require(answer, f"watch of {kind}")
        return response

    def _send(
        self, method: str, path: str, query: dict[str, str], body: Manifest | None, seconds: float
    ) -> urllib3.BaseHTTPResponse:
        """Use the client's transport and credentials, and none of its models: they cost more than the request."""
        params = self._api.param_serialize(
            method,
            path,
            query_params=list(query.items()),
            header_params={"Accept": "application/json", "Content-Type": "application/json"},
            body=body,
            auth_settings=["BearerToken"],
        )
        response: urllib3.BaseHTTPResponse = self._api.call_api(*params, _request_timeout=(10, seconds)).response
        return response

    async def _lines(self, response: urllib3.BaseHTTPResponse) -> AsyncIterator[bytes]:
        """Whole lines; a piece of one at the end belongs to a broken stream and is dropped."""
        rest = b""
        while chunk := await self._thread(partial(response.read1, 1 << 16)):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in filter(None, lines):
                yield line

    async def _thread(self, call: Callable[[], Any]) -> Any:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, call)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise Transient(f"the API server cannot be reached: {error}", delay=self._patience.first) from error

    async def _ask(
        self, method: str, path: str, query: dict[str, str] | None = None, body: Manifest | None = None
    ) -> Answer:
        """Send one request until it is answered; returns refusals, which their callers name."""
        send = partial(self._send, method, path, query or {}, body, _ANSWER_SECONDS)
        for attempt in range(self._patience.attempts):
            try:
                async with self._room:
                    answer: Answer = await self._thread(lambda: _read(send()))
            except Transient as error:
                failure, asked = str(error), None
            else:
                if answer.status not in _TRANSIENT:
                    return answer
                failure, asked = f"{answer.status} {answer.message}", answer.retry_after
            delay = self._patience.delay(attempt, asked)
            if attempt + 1 < self._patience.attempts:
                await asyncio.sleep(delay)
        raise Transient(f"the API server failed {self._patience.attempts} times, last with {failure}", delay=delay)

    def _require(self, answer: Answer, what: str) -> Manifest:
        if answer.status < HTTPStatus.BAD_REQUEST:
            return answer.body
        said = f"{what}: {answer.status} {answer.message}"
        if answer.status in _TRANSIENT:
            raise Transient(said, delay=answer.retry_after or self._patience.first)
        if answer.status == HTTPStatus.FORBIDDEN and "exceeded quota" in answer.message:
            raise Transient(f"{said}; it is tried again when other experiments have ended", delay=30.0)
        raise Permanent(said)

    async def close(self) -> None:
        """Unblock every watch and end the threads. Idempotent."""
        for response in list(self._open):
            _stop(response)
        with contextlib.suppress(TimeoutError):  # a request that hangs may not hold up a drain
            async with asyncio.timeout(_CLOSE_SECONDS):
                await asyncio.get_running_loop().run_in_executor(None, self._threads.shutdown)
        self._api.close()  # type: ignore[no-untyped-call]


def _stop(response: urllib3.BaseHTTPResponse) -> None:
    """End a stream that a thread may be reading; closing alone would wait for that thread."""
    with contextlib.suppress(ValueError, RuntimeError, OSError):  # it has ended already
        response.shutdown()
    response.close()


def _read(response: urllib3.BaseHTTPResponse) -> Answer:
    try:
        content = response.read()
    finally:
        response.release_conn()
    asked = response.headers.get("Retry-After", "")
    return Answer(response.status, _decoded(content), float(asked) if asked.isdigit() else None)


def _decoded(content: bytes) -> Manifest:
    """The body; what is no JSON object (a proxy's error page) becomes the message."""
    try:
        found = orjson.loads(content)
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {"message": content[:500].decode(errors="replace")}


def _event(line: bytes) -> Event:
    """Decode one line.

    Raises:
        Expired: an ERROR of code 410, which comes with status 200.
        Transient: another ERROR, or what is no event at all.
    """
    try:
        found = orjson.loads(line)
        kind, item = found["type"], found["object"]
        if kind != "ERROR":
            return Event(kind, item, item["metadata"]["resourceVersion"])
        code, message = item["code"], str(item.get("message", ""))
    except (ValueError, KeyError, TypeError) as error:
        raise Transient(f"the watch sent {line[:200]!r}, which is no event", delay=1.0) from error
    if code == HTTPStatus.GONE:
        raise Expired(message)
    raise Transient(f"the watch failed: {code} {message}", delay=1.0)
