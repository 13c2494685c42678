"""What an operator applies: every rendered object, held against published schemas and against each other."""

import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from evolvent import acl
from evolvent.provision import ROLES
from evolvent.settings import Settings
from evolvent_engineer.kubernetes.manifests import experiment_job
from evolvent_engineer.kubernetes.settings import ClusterSettings
from tests.kubernetes.fake import validation
from tests.kubernetes.test_manifests import TRAINING, VERSIONS, containers

K8S = Path(__file__).parents[2] / "k8s"
OVERLAYS = ("local", "cluster")
Manifest = dict[str, Any]


def closed(required: dict[str, Any], optional: dict[str, Any] | None = None) -> Manifest:
    """An object of exactly these fields."""
    properties = required | (optional or {})
    return {"type": "object", "required": list(required), "properties": properties, "additionalProperties": False}


STRING, WHOLE, QUANTITY = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": ["string", "integer"]}
TRIGGER = closed(
    {
        "natsServerMonitoringEndpoint": {"type": "string", "pattern": r"^[a-z0-9.-]+:\d+$"},
        "account": STRING,
        "stream": {"const": "LOG"},
        "consumer": {"enum": list(ROLES)},
        "lagThreshold": {"type": "string", "pattern": r"^\d+$"},
    },
    {"activationLagThreshold": {"type": "string", "pattern": r"^\d+$"}, "useHttps": {"enum": ["true", "false"]}},
)
SCALED_OBJECT = closed(
    {
        "scaleTargetRef": closed({"name": STRING}),
        "minReplicaCount": WHOLE,
        "maxReplicaCount": WHOLE,
        "triggers": {"type": "array", "items": closed({"type": {"const": "nats-jetstream"}, "metadata": TRIGGER})},
    },
    {"pollingInterval": WHOLE, "cooldownPeriod": WHOLE},
)
FLAVOR = closed({"name": STRING, "resources": {"items": closed({"name": STRING, "nominalQuota": QUANTITY})}})
CLUSTER_QUEUE = closed(
    {
        "namespaceSelector": {"type": "object"},
        "resourceGroups": {"items": closed({"coveredResources": {"items": STRING}, "flavors": {"items": FLAVOR}})},
    },
    {
        "queueingStrategy": {"enum": ["BestEffortFIFO", "StrictFIFO"]},
        "preemption": closed({}, {"withinClusterQueue": {"enum": ["Never", "LowerPriority"]}}),
    },
)
CUSTOM = {
    ("keda.sh/v1alpha1", "ScaledObject"): closed({"spec": SCALED_OBJECT}),
    ("kueue.x-k8s.io/v1beta2", "ClusterQueue"): closed({"spec": CLUSTER_QUEUE}),
    ("kueue.x-k8s.io/v1beta2", "LocalQueue"): closed({"spec": closed({"clusterQueue": STRING})}),
    ("kueue.x-k8s.io/v1beta2", "ResourceFlavor"): closed(
        {"spec": closed({}, {"nodeLabels": {"type": "object"}, "tolerations": {"type": "array"}})}
    ),
    ("kueue.x-k8s.io/v1beta2", "WorkloadPriorityClass"): closed({"value": WHOLE}, {"description": STRING}),
}
"""No published schema has these; the field names are those read off their sources (KEDA's scaler, Kueue's API)."""


