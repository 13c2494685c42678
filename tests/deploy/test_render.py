"""`evolvent deploy render` prints what kubectl would, with an operator's settings in it."""

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from evolvent.cli.deploy import manifests
from evolvent.errors import Refused
from evolvent.provision import ROLES
from tests.cli.shell import evolvent
from tests.kubernetes.test_kustomize import CUSTOM, OVERLAYS, rendered
from tests.kubernetes.test_manifests import VERSIONS

DIGEST = "registry.example/e@sha256:" + "a" * 64
OPTIONS = (
    *("--namespace", "lab", "--registry", "registry.example/team", "--tag", "0.1.0", "--image", f"engineer={DIGEST}"),
    *("--replicas", "analyzer=3", "--nats-url", "nats://bus.example:4222", "--nats-monitor", "bus.example:8222"),
    *("--qdrant-url", "none", "--pull-secret", "registry", "--gpu-node", "pool=gpu", "--set", "EVOLVENT_ACK_WAIT=20"),
)


def identity(found: dict[str, Any]) -> tuple[str, str, str]:
    return found["kind"], found["metadata"].get("namespace", ""), found["metadata"]["name"]


def render(*options: str) -> list[dict[str, Any]]:
    done = evolvent("deploy", "render", *options, cwd=Path())
    assert 0 == done.returncode, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@pytest.fixture(scope="module")
def mine() -> list[dict[str, Any]]:
    return render(*OPTIONS)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_without_settings_it_is_what_kubectl_renders(overlay: str) -> None:
    found = manifests(overlay)
    for each in found:
        if each["kind"] == "Deployment":
            assert {"evolvent/settings"} == set(each["spec"]["template"]["metadata"].pop("annotations"))
    assert sorted(rendered(overlay), key=identity) == sorted(found, key=identity)


def test_a_changed_setting_makes_new_pods() -> None:
    def marks(settings: dict[str, str | None]) -> list[str]:
        found = [each for each in manifests("local", settings=settings) if each["kind"] == "Deployment"]
        return [each["spec"]["template"]["metadata"]["annotations"]["evolvent/settings"] for each in found]

    assert [] == [one for one, other in zip(marks({}), marks({"EVOLVENT_ACK_WAIT": "20"}), strict=True) if one == other]
    assert marks({}) == marks({})


@pytest.mark.parametrize("version", VERSIONS)
def test_with_settings_it_is_valid_in_every_supported_version(mine: list[dict[str, Any]], version: str) -> None:
    for found in mine:
        if (found["apiVersion"], found["kind"]) not in CUSTOM:
            assert version == kubernetes_validate.validate(found, version, strict=True)


def test_every_object_moves_into_the_given_namespaces(mine: list[dict[str, Any]]) -> None:
    assert {"lab", "lab-experiments"} == {each["metadata"]["name"] for each in mine if each["kind"] == "Namespace"}
    assert {"lab", "lab-experiments"} == {each["metadata"].get("namespace", "lab") for each in mine}
    assert "evolvent.svc" not in str(mine)
    assert "evolvent-experiments" not in str(mine)
    (config,) = [each["data"] for each in render("--namespace", "lab") if "evolvent-settings" == identity(each)[2]]
    assert "nats://nats.lab.svc.cluster.local:4222" == config["EVOLVENT_EXPERIMENT_NATS_URL"]
    (binding,) = [each for each in mine if each["kind"] == "RoleBinding"]
    assert "lab" == binding["subjects"][0]["namespace"]


def test_images_come_from_the_registry_or_by_digest(mine: list[dict[str, Any]]) -> None:
    used = {
        each["metadata"]["name"].removeprefix("evolvent-"): each["spec"]["template"]["spec"]["containers"][0]["image"]
        for each in mine
        if each["kind"] in ("Deployment", "Job")
    }
    wanted = {role: f"registry.example/team/evolvent-{role}:0.1.0" for role in ROLES} | {"engineer": DIGEST}
    assert wanted | {"provision": wanted["conductor"]} == used


