"""What the engineer asks of a cluster, whole."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from evolvent.errors import Refused
from evolvent_engineer.kubernetes.identity import Identity
from evolvent_engineer.kubernetes.manifests import experiment_job, identity_of, peer_policy
from evolvent_engineer.kubernetes.settings import ClusterSettings, Order
from tests.kubernetes.orders import SECRET, order, settings

EXPECTED = Path(__file__).parent / "expected"
VERSIONS = ("1.31", "1.34", "1.36", "1.37")
"""Minor versions whose published schemas every manifest is held against, unknown fields refused."""
PLAIN = (order(), settings())
TRAINING = (
    order(42, run="r7k2", attempt=1, kind="training", settings={"gpus": 2, "cpus": 8, "pods": 4}),
    settings(
        queue="experiments",
        queue_priority="explore",
        priority_class="explore",
        node_selector={"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"},
        tolerations=({"key": "research", "operator": "Exists"},),
    ),
)
BARE = (order(), settings(runtime_class=None, user_namespaces=False))
CASES = {"plain": PLAIN, "training": TRAINING, "bare": BARE}


def containers(job: dict[str, Any]) -> dict[str, dict[str, Any]]:
    pod = job["spec"]["template"]["spec"]
    return {container["name"]: container for container in pod["initContainers"] + pod["containers"]}


def mounts(job: dict[str, Any], name: str) -> set[str]:
    return {mount["name"] for mount in containers(job)[name]["volumeMounts"]}


@pytest.mark.parametrize("name", ["plain", "training"])
def test_the_job_is_exactly_this(name: str) -> None:
    assert yaml.safe_load((EXPECTED / f"{name}.yaml").read_text()) == experiment_job(*CASES[name])


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", CASES)
def test_the_job_is_valid_in_every_supported_version(name: str, version: str) -> None:
    assert version == kubernetes_validate.validate(experiment_job(*CASES[name]), version, strict=True)


@pytest.mark.parametrize("name", CASES)
def test_requests_equal_limits(name: str) -> None:
    for container in containers(experiment_job(*CASES[name])).values():
        assert container["resources"]["requests"] == container["resources"]["limits"]


@pytest.mark.parametrize("name", CASES)
def test_evaluator_and_candidate_share_nothing_but_a_socket_in_memory(name: str) -> None:
    job = experiment_job(*CASES[name])
    assert {"socket"} == mounts(job, "evaluator") & mounts(job, "candidate")
    volumes = {volume["name"]: volume for volume in job["spec"]["template"]["spec"]["volumes"]}
    assert "Memory" == volumes["socket"]["emptyDir"]["medium"]


def test_the_candidate_sees_neither_key_nor_task_nor_seed() -> None:
    candidate = containers(experiment_job(*TRAINING))["candidate"]
    assert {"socket", "candidate-tmp", "candidate-shm"} == mounts(experiment_job(*TRAINING), "candidate")
    group = {f"EVOLVENT_{name}" for name in ("PODS", "GROUP_SECONDS", "GROUP_HOST", "GROUP_PORT")}
    known = {"EVOLVENT_SPEC", "EVOLVENT_PROFILE", "EVOLVENT_SANDBOX"}
    assert known | group == {item["name"] for item in candidate["env"]}
    alone = containers(experiment_job(*PLAIN))["candidate"]
    assert known == {item["name"] for item in alone["env"]}


def test_only_the_evaluator_has_the_key_and_no_annotation_repeats_it() -> None:
    job = experiment_job(*PLAIN)
    key = PLAIN[0].key
    assert {"evaluator"} == {name for name, box in containers(job).items() if key in str(box)}
    assert key not in str(job["metadata"])
    assert key not in repr(PLAIN[0])


@pytest.mark.parametrize(
    ("more", "tier"),
    [({}, "T3"), ({"runtime_class": None}, "T2"), ({"runtime_class": "kata"}, "T2"), ({"sandbox": "T2"}, "T2")],
)
def test_the_sandbox_within_is_what_the_runtime_can_give(more: dict[str, Any], tier: str) -> None:
    found = containers(experiment_job(order(), settings(**more)))
    for name in ("evaluator", "candidate"):
        assert {"name": "EVOLVENT_SANDBOX", "value": tier} in found[name]["env"]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_policy_of_a_job_of_several_pods_is_valid_in_every_supported_version(version: str) -> None:
    job = experiment_job(*TRAINING)
    job["metadata"]["uid"] = "7"
    assert version == kubernetes_validate.validate(peer_policy(job), version, strict=True)


def test_the_policy_lets_the_pods_of_one_job_reach_each_other_and_is_owned_by_it() -> None:
    job = experiment_job(*TRAINING)
    job["metadata"]["uid"] = "7"
    name, peers = job["metadata"]["name"], {"podSelector": {"matchLabels": {"batch.kubernetes.io/controller-uid": "7"}}}
    assert {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {
            "name": f"{name}-7",
            "namespace": "evolvent-experiments",
            "labels": {"app.kubernetes.io/name": "experiment", "app.kubernetes.io/managed-by": "evolvent-engineer"},
            "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": "7"}],
        },
        "spec": {
            **peers,
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [peers]}],
            "egress": [{"to": [peers]}],
        },
    } == peer_policy(job)


@given(st.integers(2, 10**6))
def test_the_host_name_of_every_pod_of_several_is_a_dns_label(pods: int) -> None:
    identity = Identity("r" * 26, "h999999999.9999", "s" * 26, 2**63 - 1, 99)
    assert len(f"{identity.name}-{pods - 1}") <= 63


def test_only_the_candidate_has_a_gpu() -> None:
    found = {
        name
        for name, box in containers(experiment_job(*TRAINING)).items()
        if "nvidia.com/gpu" in box["resources"]["limits"]
    }
    assert {"candidate"} == found


@pytest.mark.parametrize("name", CASES)
def test_every_container_is_locked_down(name: str) -> None:
    job = experiment_job(*CASES[name])
    pod = job["spec"]["template"]["spec"]
    assert (False, True) == (pod["automountServiceAccountToken"], pod["securityContext"]["runAsNonRoot"])
    assert "RuntimeDefault" == pod["securityContext"]["seccompProfile"]["type"]
    for container in containers(job).values():
        context = container["securityContext"]
        assert (False, True) == (context["allowPrivilegeEscalation"], context["readOnlyRootFilesystem"])
        assert ["ALL"] == context["capabilities"]["drop"]


def test_the_manifest_is_as_locked_down_as_the_recorded_one() -> None:
    """What a real server took without a warning is a floor: our pods set each of those fields alike."""
    documents = yaml.safe_load_all((Path(__file__).parent / "recorded" / "hardened.yaml").read_text())
    floor = next(found for found in documents if found["kind"] == "Job")["spec"]["template"]["spec"]
    pod = experiment_job(*PLAIN)["spec"]["template"]["spec"]
    for key in ("restartPolicy", "automountServiceAccountToken", "enableServiceLinks", "hostUsers", "runtimeClassName"):
        assert floor[key] == pod[key], key
    assert floor["securityContext"] == pod["securityContext"]
    assert floor["containers"][0]["securityContext"] == pod["containers"][0]["securityContext"]


def test_equal_orders_give_equal_manifests_and_another_stage_another_digest() -> None:
    assert experiment_job(*PLAIN) == experiment_job(*PLAIN)
    first, second = experiment_job(*PLAIN), experiment_job(order(settings={"cpus": 2}), settings())
    assert first["metadata"]["name"] == second["metadata"]["name"]
    assert first["metadata"]["annotations"]["evolvent/order"] != second["metadata"]["annotations"]["evolvent/order"]


@pytest.mark.parametrize("value", [0, -1, 1.5, "2", True, None])
def test_a_stage_that_asks_for_no_whole_number_of_cpus_is_refused(value: Any) -> None:
    with pytest.raises(Refused, match="cpus"):
        experiment_job(order(settings={"cpus": value}), settings())


ids = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,24}[a-z0-9])?", fullmatch=True)
identities = st.builds(
    Identity,
    run=ids,
    candidate=st.from_regex(r"h?(0|[1-9][0-9]{0,8})\.(0|[1-9][0-9]{0,3})", fullmatch=True),
    stage=ids,
    seed=st.integers(0, 2**63 - 1),
    attempt=st.integers(0, 99),
)


@given(identities)
def test_a_name_is_a_dns_label_and_labels_lead_back(identity: Identity) -> None:
    plain: Order = PLAIN[0]
    job = experiment_job(replace(plain, identity=identity), settings())
    name = job["metadata"]["name"]
    assert len(name) <= 55
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert "-" not in (name[0], name[-1])
    assert all(len(value) <= 63 for value in job["metadata"]["labels"].values())
    assert identity == identity_of(job) == Identity.parse(str(identity))


@given(identities, identities)
def test_two_experiments_never_share_a_name(one: Identity, other: Identity) -> None:
    assert (one == other) == (one.name == other.name)


def test_labels_that_somebody_changed_belong_to_nobody() -> None:
    job = experiment_job(*PLAIN)
    job["metadata"]["labels"]["evolvent/seed"] = "many"
    assert None is identity_of(job)


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="runtimeClass"):
        ClusterSettings.model_validate({"image": "i", "runtimeClass": "gvisor"})


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVOLVENT_EXPERIMENT_IMAGE", "registry.example/e@sha256:1")
    monkeypatch.setenv("EVOLVENT_EXPERIMENT_SIGNING_SECRET", SECRET)
    monkeypatch.setenv("EVOLVENT_EXPERIMENT_NATS_URL", "nats://bus.example:4222")
    monkeypatch.setenv("EVOLVENT_EXPERIMENT_RUNTIME_CLASS", "none")
    monkeypatch.setenv("EVOLVENT_EXPERIMENT_NODE_SELECTOR", '{"gpu": "h100"}')
    found = ClusterSettings()
    assert ("registry.example/e@sha256:1", None, {"gpu": "h100"}) == (
        found.image,
        found.runtime_class,
        found.node_selector,
    )
