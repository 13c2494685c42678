"""What keeps a pod out of the cluster, whoever creates it: in the order of the server's plugins, and in its words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.kubernetes.fake import validation
from tests.kubernetes.fake.pods import ended
from tests.kubernetes.fake.quantities import parse
from tests.kubernetes.fake.resources import NAMESPACES, PODS, PRIORITY_CLASSES, QUOTAS, RUNTIME_CLASSES, Resource
from tests.kubernetes.fake.status import Manifest

if TYPE_CHECKING:
    from tests.kubernetes.fake.cluster import Cluster

LEVEL = "pod-security.kubernetes.io/"


def refusal(cluster: Cluster, namespace: str, pod: Manifest) -> str:
    """Why a pod is forbidden; empty when it is not."""
    return _classes(cluster, pod["spec"]) or _insecure(cluster, namespace, pod) or over(cluster, PODS, namespace)


def _classes(cluster: Cluster, spec: Manifest) -> str:
    priority, runtime = spec.get("priorityClassName"), spec.get("runtimeClassName")
    if priority and cluster.store.peek(PRIORITY_CLASSES, "", priority) is None:
        return f"no PriorityClass with name {priority} was found"
    if runtime and cluster.store.peek(RUNTIME_CLASSES, "", runtime) is None:
        return f'pod rejected: RuntimeClass "{runtime}" not found'
    return ""


def _insecure(cluster: Cluster, namespace: str, pod: Manifest) -> str:
    levels = cluster.store.get(NAMESPACES, "", namespace)["metadata"].get("labels", {})
    faults = validation.restricted(pod["spec"]) if levels.get(f"{LEVEL}enforce") == "restricted" else ""
    return faults and f'violates PodSecurity "restricted:latest": {faults}'


def over(cluster: Cluster, resource: Resource, namespace: str) -> str:
    """Which quota one object more would exceed; a quota whose controller has not counted yet limits nothing."""
    for quota in cluster.store.all(QUOTAS, namespace) if namespace else []:
        for key, limit in quota.get("status", {}).get("hard", {}).items():
            used = _used(cluster, key, resource, namespace)
            if used is not None and used + 1 > parse(limit):
                numbers = f"requested: {key}=1, used: {key}={used}, limited: {key}={limit}"
                return f"exceeded quota: {quota['metadata']['name']}, {numbers}"
    return ""


def _used(cluster: Cluster, key: str, resource: Resource, namespace: str) -> int | None:
    """How many there are; none if the key does not count the resource. `pods` are those that have not ended."""
    there = cluster.store.all(resource, namespace)
    if key == f"count/{resource.qualified}":
        return len(there)
    return sum(not ended(pod) for pod in there) if (key, resource) == ("pods", PODS) else None
