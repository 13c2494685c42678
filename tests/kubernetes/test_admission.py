"""A Job is taken, and its pods are not: what the server refuses to its own controllers."""

from collections.abc import Callable

import pytest

from evolvent_engineer.kubernetes.manifests import experiment_job
from tests.kubernetes.conformance import job
from tests.kubernetes.fake import Cluster, Node, validation
from tests.kubernetes.fake.resources import JOBS, NAMESPACES, PODS, PRIORITY_CLASSES, QUOTAS, Target
from tests.kubernetes.fake.status import Manifest
from tests.kubernetes.fake.writing import Writer
from tests.kubernetes.orders import NAMESPACE, order, settings

Mend = Callable[[Cluster], None]


def created(cluster: Cluster, item: Manifest) -> None:
    Writer(cluster).create(Target(JOBS, NAMESPACE), item, {}, "test")
    cluster.clock.advance(0.5)


def named(**more: str) -> Manifest:
    found = job("a")
    found["spec"]["template"]["spec"] |= more
    return found


def no_pods(cluster: Cluster) -> None:
    metadata = {"name": "q", "namespace": NAMESPACE, "uid": "q"}
    item = {"kind": "ResourceQuota", "apiVersion": "v1", "metadata": metadata, "spec": {"hard": {"pods": "0"}}}
    cluster.store.create(QUOTAS, item, "admin")
    cluster.clock.advance(0.1)


def with_quota(cluster: Cluster) -> None:
    quota = cluster.store.get(QUOTAS, NAMESPACE, "q")
    quota["status"]["hard"] = {"pods": "1"}
    cluster.store.update(QUOTAS, quota, "admin", "status")


def with_priority(cluster: Cluster) -> None:
    item = {"kind": "PriorityClass", "apiVersion": "scheduling.k8s.io/v1", "metadata": {"name": "urgent", "uid": "u"}}
    cluster.store.create(PRIORITY_CLASSES, item | {"value": 7}, "admin")


def relaxed(cluster: Cluster) -> None:
    space = cluster.store.get(NAMESPACES, "", NAMESPACE)
    space["metadata"]["labels"].pop("pod-security.kubernetes.io/enforce")
    cluster.store.update(NAMESPACES, space, "admin")


@pytest.fixture
def strict() -> Cluster:
    found = Cluster(nodes=(Node("gpu-0"),), runtime_classes=())
    found.namespace(NAMESPACE)
    return found


@pytest.mark.parametrize(
    ("item", "before", "says"),
    [
        (named(runtimeClassName="gvisor"), None, 'pod rejected: RuntimeClass "gvisor" not found'),
        (named(priorityClassName="urgent"), None, "no PriorityClass with name urgent was found"),
        (named(), no_pods, "exceeded quota: q, requested: pods=1, used: pods=0, limited: pods=0"),
    ],
)
def test_a_pod_that_is_not_admitted_leaves_its_job_without_one(
    item: Manifest, before: Mend | None, says: str, strict: Cluster
) -> None:
    if before is not None:
        before(strict)
    created(strict, item)
    assert [] == strict.store.all(PODS, NAMESPACE)
    assert [f"a: {says}"] == strict.jobs.refusals
    assert "conditions" not in strict.store.get(JOBS, NAMESPACE, "a")["status"]


def test_under_restricted_a_job_is_taken_and_its_pods_are_refused(cluster: Cluster) -> None:
    created(cluster, job("a"))
    assert [] == cluster.store.all(PODS, NAMESPACE)
    assert 'violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false' in cluster.jobs.refusals[0]


@pytest.mark.parametrize(
    ("item", "before", "mend"),
    [(named(priorityClassName="urgent"), None, with_priority), (named(), no_pods, with_quota)],
)
def test_a_refused_pod_comes_once_its_reason_is_gone(
    item: Manifest, before: Mend | None, mend: Mend, strict: Cluster
) -> None:
    if before is not None:
        before(strict)
    created(strict, item)
    mend(strict)
    strict.clock.advance(2)
    assert ["Succeeded"] == [pod["status"]["phase"] for pod in strict.store.all(PODS, NAMESPACE)]


def test_pods_are_asked_for_less_and_less_often(cluster: Cluster) -> None:
    created(cluster, job("a"))
    cluster.clock.advance(600)
    assert 5 <= len(cluster.jobs.refusals) <= 20
    relaxed(cluster)
    cluster.clock.advance(61)
    assert 1 == len(cluster.store.all(PODS, NAMESPACE))


@pytest.mark.parametrize("pods", [1, 3])
def test_what_an_experiment_asks_for_is_admitted(pods: int, cluster: Cluster) -> None:
    created(cluster, experiment_job(order(settings={"pods": pods}), settings()))
    assert pods == len(cluster.store.all(PODS, NAMESPACE))
    assert [] == cluster.jobs.refusals


def hardened() -> Manifest:
    found: Manifest = experiment_job(order(), settings())["spec"]["template"]["spec"]
    return found


def both(spec: Manifest, **more: object) -> Manifest:
    """The same security context in every container."""
    for container in spec["containers"]:
        container["securityContext"] = container["securityContext"] | more
    return spec


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (hardened() | {"hostNetwork": True, "hostPID": True}, "host namespaces (hostNetwork=true, hostPID=true)"),
        (hardened() | {"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}, "restricted volume types (v)"),
        (hardened() | {"securityContext": {"runAsUser": 0}}, "runAsUser=0 (pod must not set runAsUser=0)"),
        (both(hardened(), runAsUser=0), "runAsUser=0 (containers"),
        (both(hardened(), privileged=True), "privileged (containers"),
        (both(hardened(), runAsNonRoot=False), "runAsNonRoot != true (containers"),
        (both(hardened(), seccompProfile={"type": "Unconfined"}), "seccompProfile (containers"),
        (both(hardened(), capabilities={"drop": ["ALL"], "add": ["SYS_ADMIN"]}), "unrestricted capabilities"),
    ],
)
def test_each_way_out_of_a_container_is_a_violation(spec: Manifest, says: str) -> None:
    assert says in validation.restricted(spec)
    assert "" == validation.restricted(hardened())