def test_settings_are_told_to_the_roles(mine: list[dict[str, Any]]) -> None:
    (config,) = [each["data"] for each in mine if each["metadata"]["name"] == "evolvent-settings"]
    assert "nats://bus.example:4222" == config["EVOLVENT_NATS_URL"] == config["EVOLVENT_EXPERIMENT_NATS_URL"]
    assert "EVOLVENT_COGNITION_QDRANT_URL" not in config
    assert '{"pool": "gpu"}' == config["EVOLVENT_EXPERIMENT_NODE_SELECTOR"]
    assert "20" == config["EVOLVENT_ACK_WAIT"]
    assert "registry.example/team/evolvent-experiment:0.1.0" == config["EVOLVENT_EXPERIMENT_IMAGE"]
    (flavor,) = [each for each in mine if each["kind"] == "ResourceFlavor"]
    assert {"pool": "gpu"} == flavor["spec"]["nodeLabels"]


def test_the_scaler_asks_the_server_that_the_roles_use(mine: list[dict[str, Any]]) -> None:
    triggers = [each for one in mine if one["kind"] == "ScaledObject" for each in one["spec"]["triggers"]]
    assert {"bus.example:8222"} == {each["metadata"]["natsServerMonitoringEndpoint"] for each in triggers}


def test_every_pod_has_the_secret_that_pulls_its_image(mine: list[dict[str, Any]]) -> None:
    accounts = {identity(each)[1:]: each for each in mine if each["kind"] == "ServiceAccount"}
    assert ("lab-experiments", "experiment") in accounts
    assert ROLES == tuple(role for role in ROLES if ("lab", f"evolvent-{role}") in accounts)
    (provision,) = [each["spec"]["template"]["spec"] for each in mine if each["kind"] == "Job"]
    pulled = [{"name": "registry"}]
    assert all(pulled == each.get("imagePullSecrets") for each in (*accounts.values(), provision))


def test_replicas_are_the_fewest_where_a_scaler_counts_and_all_where_none_does(mine: list[dict[str, Any]]) -> None:
    (scaled,) = [each for each in mine if ("ScaledObject", "evolvent-analyzer") == identity(each)[::2]]
    assert (3, 8) == (scaled["spec"]["minReplicaCount"], scaled["spec"]["maxReplicaCount"])
    local = {identity(each)[::2]: each for each in manifests("local", replicas={"analyzer": "3"})}
    assert 3 == local["Deployment", "evolvent-analyzer"]["spec"]["replicas"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--overlay", "moon"), "there is no overlay 'moon'; there is cluster, local"),
        (("--replicas", "analyst=2"), "ROLE=NUMBER"),
        (("--replicas", "analyzer=many"), "ROLE=NUMBER"),
        (("--image", "gateway=x"), "there is no image 'gateway'"),
        (("--set", "ACK_WAIT=2"), "they begin with EVOLVENT_"),
        (("--replicas", "analyzer=0"), "without one there are none"),
        (("--gpu-node", "gpu"), "--gpu-node takes NAME=VALUE"),
        (("--namespace", "Lab"), "--namespace takes"),
        (("--namespace", "x" * 52), "--namespace takes"),
        (("--tag", "bad tag"), "cannot name an image"),
        (("--image", "engineer=e@sha256:abc"), "cannot name an image"),
        (("--nats-url", "bus.example"), "begins with nats://"),
        (("--nats-url", "nats://bus.example"), "--nats-monitor"),
        (("--qdrant-url", "qdrant:6333"), "begins with http://"),
        (("--set", "EVOLVENT_NATS_URL=nats://bus"), "--nats-url"),
        (("--set", "EVOLVENT_MODEL_API_KEY=k"), "belongs into a Secret"),
        (("--tree", "nowhere"), "name the folder k8s/"),
    ],
)
def test_what_cannot_be_rendered_is_named(options: tuple[str, ...], said: str) -> None:
    done = evolvent("deploy", "render", *options, cwd=Path())
    assert (2, True) == (done.returncode, said in done.stderr), done.stderr


def test_what_the_renderer_does_not_know_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "overlays" / "mine"
    folder.mkdir(parents=True)
    (folder / "kustomization.yaml").write_text("namePrefix: my-\n")
    with pytest.raises(Refused, match="namePrefix"):
        manifests("mine", tree=tmp_path)
