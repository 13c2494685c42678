"""What an operator applies: every rendered object, held against published schemas and against each other."""

import posixpath
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from evolvent import acl
from evolvent.provision import OPEN_RUNS, ROLES
from evolvent.settings import Settings
from evolvent_engineer.kubernetes.manifests import experiment_job
from evolvent_engineer.kubernetes.settings import ClusterSettings
from tests.kubernetes.fake import validation
from tests.kubernetes.test_manifests import TRAINING, VERSIONS, containers

K8S = Path(__file__).parents[2] / "k8s"
CRDS = Path(__file__).parent / "recorded" / "crds"
OVERLAYS = ("local", "cluster")
Manifest = dict[str, Any]


def closed(schema: Manifest) -> Manifest:
    """As the API server holds it under `fieldValidation=Strict`: no object has a field that its schema leaves out."""
    known = {name: closed(value) for name, value in schema.get("properties", {}).items()}
    shut = {"properties": known, "additionalProperties": False} if known else {}
    items = {"items": closed(schema["items"])} if "items" in schema else {}
    return schema | shut | items


def custom(group: str, version: str) -> dict[tuple[str, str], Manifest]:
    """The schemas of a group's kinds, by what an object names them."""
    kinds = yaml.safe_load((CRDS / f"{group.partition('.')[0]}.yaml").read_text())
    return {(f"{group}/{version}", kind): closed(schema) for kind, schema in kinds.items()}


CUSTOM = custom("keda.sh", "v1alpha1") | custom("kueue.x-k8s.io", "v1beta2")


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
def test_a_role_may_take_minutes_to_start_and_half_a_minute_without_a_tick(overlay: str) -> None:
    """One that replays a long log on a busy node would else be killed before it is done, and again."""
    for found in deployments(overlay).values():
        (container,) = pod(found)["containers"]
        probes = (container["startupProbe"], container["livenessProbe"])
        startup, liveness = (each["periodSeconds"] * each["failureThreshold"] for each in probes)
        assert (startup >= 120, liveness >= 30) == (True, True)


@every_overlay
def test_a_new_replica_is_ready_before_an_old_one_is_stopped(overlay: str) -> None:
    wanted = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}
    assert all(wanted == found["spec"]["strategy"] for found in deployments(overlay).values())


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
        assert 1 == budgets[role]["spec"]["maxUnavailable"]


@every_overlay
def test_every_pod_passes_the_restricted_pod_security_that_both_namespaces_enforce(overlay: str) -> None:
    levels = [
        found["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] for found in of_kind(overlay, "Namespace")
    ]
    assert ["restricted", "restricted"] == levels
    for found in deployments(overlay).values():
        assert "" == validation.restricted(pod(found))


@every_overlay
def test_the_pods_of_one_experiment_have_names_before_they_are_ready(overlay: str) -> None:
    (service,) = [
        found for found in of_kind(overlay, "Service") if found["metadata"]["namespace"] == "evolvent-experiments"
    ]
    template = experiment_job(*TRAINING)["spec"]["template"]
    assert ("None", True) == (service["spec"]["clusterIP"], service["spec"]["publishNotReadyAddresses"])
    assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
    assert service["metadata"]["name"] == template["spec"]["subdomain"]


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


@pytest.mark.parametrize("values", ["nats.yaml", "nats-local.yaml"])
def test_nats_is_given_its_accounts_beside_the_volumes_of_its_chart(values: str) -> None:
    """The chart's `merge` puts a list in the place of its own; only `patch` appends to it."""
    given = yaml.safe_load((K8S / "values" / values).read_text())
    patches = given["container"]["patch"] + given["podTemplate"]["patch"]
    added = {change["path"]: (change["op"], change["value"]) for change in patches}
    mount = {"name": "accounts", "mountPath": "/etc/nats-config/auth", "readOnly": True}
    assert {
        "/volumeMounts/-": ("add", mount),
        "/spec/volumes/-": ("add", {"name": "accounts", "configMap": {"name": "nats-accounts"}}),
    } == added
    merged = given["podTemplate"]["merge"]["spec"].keys() | given["container"]["merge"].keys()
    assert set() == merged & {"volumes", "volumeMounts", "containers", "env", "ports", "args"}
    included = posixpath.normpath(f"/etc/nats-config/{given['config']['merge']['$include']}")
    assert f"{mount['mountPath']}/accounts.conf" == included


@pytest.mark.parametrize("values", ["nats.yaml", "nats-local.yaml"])
def test_every_container_of_nats_passes_the_restricted_pod_security(values: str) -> None:
    """One that does not keeps the whole pod from being made; the chart itself restricts none of them."""
    given = yaml.safe_load((K8S / "values" / values).read_text())
    enabled = {"container", "reloader"} | ({"promExporter"} if "promExporter" in given else set())
    merged = [{"name": name} | given[name]["merge"] for name in sorted(enabled)]
    assert "" == validation.restricted(given["podTemplate"]["merge"]["spec"] | {"containers": merged})


@pytest.mark.parametrize("values", ["qdrant.yaml", "qdrant-local.yaml"])
def test_qdrant_passes_the_restricted_pod_security(values: str) -> None:
    given = yaml.safe_load((K8S / "values" / values).read_text())
    container = {"name": "qdrant", "securityContext": given["containerSecurityContext"]}
    assert "" == validation.restricted({"securityContext": given["podSecurityContext"], "containers": [container]})
    assert not given["updateVolumeFsOwnership"]  # its container would run as root


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


@pytest.mark.parametrize(
    "wrong",
    [
        {"spec": {"scaleTargetRef": {"name": "a"}, "triggers": [], "minReplicas": 1}},
        {"spec": {"scaleTargetRef": {"name": "a"}, "triggers": [{"type": "cron", "metadata": {"desired": 1}}]}},
        {"spec": {"triggers": []}},
    ],
    ids=["unknown field", "number for a string", "missing field"],
)
def test_a_custom_resource_that_its_api_server_would_refuse_is_refused(wrong: Manifest) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, CUSTOM["keda.sh/v1alpha1", "ScaledObject"])


