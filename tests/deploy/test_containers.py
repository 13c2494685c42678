"""Containers get what their manifests grant, and the Secrets they need are the ones an operator is told to make."""

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from evolvent.cli.deploy import manifests
from evolvent_engineer.kubernetes.manifests import experiment_job
from tests.deploy.containers import arguments, resolve
from tests.kubernetes.orders import NAMESPACE, order, settings

ROOT = Path(__file__).parents[2]
Manifest = dict[str, Any]


def documented() -> dict[str, set[str]]:
    """Read the keys of each Secret from the table of k8s/README.md; a user's name stands for the keys of them all."""
    rows = re.findall(r"^\| `([a-z-]+)` \| (.+?) \|", (ROOT / "k8s" / "README.md").read_text(), re.MULTILINE)
    return {name: set(re.findall(r"`([a-z.-]+)`", keys)) for name, keys in rows}


def pods(overlay: str = "local") -> list[Manifest]:
    """Every pod of ours: the roles', the provisioner's, an experiment's."""
    found = [each for each in manifests(overlay) if each["kind"] in {"Deployment", "Job"}]
    named = [(each["metadata"], each["spec"]["template"]) for each in found]
    job = experiment_job(order(), settings())
    named.append(({"name": "experiment", "namespace": NAMESPACE}, job["spec"]["template"]))
    return [
        template | {"metadata": template["metadata"] | {"name": where["name"], "namespace": where["namespace"]}}
        for where, template in named
    ]


def containers(pod: Manifest) -> list[Manifest]:
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def config() -> dict[tuple[str, str, str], dict[str, str]]:
    found = [each for each in manifests("local") if each["kind"] == "ConfigMap"]
    return {("ConfigMap", each["metadata"]["namespace"], each["metadata"]["name"]): each["data"] for each in found}


def secrets(pod: Manifest) -> list[tuple[str, str | None]]:
    """Name the Secrets that a pod uses, with the key where one is asked for."""
    sources = [item["valueFrom"] for each in containers(pod) for item in each["env"] if "valueFrom" in item]
    keys = [source["secretKeyRef"] for source in sources if "secretKeyRef" in source]
    volumes = [volume["secret"]["secretName"] for volume in pod["spec"]["volumes"] if "secret" in volume]
    return [*((one["name"], one["key"]) for one in keys), *((name, None) for name in volumes)]


@pytest.mark.parametrize("pod", pods(), ids=lambda pod: pod["metadata"]["name"])
def test_a_container_is_granted_nothing_beyond_its_manifest(pod: Manifest, tmp_path: Path) -> None:
    known = config() | {("Secret", "evolvent", name): dict.fromkeys(keys, "s") for name, keys in documented().items()}
    known["Secret", "evolvent", "nats-passwords"] = {secret[1] or "": "s" for secret in secrets(pod)}
    for container in containers(pod):
        words = arguments(pod, container, tmp_path, known)
        assert {"--read-only", "--read-only-tmpfs=false"} <= set(words)
        assert ("all", "no-new-privileges") == (after(words, "--cap-drop"), after(words, "--security-opt"))
        assert after(words, "--user") in {"65532:65532", "65533:65533"}
        assert not {"--privileged", "--cap-add", "--device", "--pid"} & set(words)
        mounted = {word.split(":")[1] for flag, word in pairwise(words) if "--volume" == flag}
        assert {mount["mountPath"] for mount in container["volumeMounts"]} == mounted


def after(words: list[str], flag: str) -> str:
    return words[words.index(flag) + 1]


def test_what_is_named_goes_before_what_comes_as_a_whole() -> None:
    (pod,) = [pod for pod in pods() if "evolvent-conductor" == pod["metadata"]["name"]]
    (container,) = containers(pod)
    known = config() | {("Secret", "evolvent", "nats-passwords"): {"conductor": "p1"}}
    known["ConfigMap", "evolvent", "evolvent-settings"]["EVOLVENT_NATS_USER"] = "somebody"
    found = resolve(pod, container, known)
    assert ("conductor", "p1") == (found["EVOLVENT_NATS_USER"], found["EVOLVENT_NATS_PASSWORD"])


@pytest.mark.parametrize("pod", pods("cluster"), ids=lambda pod: pod["metadata"]["name"])
def test_every_secret_of_a_pod_is_one_that_an_operator_is_told_to_make(pod: Manifest) -> None:
    table = documented()
    for name, key in secrets(pod):
        assert name in table
        assert key is None or name == "nats-passwords" or key in table[name]
