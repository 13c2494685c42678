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
    *("--replicas", "analyzer=3", "--nats-url", "nats://bus.example:4222", "--qdrant-url", "none"),
    *("--gpu-node", "pool=gpu", "--set", "EVOLVENT_ACK_WAIT=20"),
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
    assert sorted(rendered(overlay), key=identity) == sorted(manifests(overlay), key=identity)


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
        (("--gpu-node", "gpu"), "--gpu-node takes NAME=VALUE"),
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
