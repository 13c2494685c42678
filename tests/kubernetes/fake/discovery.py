"""What the server serves, as kubectl asks for it before anything else."""

from tests.kubernetes.fake.resources import ALL, JOBS, PODS, Resource
from tests.kubernetes.fake.status import Manifest

_VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
_SHORT = {"pods": ["po"], "namespaces": ["ns"], "nodes": ["no"], "resourcequotas": ["quota"], "configmaps": ["cm"]}


def discovery(path: str) -> Manifest | None:
    """The document at a discovery path; none for other paths."""
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
    if path == "/apis":
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(r) for r in _groups()]}
    for resource in ALL:
        root = f"/apis/{resource.api_version}" if resource.group else f"/api/{resource.version}"
        if path == root:
            return _resources(resource.api_version)
    return None


def _groups() -> list[Resource]:
    return list({resource.group: resource for resource in ALL if resource.group}.values())


def _group(resource: Resource) -> Manifest:
    version = {"groupVersion": resource.api_version, "version": resource.version}
    return {"name": resource.group, "versions": [version], "preferredVersion": version}


def _resources(api_version: str) -> Manifest:
    served = [resource for resource in ALL if resource.api_version == api_version]
    listed = [_described(resource) for resource in served]
    subresources = {JOBS: ["status"], PODS: ["status", "eviction", "log"]}
    listed += [_described(r) | {"name": f"{r.plural}/{name}"} for r in served for name in subresources.get(r, [])]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api_version, "resources": listed}


def _described(resource: Resource) -> Manifest:
    return {
        "name": resource.plural,
        "singularName": resource.kind.lower(),
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": _VERBS,
        "shortNames": _SHORT.get(resource.plural, []),
    }
