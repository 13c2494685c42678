"""WATCH: a stream of changes, resumable until the log is compacted."""

import asyncio
from collections.abc import Callable

import orjson
from aiohttp import web

from tests.kubernetes.fake import selectors
from tests.kubernetes.fake.cluster import Cluster
from tests.kubernetes.fake.listing import list_objects
from tests.kubernetes.fake.resources import Target
from tests.kubernetes.fake.status import ApiError, Manifest
from tests.kubernetes.fake.store import Change

BOOKMARK_SECONDS = 60.0
Event = tuple[str, Manifest] | None
Filter = Callable[[Manifest | None], bool]


async def watch(cluster: Cluster, request: web.Request, found: Target) -> web.StreamResponse:
    """Stream events until the time-out; none ends the stream."""
    queue: asyncio.Queue[Event] = asyncio.Queue()
    stop = _feed(cluster, request, found, queue)
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    response.enable_chunked_encoding()
    try:
        await response.prepare(request)
        while (event := await queue.get()) is not None:
            line = {"type": event[0], "object": event[1]}
            await response.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
        await response.write_eof()
    except ConnectionResetError:
        pass  # the client went away, which is how most watches end
    finally:
        stop()
    return response


def _feed(cluster: Cluster, request: web.Request, found: Target, queue: asyncio.Queue[Event]) -> Callable[[], None]:
    query = request.query
    version = query.get("resourceVersion", "")
    if version not in ("", "0") and not version.isdigit():
        raise _bad_version(version)
    wanted = _filter(found, request)
    _begin(cluster, request, found, queue, wanted)
    if "timeoutSeconds" in query:
        cluster.clock.call_later(float(query["timeoutSeconds"]), lambda: queue.put_nowait(None))
    stop = cluster.store.listen(lambda change: _push(queue, change, wanted))
    if query.get("allowWatchBookmarks") in ("true", "True"):
        _bookmark_later(cluster, found, queue)
    return stop


def _filter(found: Target, request: web.Request) -> Filter:
    by_label = selectors.labels(request.query.get("labelSelector", ""))
    by_field = selectors.fields(request.query.get("fieldSelector", ""), found.resource)

    def matches(item: Manifest | None) -> bool:
        if item is None or item["kind"] != found.resource.kind:
            return False
        metadata = item["metadata"]
        inside = found.namespace in ("", metadata.get("namespace", ""))
        return inside and by_label(metadata.get("labels", {})) and by_field(item)

    return matches


def _begin(cluster: Cluster, request: web.Request, found: Target, queue: asyncio.Queue[Event], wanted: Filter) -> None:
    """Put what lies between the client's version and now."""
    version = request.query.get("resourceVersion", "")
    if version in ("", "0"):
        for item in list_objects(cluster, found, request.query)["items"]:
            queue.put_nowait(("ADDED", {"kind": found.resource.kind, "apiVersion": found.resource.api_version} | item))
        if request.query.get("sendInitialEvents") == "true":
            queue.put_nowait(("BOOKMARK", bookmark(cluster, found, initial=True)))
        return
    try:
        for change in cluster.store.since(int(version)):
            _push(queue, change, wanted)
    except ApiError as error:
        queue.put_nowait(("ERROR", error.status()))
        queue.put_nowait(None)


def _push(queue: asyncio.Queue[Event], change: Change, wanted: Filter) -> None:
    """An object that enters the selection is added, one that leaves it is deleted."""
    before, after = wanted(change.before), wanted(change.after)
    if after:
        queue.put_nowait(("MODIFIED" if before else "ADDED", change.final))
    elif before:
        queue.put_nowait(("DELETED", change.final))


def bookmark(cluster: Cluster, found: Target, *, initial: bool = False) -> Manifest:
    metadata: Manifest = {"resourceVersion": str(cluster.store.version)}
    if initial:
        metadata["annotations"] = {"k8s.io/initial-events-end": "true"}
    item: Manifest = {"kind": found.resource.kind, "apiVersion": found.resource.api_version, "metadata": metadata}
    if found.resource.kind == "Job":
        template = {"metadata": {}, "spec": {"containers": None}}
        item |= {"spec": {"template": template}, "status": {}}
    return item


def _bookmark_later(cluster: Cluster, found: Target, queue: asyncio.Queue[Event]) -> None:
    def send() -> None:
        queue.put_nowait(("BOOKMARK", bookmark(cluster, found)))
        _bookmark_later(cluster, found, queue)

    cluster.clock.call_later(BOOKMARK_SECONDS, send)


def _bad_version(version: str) -> ApiError:
    return ApiError(
        500, "", f'resourceVersion: Invalid value: "{version}": strconv.ParseUint: parsing "{version}": invalid syntax'
    )
