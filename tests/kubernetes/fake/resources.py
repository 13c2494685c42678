"""Which resources the server knows, and how a path names one."""

from dataclasses import dataclass

from tests.kubernetes.fake.status import Manifest, unroutable


@dataclass(frozen=True)
class Resource:
    """One row of the discovery table."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified(self) -> str:
        """`jobs.batch`, `pods`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def definition(self) -> str:
        """Name in the published OpenAPI schema."""
        return f"io.k8s.api.{(self.group or 'core').split('.')[0]}.{self.version}.{self.kind}"

    def details(self, name: str = "", **more: str) -> Manifest:
        """Details of a Status about one object."""
        found = {"name": name, "group": self.group, "kind": self.plural} | more
        return {key: value for key, value in found.items() if value}


JOBS = Resource("batch", "v1", "jobs", "Job")
PODS = Resource("", "v1", "pods", "Pod")
NAMESPACES = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
NODES = Resource("", "v1", "nodes", "Node", namespaced=False)
QUOTAS = Resource("", "v1", "resourcequotas", "ResourceQuota")
CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap")
SERVICE_ACCOUNTS = Resource("", "v1", "serviceaccounts", "ServiceAccount")
SERVICES = Resource("", "v1", "services", "Service")
PRIORITY_CLASSES = Resource("scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", namespaced=False)
RUNTIME_CLASSES = Resource("node.k8s.io", "v1", "runtimeclasses", "RuntimeClass", namespaced=False)
NETWORK_POLICIES = Resource("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy")
ACCESS_REVIEWS = Resource(
    "authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", namespaced=False
)
ALL = (
    JOBS,
    PODS,
    NAMESPACES,
    NODES,
    QUOTAS,
    CONFIG_MAPS,
    SERVICE_ACCOUNTS,
    SERVICES,
    PRIORITY_CLASSES,
    RUNTIME_CLASSES,
    NETWORK_POLICIES,
)
_BY_PATH = {(resource.group, resource.version, resource.plural): resource for resource in ALL}


@dataclass(frozen=True)
class Target:
    """What a request path points at."""

    resource: Resource
    namespace: str = ""
    name: str = ""
    subresource: str = ""


def target(path: str) -> Target:
    """Parse a request path.

    Raises:
        ApiError: 404, no such resource.
    """
    parts = [part for part in path.split("/") if part]
    if len(parts) >= 3 and parts[0] == "api":
        group, version, rest = "", parts[1], parts[2:]
    elif len(parts) >= 4 and parts[0] == "apis":
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        raise unroutable()
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2:
        namespace, rest = rest[1], rest[2:]
    resource = _BY_PATH.get((group, version, rest[0]))
    if resource is None or len(rest) > 3:
        raise unroutable()
    return Target(resource, namespace, *rest[1:])
