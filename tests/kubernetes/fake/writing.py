"""CREATE, UPDATE, PATCH, DELETE: decoding, defaulting, admission, validation, then the store."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.kubernetes.fake import defaults, patches, schema, validation
from tests.kubernetes.fake.admission import LEVEL, over, refusal
from tests.kubernetes.fake.cluster import Cluster
from tests.kubernetes.fake.resources import JOBS, NAMESPACES, PODS, QUOTAS, Resource, Target
from tests.kubernetes.fake.status import ApiError, Manifest, bad_request, clone, invalid
from tests.kubernetes.fake.store import not_found

ORPHANS = (
    "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them "
    "or set propagationPolicy=Orphan to suppress this warning"
)
_PATCHES = (
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/json-patch+json",
    "application/apply-patch+yaml",
)


@dataclass(frozen=True)
class Reply:
    """An answer that is no refusal."""

    code: int
    body: Manifest
    warnings: list[str] = field(default_factory=list)


class Writer:
    """The write verbs of one cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._store = cluster.store

    def create(self, found: Target, body: Manifest, query: Mapping[str, str], manager: str) -> Reply:
        """POST.

        Raises:
            ApiError: whatever the server refuses.
        """
        warnings = self._decode(found, body, query)
        item, owned = self._prepare(found, body)
        warnings += self._admit(found, item)
        if query.get("dryRun") == "All":
            return Reply(201, self._dry(found.resource, item, owned, manager), warnings)
        return Reply(201, self._store.create(found.resource, item, manager, owned), warnings)

    def _dry(self, resource: Resource, item: Manifest, owned: Manifest, manager: str) -> Manifest:
        """What a create would answer: everything but a version."""
        if self._store.peek(resource, item["metadata"].get("namespace", ""), item["metadata"]["name"]):
            return self._store.create(resource, item, manager, owned)
        stored = self._store.preview(resource, item, manager, owned)
        stored["metadata"].pop("resourceVersion", None)
        return stored

    def _decode(self, found: Target, body: Manifest, query: Mapping[str, str]) -> list[str]:
        """Check kind, types and fields; returns warnings about unknown fields."""
        kind, version = found.resource.kind, found.resource.version
        start = f'{body.get("kind")} in version "{version}" cannot be handled as a {kind}'
        if body.get("kind") != kind:
            scheme = "k8s.io/kubernetes/pkg/api/legacyscheme/scheme.go:30"
            named = f'no kind "{body.get("kind")}" is registered for version "{found.resource.api_version}"'
            raise bad_request(f'{start}: {named} in scheme "{scheme}"')
        unknown = [f'unknown field "{path}"' for path in schema.check(found.resource, body)]
        mode = query.get("fieldValidation", "Warn")
        if unknown and mode == "Strict":
            raise bad_request(f"{start}: strict decoding error: {', '.join(unknown)}")
        return unknown if mode == "Warn" else []

    def _prepare(self, found: Target, body: Manifest) -> tuple[Manifest, Manifest]:
        """Identity and defaults; returns the object and the part its creator owns."""
        item = schema.pruned(found.resource, clone(body))
        metadata = item.setdefault("metadata", {})
        self._place(found, metadata)
        if "generateName" in metadata and "name" not in metadata:
            metadata["name"] = metadata["generateName"] + self._store.suffix()
        metadata |= {"uid": self._store.uid(), "creationTimestamp": self._cluster.clock.stamp()}
        if found.resource is JOBS:
            defaults.job(item)
        elif found.resource is PODS:
            defaults.pod_spec(item["spec"])
        elif found.resource is NAMESPACES:
            defaults.namespace(item)
        owned = clone(item)
        self._complete(found.resource, item)
        return item, owned

    def _complete(self, resource: Resource, item: Manifest) -> None:
        if resource is JOBS:
            defaults.job_identity(item)
        elif resource is PODS:
            defaults.pod(item, self._cluster.priority)
        elif resource is NAMESPACES:
            item |= {"spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}
        elif resource is QUOTAS:
            item["status"] = {}

    def _place(self, found: Target, metadata: Manifest) -> None:
        if not found.resource.namespaced:
            return
        if metadata.setdefault("namespace", found.namespace) != found.namespace:
            raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
        if self._store.peek(NAMESPACES, "", found.namespace) is None:
            raise not_found(NAMESPACES, found.namespace)

    def _admit(self, found: Target, item: Manifest) -> list[str]:
        """Validation, quota and Pod Security; returns warnings."""
        resource, name = found.resource, item["metadata"]["name"]
        causes = validation.job(item) if resource is JOBS else list(validation.name(name))
        if resource is PODS:
            causes += validation.pod_spec(item["spec"], "spec")
        if causes:
            raise invalid(resource.kind, resource.group, name, causes)
        why = over(self._cluster, resource, found.namespace)
        if resource is PODS:
            why = refusal(self._cluster, found.namespace, item)
        if why:
            message = f'{resource.qualified} "{name}" is forbidden: {why}'
            raise ApiError(403, "Forbidden", message, details=resource.details(name))
        return self._pod_security(found, item)

    def _pod_security(self, found: Target, item: Manifest) -> list[str]:
        """What the level of warnings says of a Job's pods, or of a pod."""
        if found.resource not in (JOBS, PODS):
            return []
        levels = self._store.get(NAMESPACES, "", found.namespace)["metadata"].get("labels", {})
        if levels.get(f"{LEVEL}warn") != "restricted":
            return []
        faults = validation.restricted(item["spec"] if found.resource is PODS else item["spec"]["template"]["spec"])
        return [f'would violate PodSecurity "restricted:latest": {faults}'] if faults else []

    def replace(self, found: Target, body: Manifest, query: Mapping[str, str], manager: str) -> Reply:
        """PUT; the main resource keeps its status, `/status` keeps the rest."""
        warnings = self._decode(found, body, query)
        before = self._store.get(found.resource, found.namespace, found.name)
        after = clone(body)
        if found.subresource == "status":
            after = before | {"status": body["status"]}
            after["metadata"] = before["metadata"] | {"resourceVersion": body["metadata"].get("resourceVersion", "")}
        elif "status" in before:
            after["status"] = before["status"]
        return Reply(200, self._update(found, before, after, manager), warnings)

    def _update(self, found: Target, before: Manifest, after: Manifest, manager: str) -> Manifest:
        given = after["metadata"].get("resourceVersion", "")
        if found.resource is JOBS and given in ("", before["metadata"]["resourceVersion"]):
            defaults.job(after)
            if causes := validation.immutable(before, after):
                raise invalid("Job", "batch", found.name, causes)
        if before["spec"] != after["spec"]:
            after["metadata"]["generation"] = before["metadata"].get("generation", 1) + 1
        return self._store.update(found.resource, after, manager, found.subresource)

    def patch(self, found: Target, kind: str, body: Any, query: Mapping[str, str], manager: str) -> Reply:
        """PATCH in one of four content types.

        Raises:
            ApiError: 415 for another, and whatever a PUT may raise.
        """
        if kind not in _PATCHES:
            message = "415: Unsupported Media Type"
            raise ApiError(415, "UnsupportedMediaType", message, details={})
        if kind == "application/apply-patch+yaml":
            return self._apply(found, body, query)
        before = self._store.get(found.resource, found.namespace, found.name)
        after = _patched(found.resource, kind, before, body)
        if found.subresource == "status":
            after = before | {"status": after["status"]}
        if found.resource is PODS:
            defaults.pod_conditions(after)
        return Reply(200, self._update(found, before, after, manager))

    def _apply(self, found: Target, body: Manifest, query: Mapping[str, str]) -> Reply:
        manager = query.get("fieldManager")
        if not manager:
            message = "Required value: is required for apply patch"
            error = invalid("PatchOptions", "meta.k8s.io", "", [("FieldValueRequired", message, "fieldManager")])
            raise error
        self._decode(found, body, query)
        before = self._store.peek(found.resource, found.namespace, found.name)
        if before is None:
            item, _ = self._prepare(found, body)
            self._admit(found, item)
            return Reply(201, self._store.apply(found.resource, body, item, manager, new=True))
        after = _patched(found.resource, _PATCHES[1], before, body)
        return Reply(200, self._store.apply(found.resource, body, after, manager, new=False))

    def delete(self, found: Target, options: Manifest) -> Reply:
        """DELETE one object."""
        item = self._store.get(found.resource, found.namespace, found.name)
        policy = options.get("propagationPolicy")
        warnings = [ORPHANS] if found.resource is JOBS and policy is None else []
        self._check_precondition(found.resource, item, options, warnings)
        uid = item["metadata"]["uid"]
        gone = found.resource.details(found.name, uid=uid)
        success = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": gone}
        if found.resource is JOBS:
            return Reply(200, self._cluster.delete_job(item, policy or "Orphan") or success, warnings)
        if found.resource is PODS:
            grace = options.get("gracePeriodSeconds")
            self._cluster.delete_pod(found.namespace, found.name, None if grace is None else int(grace))
            return Reply(200, self._store.peek(PODS, found.namespace, found.name) or success)
        self._store.remove(found.resource, found.namespace, found.name)
        return Reply(200, success)

    def _check_precondition(self, resource: Resource, item: Manifest, options: Manifest, warnings: list[str]) -> None:
        wanted = options.get("preconditions", {}).get("uid")
        uid, name = item["metadata"]["uid"], item["metadata"]["name"]
        if wanted is None or wanted == uid:
            return
        kind = f"{resource.kind}.{resource.group}" if resource.group else resource.kind
        differs = f"the UID in the precondition ({wanted}) does not match the UID in record ({uid})"
        recreated = "The object might have been deleted and then recreated"
        message = f'Operation cannot be fulfilled on {kind} "{name}": {differs}. {recreated}'
        headers = {"Warning": ", ".join(f'299 - "{text}"' for text in warnings)} if warnings else {}
        details = resource.details(name, kind=resource.kind)
        raise ApiError(409, "Conflict", message, details=details, headers=headers)


def _patched(resource: Resource, kind: str, before: Manifest, body: Any) -> Manifest:
    if kind == "application/merge-patch+json":
        after = patches.merge(before, body)
    elif kind == "application/strategic-merge-patch+json":
        after = patches.strategic(before, body, schema.of(resource))
    else:
        after = patches.json_patch(before, body)
    found: Manifest = after
    return found