def test_a_trigger_says_what_the_scaler_reads_and_nothing_else() -> None:
    """KEDA ignores what it does not know, and a consumer that does not exist has the lag of the whole stream."""
    endpoints = set()
    for found in of_kind("cluster", "ScaledObject"):
        for trigger in found["spec"]["triggers"]:
            asked = dict(trigger["metadata"])
            assert "nats-jetstream" == trigger["type"]
            endpoints.add(asked.pop("natsServerMonitoringEndpoint"))
            assert ("EVOLVENT", "LOG") == (asked.pop("account"), asked.pop("stream"))
            assert asked.pop("consumer") in (*ROLES, "open-runs")
            assert {"lagThreshold", "activationLagThreshold", "useHttps"} == set(asked)
            assert int(asked["lagThreshold"]) > int(asked["activationLagThreshold"]) >= 0
    assert {"nats-headless.evolvent.svc.cluster.local:8222"} == endpoints


def test_every_role_follows_the_lag_of_its_own_consumer_and_the_runs_that_are_open() -> None:
    scaled = {found["spec"]["scaleTargetRef"]["name"]: found["spec"] for found in of_kind("cluster", "ScaledObject")}
    consumers = {name: [each["metadata"]["consumer"] for each in spec["triggers"]] for name, spec in scaled.items()}
    assert {f"evolvent-{role}": [role, OPEN_RUNS] for role in ROLES} == consumers
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


def test_the_queue_is_told_of_what_the_guide_says_it_is() -> None:
    """A quota of none would keep every experiment waiting."""
    (queue,) = of_kind("cluster", "ClusterQueue")
    ((flavor,),) = [group["flavors"] for group in queue["spec"]["resourceGroups"]]
    told = {found["name"]: found["nominalQuota"] for found in flavor["resources"]}
    assert {"nvidia.com/gpu": 8, "cpu": 128, "memory": "1Ti", "ephemeral-storage": "1Ti"} == told
    guide = " ".join((K8S.parent / "docs" / "cluster.md").read_text().split())
    assert "Kueue is told of 8 GPUs, 128 CPUs, 1 TiB of memory and of disk" in guide


@pytest.mark.parametrize(
    ("values", "budget"), [("nats.yaml", {"enabled": True}), ("qdrant.yaml", {"enabled": True, "maxUnavailable": 1})]
)
def test_a_drain_takes_one_server_at_a_time_and_leaves_a_quorum(values: str, budget: Manifest) -> None:
    """The chart of NATS allows one pod to be away unless it is told otherwise."""
    assert budget == yaml.safe_load((K8S / "values" / values).read_text())["podDisruptionBudget"]


def test_the_log_is_kept_three_times_and_synced_before_it_is_acknowledged() -> None:
    values = yaml.safe_load((K8S / "values" / "nats.yaml").read_text())
    config = values["config"]
    assert (True, 3) == (config["cluster"]["enabled"], config["cluster"]["replicas"])
    assert "always" == config["jetstream"]["merge"]["sync_interval"]
    settings = settings_map("cluster")
    assert "3" == settings["data"]["EVOLVENT_REPLICAS"]


def test_the_log_may_not_outgrow_its_disk() -> None:
    """A stream that fills the disk stops the server; one that meets its own limit stops its writers."""
    values = yaml.safe_load((K8S / "values" / "nats.yaml").read_text())
    store = values["config"]["jetstream"]["fileStore"]
    disk, most = (int(size.removesuffix("Gi")) * 2**30 for size in (store["pvc"]["size"], store["maxSize"]))
    settings = settings_map("cluster")
    assert int(settings["data"]["EVOLVENT_LOG_MAX_BYTES"]) <= 0.8 * disk < most <= 0.9 * disk


def test_vectors_are_kept_by_three_servers_behind_a_key() -> None:
    values = yaml.safe_load((K8S / "values" / "qdrant.yaml").read_text())
    assert (3, True) == (values["replicaCount"], values["config"]["cluster"]["enabled"])
    assert "secretKeyRef" in values["env"][0]["valueFrom"]
