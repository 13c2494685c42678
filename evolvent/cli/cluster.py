"""What `evolvent doctor --cluster` looks at beside the bus: the API server, rights, quota, GPUs, images, vectors."""

import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http import HTTPStatus
from itertools import starmap
from typing import Any

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from evolvent.checks import Check

RIGHTS = {
    "jobs": ("batch", ("create", "get", "list", "watch", "delete", "deletecollection")),
    "pods": ("", ("get", "list", "watch")),
    "networkpolicies": ("networking.k8s.io", ("create",)),
}
"""What the engineer asks of the API server; k8s/base/engineer/rights.yaml grants it."""
PATIENCE = 5.0
"""Seconds that a server has to answer."""
LITTLE = 0.9
"""Share of a quota that is used."""
GPU = "nvidia.com/gpu"
REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
REVIEW = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview"}
REFERENCE = re.compile(r"^[a-z0-9]+([._/:-][a-zA-Z0-9_]+)*(:[\w][\w.-]{0,127})?(@sha256:[0-9a-f]{64})?$")
"""What names an image: host, team and name, tag, digest."""


class Target(BaseSettings):
    """What the cluster's checks must know, from the variables that the roles read."""

    model_config = SettingsConfigDict(env_prefix="EVOLVENT_", env_parse_none_str="none")

    experiment_namespace: str = "evolvent-experiments"
    experiment_image: str = ""
    experiment_node_selector: dict[str, str] = Field(default_factory=dict)
    experiment_service_account: str = "experiment"
    experiment_group_service: str = "ranks"
    experiment_runtime_class: str | None = "gvisor"
    experiment_priority_class: str | None = None
    cognition_qdrant_url: str | None = None


def examine(target: Target) -> Iterator[Check]:
    """Look at everything once; what cannot be seen for lack of rights is told as such."""
    yield _image(target.experiment_image)
    yield _vectors(target.cognition_qdrant_url)
    try:
        from kubernetes import client, config
    except ImportError:
        yield Check("api server", "fail", "no client is installed", "`pip install 'evolvent[kubernetes]'`")
        return
    try:
        api = _connect(client, config)
        version = _ask(api, "GET", "/version")["gitVersion"]
    except Exception as error:  # noqa: BLE001 - the process boundary: urllib3, ssl, yaml and the client's own all end here
        where = os.environ.get("KUBECONFIG", "~/.kube/config")
        mend = "set KUBECONFIG to the configuration of a cluster that is up, or run where a service account is mounted"
        yield Check("api server", "fail", f"{where}: {_first(error)}", mend)
        return
    yield Check("api server", "ok", f"{version} at {api.configuration.host}")
    looks = {"rights": _rights, "pods": _pods, "quota": _quota, "gpu nodes": _gpus}
    yield from starmap(lambda name, look: _seen(name, look, api, target), looks.items())


def _connect(client: Any, config: Any) -> Any:
    configuration = client.Configuration()
    configuration.retries = False
    try:
        config.load_incluster_config(configuration)
    except config.ConfigException:
        config.load_kube_config(client_configuration=configuration)
    return client.ApiClient(configuration)


class _Answer(Exception):
    """The API server answered with a status that is no success."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"HTTP {status}: {message}"[:200])
        self.status = status


def _ask(api: Any, method: str, path: str, *, body: Any = None, **query: str) -> Any:
    """Send a request with the client's credentials and read plain JSON: its models refuse what newer servers add.

    Raises:
        _Answer: the server refused.
        OSError: it cannot be reached.
    """
    heads = {"Accept": "application/json", "Content-Type": "application/json"}
    wanted = {"query_params": list(query.items()), "header_params": heads, "auth_settings": ["BearerToken"]}
    import urllib3

    params = api.param_serialize(method, path, body=body, **wanted)
    try:
        response = api.call_api(*params, _request_timeout=PATIENCE).response
        answer = json.loads(response.read())
    except urllib3.exceptions.HTTPError as error:
        raise OSError(f"the API server cannot be reached: {error}") from error
    if response.status >= HTTPStatus.BAD_REQUEST:
        raise _Answer(response.status, str(answer.get("message", "")))
    return answer


def _seen(name: str, look: Callable[[Any, Target], Check], api: Any, target: Target) -> Check:
    try:
        return look(api, target)
    except _Answer as error:
        if error.status == HTTPStatus.FORBIDDEN:
            return Check(name, "warn", str(error), "ask with an operator's kubeconfig")
        return Check(name, "fail", str(error), "try again")
    except (OSError, ValueError) as error:
        return Check(name, "fail", _first(error), "try again")


def _rights(api: Any, target: Target) -> Check:
    """Ask the server what we may do; the engineer's own rights are seen from its pod."""
    missing = []
    for resource, (group, verbs) in RIGHTS.items():
        for verb in verbs:
            place = {"namespace": target.experiment_namespace, "group": group, "resource": resource, "verb": verb}
            answer = _ask(api, "POST", REVIEWS, body={"spec": {"resourceAttributes": place}, **REVIEW})
            missing += [] if answer["status"]["allowed"] else [f"{verb} {resource}"]
    where = f"in {target.experiment_namespace}"
    if not missing:
        return Check("rights", "ok", f"can create, watch and delete Jobs and let their pods meet {where}")
    mend = "bind the role of k8s/base/engineer/rights.yaml to the engineer's service account"
    return Check("rights", "fail", f"cannot {', '.join(missing)} {where}", mend)


