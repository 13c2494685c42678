"""LIST: selectors, pages, versions."""

from collections.abc import Mapping

from tests.kubernetes.fake import defaults, selectors
from tests.kubernetes.fake.cluster import Cluster
from tests.kubernetes.fake.resources import Target
from tests.kubernetes.fake.status import ApiError, Manifest, clone
from tests.kubernetes.fake.store import continue_token, read_continue


def list_objects(cluster: Cluster, found: Target, query: Mapping[str, str]) -> Manifest:
    """Serve one page.

    Raises:
        ApiError: 400 bad selector or token, 410 expired version, 504 version of the future.
    """
    store, after = cluster.store, ""
    version = store.version
    if token := query.get("continue"):
        version, after = read_continue(token)
    elif query.get("resourceVersionMatch") == "Exact":
        version = int(query["resourceVersion"])
    refuse_future(cluster, query.get("resourceVersion", ""))
    snapshot = store.snapshot(found.resource, version)
    items = _select(found, query, [item for _, item in sorted(snapshot.items())])
    items = [item for item in items if _place(item) > after]
    limit = int(query.get("limit") or 0) or len(items)
    page, rest = items[:limit], items[limit:]
    metadata: Manifest = {"resourceVersion": str(version)}
    if rest:
        metadata |= {"continue": continue_token(version, _place(page[-1])), "remainingItemCount": len(rest)}
    kind = f"{found.resource.kind}List"
    shown = [defaults.bare(clone(item)) for item in page]
    return {"kind": kind, "apiVersion": found.resource.api_version, "metadata": metadata, "items": shown}


def _select(found: Target, query: Mapping[str, str], items: list[Manifest]) -> list[Manifest]:
    by_label = selectors.labels(query.get("labelSelector", ""))
    by_field = selectors.fields(query.get("fieldSelector", ""), found.resource)
    return [item for item in items if _within(item, found) and by_label(_labels(item)) and by_field(item)]


def _within(item: Manifest, found: Target) -> bool:
    return found.namespace in ("", item["metadata"].get("namespace", ""))


def _labels(item: Manifest) -> Mapping[str, str]:
    labels: Mapping[str, str] = item["metadata"].get("labels", {})
    return labels


def _place(item: Manifest) -> str:
    return f"/{item['metadata']['name']}"


def refuse_future(cluster: Cluster, version: str) -> None:
    """A version that does not exist yet is waited for and then refused.

    Raises:
        ApiError: 504.
    """
    current = cluster.store.version
    if version.isdigit() and int(version) > current:
        causes = [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]
        message = f"Timeout: Too large resource version: {version}, current: {current}"
        details: Manifest = {"causes": causes, "retryAfterSeconds": 1}
        raise ApiError(504, "Timeout", message, details=details, headers={"Retry-After": "1"})