@cache
def rendered(overlay: str) -> list[Manifest]:
    """What `kubectl kustomize` makes of an overlay."""
    try:
        shown = subprocess.run(
            ["kubectl", "kustomize", K8S / "overlays" / overlay], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        pytest.fail("these tests need kubectl: apt-get install kubernetes-client")
    assert 0 == shown.returncode, shown.stderr
    assert "" == shown.stderr  # deprecation warnings
    return list(yaml.safe_load_all(shown.stdout))


def of_kind(overlay: str, kind: str) -> list[Manifest]:
    return [found for found in rendered(overlay) if found["kind"] == kind]


def settings_map(overlay: str) -> Manifest:
    (found,) = [each for each in of_kind(overlay, "ConfigMap") if "evolvent-settings" == each["metadata"]["name"]]
    return found


def deployments(overlay: str) -> dict[str, Manifest]:
    return {
        found["metadata"]["labels"]["app.kubernetes.io/component"]: found for found in of_kind(overlay, "Deployment")
    }


def pod(deployment: Manifest) -> Manifest:
    found: Manifest = deployment["spec"]["template"]["spec"]
    return found


every_overlay = pytest.mark.parametrize("overlay", OVERLAYS)


@pytest.mark.parametrize("version", VERSIONS)
@every_overlay
def test_every_object_is_valid_in_every_supported_version(overlay: str, version: str) -> None:
    for found in rendered(overlay):
        key = (found["apiVersion"], found["kind"])
        if key in CUSTOM:
            body = {name: value for name, value in found.items() if name not in ("apiVersion", "kind", "metadata")}
            jsonschema.validate(body, CUSTOM[key])
        else:
            assert version == kubernetes_validate.validate(found, version, strict=True)


@every_overlay
def test_there_is_one_deployment_per_role(overlay: str) -> None:
    assert set(ROLES) == set(deployments(overlay))


@every_overlay
def test_every_role_is_probed_on_its_health_port(overlay: str) -> None:
    for role, found in deployments(overlay).items():
        (container,) = pod(found)["containers"]
        assert [{"name": "health", "containerPort": 8080}] == container["ports"], role
        paths = [container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness", "readiness")]
        assert ["/live", "/live", "/ready"] == paths


@every_overlay
def test_every_role_has_time_to_hand_back_what_is_in_work(overlay: str) -> None:
    for found in deployments(overlay).values():
        assert pod(found)["terminationGracePeriodSeconds"] >= Settings().ack_wait + 30


@every_overlay
def test_every_role_asks_for_what_it_needs_and_is_spread_over_nodes(overlay: str) -> None:
    for role, found in deployments(overlay).items():
        (container,) = pod(found)["containers"]
        assert {"cpu", "memory", "ephemeral-storage"} == set(container["resources"]["requests"])
        spread = {
            rule["topologyKey"]: rule["labelSelector"]["matchLabels"]
            for rule in pod(found)["topologySpreadConstraints"]
        }
        assert {"kubernetes.io/hostname", "topology.kubernetes.io/zone"} == set(spread)
        assert {role} == {labels["app.kubernetes.io/component"] for labels in spread.values()}


@every_overlay
def test_every_role_has_its_own_disruption_budget(overlay: str) -> None:
    budgets = {
        found["spec"]["selector"]["matchLabels"]["app.kubernetes.io/component"]: found
        for found in of_kind(overlay, "PodDisruptionBudget")
    }
    assert set(ROLES) == set(budgets)
    for role, found in deployments(overlay).items():
        assert budgets[role]["spec"]["selector"] == found["spec"]["selector"]


@every_overlay
def test_every_pod_passes_the_restricted_pod_security_that_both_namespaces_enforce(overlay: str) -> None:
    levels = [
        found["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] for found in of_kind(overlay, "Namespace")
    ]
    assert ["restricted", "restricted"] == levels
    for found in deployments(overlay).values():
        assert "" == validation.restricted(pod(found))


@every_overlay
def test_only_the_engineer_may_touch_jobs(overlay: str) -> None:
    assert [] == of_kind(overlay, "ClusterRole") + of_kind(overlay, "ClusterRoleBinding")
    (binding,), (role,) = of_kind(overlay, "RoleBinding"), of_kind(overlay, "Role")
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert "evolvent-experiments" == role["metadata"]["namespace"] == binding["metadata"]["namespace"]
    engineer = deployments(overlay)["engineer"]
    assert [("evolvent", pod(engineer)["serviceAccountName"])] == [
        (s["namespace"], s["name"]) for s in binding["subjects"]
    ]
    with_token = {name for name, found in deployments(overlay).items() if pod(found)["automountServiceAccountToken"]}
    assert {"engineer"} == with_token


@every_overlay
def test_rights_cover_exactly_what_the_client_asks(overlay: str) -> None:
    (role,) = of_kind(overlay, "Role")
    rights = {(rule["resources"][0], verb) for rule in role["rules"] for verb in rule["verbs"]}
    jobs = {("jobs", verb) for verb in ("create", "get", "list", "watch", "delete", "deletecollection")}
    assert jobs | {("pods", verb) for verb in ("get", "list", "watch")} == rights


@every_overlay
def test_both_namespaces_deny_all_traffic_by_default(overlay: str) -> None:
    policies = of_kind(overlay, "NetworkPolicy")
    denying = {
        found["metadata"]["namespace"]
        for found in policies
        if found["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    }
    assert {"evolvent", "evolvent-experiments"} == denying


@every_overlay
def test_an_experiment_reaches_the_log_and_names_and_nothing_else(overlay: str) -> None:
    policies = [
        found for found in of_kind(overlay, "NetworkPolicy") if found["metadata"]["namespace"] == "evolvent-experiments"
    ]
    rules = [rule for found in policies for rule in found["spec"].get("egress", [])]
    assert {4222, 53} == {port["port"] for rule in rules for port in rule["ports"]}
    assert not any("ipBlock" in peer for rule in rules for peer in rule["to"])


@every_overlay
def test_secrets_are_referred_to_and_never_rendered(overlay: str) -> None:
    assert [] == of_kind(overlay, "Secret")
    for found in deployments(overlay).values():
        (container,) = pod(found)["containers"]
        for item in container["env"]:
            assert "value" not in item
            assert "secretKeyRef" in item["valueFrom"] or item["name"] in ("ROLE", "EVOLVENT_NATS_USER")


@every_overlay
def test_every_role_is_its_own_user_on_the_bus(overlay: str) -> None:
    for role, found in deployments(overlay).items():
        (container,) = pod(found)["containers"]
        env = {item["name"]: item["valueFrom"] for item in container["env"]}
        assert {"name": "nats-passwords", "key": role} == env["EVOLVENT_NATS_PASSWORD"]["secretKeyRef"]
        assert "metadata.labels['app.kubernetes.io/component']" == env["EVOLVENT_NATS_USER"]["fieldRef"]["fieldPath"]


@every_overlay
def test_the_accounts_are_those_of_the_catalogue(overlay: str) -> None:
    """Written anew by: evolvent deploy accounts > k8s/base/platform/accounts.conf"""
    (found,) = [each for each in of_kind(overlay, "ConfigMap") if "nats-accounts" == each["metadata"]["name"]]
    assert acl.render() == found["data"]["accounts.conf"]


@pytest.mark.parametrize("values", ["nats.yaml", "nats-local.yaml"])
def test_nats_is_given_a_password_for_every_user(values: str) -> None:
    env = yaml.safe_load((K8S / "values" / values).read_text())["container"]["env"]
    given = {name: one["valueFrom"]["secretKeyRef"]["key"] for name, one in env.items() if "GOMEMLIMIT" != name}
    assert {acl.variable(user): user for user in acl.USERS} == given


@every_overlay
def test_streams_are_made_by_a_job_that_is_the_provisioner(overlay: str) -> None:
    (job,) = of_kind(overlay, "Job")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert ["evolvent", "deploy", "provision"] == container["command"]
    assert "provisioner" == container["env"][0]["value"]
    assert "" == validation.restricted(job["spec"]["template"]["spec"])


@every_overlay
def test_every_setting_of_an_experiment_is_one_the_engineer_knows(
    overlay: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = settings_map(overlay)
    prefix = "EVOLVENT_EXPERIMENT_"
    given = {key: value for key, value in found["data"].items() if key.startswith(prefix)}
    assert {key.removeprefix(prefix).lower() for key in given} <= set(ClusterSettings.model_fields)
    secrets = {item["name"] for item in pod(deployments(overlay)["engineer"])["containers"][0]["env"]}
    assert {"EVOLVENT_EXPERIMENT_SIGNING_SECRET"} == {name for name in secrets if name.startswith(prefix)}
    monkeypatch.setenv("EVOLVENT_EXPERIMENT_SIGNING_SECRET", "x" * 64)
    for key, value in given.items():
        monkeypatch.setenv(key, value)
    settings = ClusterSettings()
    assert "evolvent-experiments" == settings.namespace
    assert ("gvisor" if overlay == "cluster" else None) == settings.runtime_class


def test_every_role_follows_the_lag_of_its_own_consumer() -> None:
    scaled = {found["spec"]["scaleTargetRef"]["name"]: found["spec"] for found in of_kind("cluster", "ScaledObject")}
    wanted = {f"evolvent-{role}": role for role in ROLES}
    assert wanted == {name: spec["triggers"][0]["metadata"]["consumer"] for name, spec in scaled.items()}
    assert set(scaled) == {found["metadata"]["name"] for found in of_kind("cluster", "Deployment")}


def test_nobody_but_the_scaler_counts_replicas_in_a_cluster() -> None:
    assert not any("replicas" in found["spec"] for found in of_kind("cluster", "Deployment"))
    assert {1} == {found["spec"]["replicas"] for found in of_kind("local", "Deployment")}


def test_the_queue_covers_every_resource_that_an_experiment_asks_for() -> None:
    """Kueue admits no workload that asks for a resource its queue does not cover."""
    asked = {name for box in containers(experiment_job(*TRAINING)).values() for name in box["resources"]["requests"]}
    (queue,) = of_kind("cluster", "ClusterQueue")
    (group,) = queue["spec"]["resourceGroups"]
    assert asked == set(group["coveredResources"]) == {r["name"] for r in group["flavors"][0]["resources"]}


def test_the_log_is_kept_three_times_and_synced_before_it_is_acknowledged() -> None:
    values = yaml.safe_load((K8S / "values" / "nats.yaml").read_text())
    config = values["config"]
    assert {"enabled": True, "replicas": 3} == config["cluster"]
    assert "always" == config["jetstream"]["merge"]["sync_interval"]
    settings = settings_map("cluster")
    assert "3" == settings["data"]["EVOLVENT_REPLICAS"]


def test_the_log_may_not_outgrow_its_disk() -> None:
    """A stream that fills the disk stops the server; one that meets its own limit stops its writers."""
    values = yaml.safe_load((K8S / "values" / "nats.yaml").read_text())
    size = values["config"]["jetstream"]["fileStore"]["pvc"]["size"]
    settings = settings_map("cluster")
    assert int(settings["data"]["EVOLVENT_LOG_MAX_BYTES"]) <= 0.8 * int(size.removesuffix("Gi")) * 2**30


def test_vectors_are_kept_by_three_servers_behind_a_key() -> None:
    values = yaml.safe_load((K8S / "values" / "qdrant.yaml").read_text())
    assert (3, True) == (values["replicaCount"], values["config"]["cluster"]["enabled"])
    assert "secretKeyRef" in values["env"][0]["valueFrom"]