def _pods(api: Any, target: Target) -> Check:
    """Look for what pods name: where one is missing they are refused, or do not find each other, and a Job waits."""
    space = target.experiment_namespace
    named = {
        f"/api/v1/namespaces/{space}/serviceaccounts": target.experiment_service_account,
        f"/api/v1/namespaces/{space}/services": target.experiment_group_service,
        "/apis/node.k8s.io/v1/runtimeclasses": target.experiment_runtime_class,
        "/apis/scheduling.k8s.io/v1/priorityclasses": target.experiment_priority_class,
    }
    wanted = {f"{path.rpartition('/')[2]}/{name}": f"{path}/{name}" for path, name in named.items() if name}
    missing = [name for name, path in wanted.items() if not _exists(api, path)]
    if not missing:
        return Check("pods", "ok", f"{', '.join(wanted)} exist")
    names = "SERVICE_ACCOUNT,GROUP_SERVICE,RUNTIME_CLASS,PRIORITY_CLASS"
    mend = f"apply k8s/base/experiments, or set EVOLVENT_EXPERIMENT_{{{names}}}; a class may be `none`"
    return Check("pods", "fail", f"without {', '.join(missing)} no pod of an experiment gets to work", mend)


def _exists(api: Any, path: str) -> bool:
    try:
        _ask(api, "GET", path)
    except _Answer as error:
        if error.status == HTTPStatus.NOT_FOUND:
            return False
        raise
    return True


def _quota(api: Any, target: Target) -> Check:
    """Compare what is used with what is allowed, resource by resource."""
    found = _ask(api, "GET", f"/api/v1/namespaces/{target.experiment_namespace}/resourcequotas")
    shares: dict[str, float] = {}
    seen: list[str] = []
    for quota in found["items"]:
        hard, used = quota["spec"].get("hard", {}), quota.get("status", {}).get("used", {})
        seen += [f"{name} {used.get(name, '?')} of {limit}" for name, limit in hard.items()]
        shares |= {name: _number(used.get(name, "0")) / max(_number(limit), 1e-9) for name, limit in hard.items()}
    if not seen:
        return Check("quota", "warn", f"none in {target.experiment_namespace}", "apply k8s/base/experiments/quota.yaml")
    full = sorted(name for name, share in shares.items() if share >= LITTLE)
    if not full:
        return Check("quota", "ok", ", ".join(seen), measured=shares)
    mend = f"raise {', '.join(full)}, or wait for Jobs to end; experiments wait meanwhile"
    return Check("quota", "fail" if any(shares[name] >= 1 for name in full) else "warn", ", ".join(seen), mend, shares)


def _number(quantity: str) -> float:
    """Read a quantity (Kubernetes `resource.Quantity`)."""
    from kubernetes.utils.quantity import parse_quantity

    return float(parse_quantity(quantity))  # type: ignore[no-untyped-call]


def _gpus(api: Any, target: Target) -> Check:
    """Count the GPUs that experiments can be given, on nodes that the selector finds and that take pods."""
    selector = ",".join(f"{name}={value}" for name, value in target.experiment_node_selector.items())
    nodes = _ask(api, "GET", "/api/v1/nodes", labelSelector=selector)["items"]
    offered = {
        node["metadata"]["name"]: int(node.get("status", {}).get("allocatable", {}).get(GPU, 0))
        for node in nodes
        if not node["spec"].get("unschedulable")
    }
    count, measured = sum(offered.values()), {"gpus": float(sum(offered.values())), "nodes": float(len(offered))}
    if count:
        return Check("gpu nodes", "ok", f"{count} GPUs on {sum(map(bool, offered.values()))} nodes", measured=measured)
    where = f" with {selector}" if selector else ""
    mend = "install the device plugin (NVIDIA GPU operator), or correct EVOLVENT_EXPERIMENT_NODE_SELECTOR"
    return Check(
        "gpu nodes", "warn", f"none of {len(offered)} nodes{where} offers {GPU}; CPU stages run", mend, measured
    )


def _image(reference: str) -> Check:
    """Check how the experiments' image is named; whether it can be pulled is seen when the first pod starts."""
    mend = "set EVOLVENT_EXPERIMENT_IMAGE to registry/name@sha256:…"
    if not reference:
        return Check("image", "fail", "EVOLVENT_EXPERIMENT_IMAGE is not set", mend)
    if not REFERENCE.match(reference):
        return Check("image", "fail", f"{reference!r} is no image reference", mend)
    if "@sha256:" not in reference:
        return Check("image", "warn", f"{reference} may change under a run", mend)
    return Check("image", "ok", reference)


def _vectors(url: str | None) -> Check:
    """Ask Qdrant whether it is ready."""
    if url is None:
        return Check("vectors", "ok", "EVOLVENT_COGNITION_QDRANT_URL is not set: an index below cognition's home")
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/readyz", timeout=PATIENCE) as answer:  # noqa: S310
            return Check("vectors", "ok", f"{url} answers {answer.status}")
    except (urllib.error.URLError, OSError, ValueError) as error:
        mend = "start Qdrant, or correct EVOLVENT_COGNITION_QDRANT_URL; it is a fold and can be rebuilt"
        return Check("vectors", "fail", f"{url}: {_first(error)}", mend)


def _first(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
