"""`evolvent deploy`: what an operator applies to a cluster, and the streams that it needs."""

import json
import re
import sys
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from evolvent import acl
from evolvent.cli.app import DEFAULT_HOME, Home, Json, app, console, emit, perform, settings_for
from evolvent.cli.cluster import REFERENCE
from evolvent.errors import Refused
from evolvent.platform import dial
from evolvent.provision import ROLES, provision
from evolvent_schemas.values import canonical, sha256

Manifest = dict[str, Any]
group = typer.Typer(help="Deploy on Kubernetes.", no_args_is_help=True)
app.add_typer(group, name="deploy")
SYSTEM, EXPERIMENTS = "evolvent", "evolvent-experiments"
"""The namespaces that the tree is written with."""
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,49}[a-z0-9])?")
"""What an RFC 1123 label of 63 characters leaves beside `-experiments`."""
_SECRET = ("PASSWORD", "SECRET", "TOKEN", "KEY")
Tree = Annotated[
    Path | None, typer.Option(help="The folder k8s/; the one that came with this installation if not set.")
]
Pairs = list[str] | None


@group.command()
def accounts() -> None:
    """Print who may publish what, for the configuration of nats-server; it holds no password."""
    sys.stdout.write(acl.render())


@group.command("provision")
def make_streams(home: Home = DEFAULT_HOME, as_json: Json = False) -> None:
    """Make the streams and consumers on the server that EVOLVENT_NATS_URL names, as its user `provisioner`."""

    async def work() -> None:
        settings = settings_for(home)
        async with dial(settings, "provision") as wire:
            changes = await provision(wire, settings)
        if as_json:
            emit({"changes": changes})
        else:
            console.print("\n".join(changes) or "everything is as it should be")

    perform(work())


@group.command()
def render(
    overlay: Annotated[str, typer.Option(help="cluster: GPUs, KEDA, Kueue; local: one machine.")] = "cluster",
    namespace: Annotated[
        str, typer.Option(help="Namespace of the roles; experiments get NAMESPACE-experiments.")
    ] = SYSTEM,
    registry: Annotated[str, typer.Option(help="Where the images are: registry.example/team.")] = "",
    tag: Annotated[str, typer.Option(help="Their tag.")] = "latest",
    image: Annotated[
        Pairs, typer.Option(help="One image otherwise, by digest: engineer=registry.example/e@sha256:…")
    ] = None,
    replicas: Annotated[
        Pairs, typer.Option(help="Replicas of a role, the fewest where KEDA counts: analyzer=2")
    ] = None,
    nats_url: Annotated[str | None, typer.Option(help="A NATS of your own.")] = None,
    nats_monitor: Annotated[
        str | None, typer.Option(help="Where KEDA asks that NATS what waits: nats.example:8222")
    ] = None,
    qdrant_url: Annotated[str | None, typer.Option(help="A Qdrant of your own; `none` for the embedded index.")] = None,
    gpu_node: Annotated[Pairs, typer.Option(help="Label of the nodes that experiments run on: pool=gpu")] = None,
    pull_secret: Annotated[str | None, typer.Option(help="Secret with which images are pulled.")] = None,
    setting: Annotated[Pairs, typer.Option("--set", help="Any other setting: EVOLVENT_ACK_WAIT=20")] = None,
    tree: Tree = None,
    as_json: Json = False,
) -> None:
    """Print the manifests for these settings; `kubectl apply -f -` takes them."""

    async def work() -> None:
        found = manifests(
            overlay,
            tree=tree,
            namespace=namespace,
            images=_images(registry, tag, _pairs("--image", image)),
            replicas=_pairs("--replicas", replicas),
            settings=_settings(nats_url, qdrant_url, gpu_node, setting),
            gpu_nodes=_pairs("--gpu-node", gpu_node),
            nats_monitor=nats_monitor,
            pull_secret=pull_secret,
        )
        if as_json:
            emit({"apiVersion": "v1", "kind": "List", "items": found})
        else:
            sys.stdout.write(_yaml(found))

    perform(work())


def manifests(
    overlay: str,
    *,
    tree: Path | None = None,
    namespace: str = SYSTEM,
    images: dict[str, str] | None = None,
    replicas: dict[str, str] | None = None,
    settings: dict[str, str | None] | None = None,
    gpu_nodes: dict[str, str] | None = None,
    nats_monitor: str | None = None,
    pull_secret: str | None = None,
) -> list[Manifest]:
    """Render an overlay of the tree for these settings; `images` are whole references by role, or `experiment`.

    Raises:
        Refused: there is no such overlay, role or tree, or a value is out of range.
    """
    if not _NAMESPACE.fullmatch(namespace):
        raise Refused(f"--namespace takes up to 51 small letters, digits and dashes, not {namespace!r}")
    found = _build(_tree(tree) / "overlays" / overlay)
    for role, number in (replicas or {}).items():
        _scale(found, role, number)
    _use_images(found, images or {})
    (config,) = (each["data"] for each in found if each["metadata"]["name"] == "evolvent-settings")
    for name, value in (settings or {}).items():
        config.pop(name, None) if value is None else config.update({name: value})
    _ask_elsewhere(found, nats_monitor, needed="EVOLVENT_NATS_URL" in (settings or {}))
    for each in found:
        if each["kind"] == "ResourceFlavor" and gpu_nodes:
            each["spec"]["nodeLabels"] = gpu_nodes
        if each["kind"] == "Deployment":  # so that a changed setting makes new pods
            each["spec"]["template"]["metadata"]["annotations"] = {"evolvent/settings": sha256(canonical(config))}
        if pull_secret and each["kind"] in {"ServiceAccount", "Job"}:
            pods = each if each["kind"] == "ServiceAccount" else each["spec"]["template"]["spec"]
            pods["imagePullSecrets"] = [{"name": pull_secret}]
    return found if namespace == SYSTEM else [_moved(each, "", namespace) for each in found]


def _build(folder: Path) -> list[Manifest]:
    if not folder.is_dir():
        known = ", ".join(sorted(each.name for each in folder.parent.iterdir())) if folder.parent.is_dir() else "none"
        raise Refused(f"there is no overlay {folder.name!r}; there is {known}")
    try:
        from evolvent.cli import kustomize
    except ImportError as error:
        raise Refused("rendering needs PyYAML: `pip install 'evolvent[kubernetes]'`") from error
    return kustomize.build(folder)


def _yaml(found: list[Manifest]) -> str:
    import yaml

    return str(yaml.safe_dump_all(found, sort_keys=False, width=120))


def _tree(given: Path | None) -> Path:
    package = Path(__file__).parents[1]
    places = [given] if given else [package / "k8s", package.parent / "k8s"]
    for place in places:
        if (place / "overlays").is_dir():
            return place
    raise Refused(f"there is no {places[-1]}/overlays; name the folder k8s/ of a checkout with --tree")


def _pairs(option: str, given: list[str] | None) -> dict[str, str]:
    found = dict(each.partition("=")[::2] for each in given or [])
    if bad := [name for name, value in found.items() if not name or not value]:
        raise Refused(f"{option} takes NAME=VALUE, not {bad[0]!r}")
    return found


def _images(registry: str, tag: str, one: dict[str, str]) -> dict[str, str]:
    prefix = registry.rstrip("/") + "/" if registry else ""
    names = (*ROLES, acl.EXPERIMENT)
    if unknown := set(one) - set(names):
        raise Refused(f"there is no image {min(unknown)!r}; there are {', '.join(names)}")
    found = {name: f"{prefix}evolvent-{name}:{tag}" for name in names} | one
    if wrong := [image for image in found.values() if not REFERENCE.fullmatch(image)]:
        raise Refused(f"{wrong[0]!r} cannot name an image: HOST/TEAM/NAME:TAG, or NAME@sha256: and 64 digits")
    return found


def _settings(
    nats: str | None, qdrant: str | None, gpu_node: list[str] | None, more: list[str] | None
) -> dict[str, str | None]:
    found: dict[str, str | None] = dict(_pairs("--set", more))
    if wrong := [name for name in found if not name.startswith("EVOLVENT_")]:
        raise Refused(f"{wrong[0]!r} is no setting: they begin with EVOLVENT_")
    if secret := [name for name in found if name.endswith(_SECRET)]:
        raise Refused(f"{secret[0]} belongs into a Secret, of which k8s/README.md has a list")
    if "EVOLVENT_NATS_URL" in found:
        raise Refused("experiments need EVOLVENT_NATS_URL too: name it with --nats-url")
    if nats is not None:
        url = _url("--nats-url", nats, "nats", "tls")
        found |= {"EVOLVENT_NATS_URL": url, "EVOLVENT_EXPERIMENT_NATS_URL": url}
    if qdrant is not None:
        found["EVOLVENT_COGNITION_QDRANT_URL"] = (
            None if qdrant == "none" else _url("--qdrant-url", qdrant, "http", "https")
        )
    if gpu_node:
        found["EVOLVENT_EXPERIMENT_NODE_SELECTOR"] = json.dumps(_pairs("--gpu-node", gpu_node))
    return found


def _url(option: str, url: str, *schemes: str) -> str:
    if urlsplit(url).scheme not in schemes:
        raise Refused(f"{option} begins with {'://, or '.join(schemes)}://, not {url!r}")
    return url


def _scale(found: list[Manifest], role: str, number: str) -> None:
    if role not in ROLES or not number.isdecimal():
        raise Refused(f"--replicas takes ROLE=NUMBER with a role of {', '.join(ROLES)}, not {role}={number}")
    count, name = int(number), f"evolvent-{role}"
    mine = {each["kind"]: each["spec"] for each in found if each["metadata"]["name"] == name and "spec" in each}
    if (scaled := mine.get("ScaledObject")) is not None:
        scaled["minReplicaCount"] = count
        scaled["maxReplicaCount"] = max(count, scaled["maxReplicaCount"])
        if not count:
            raise Refused(f"--replicas {role}=0: how many there are while a run is open; without one there are none")
    else:
        mine["Deployment"]["replicas"] = count


def _ask_elsewhere(found: list[Manifest], monitor: str | None, *, needed: bool) -> None:
    """Let the scaler ask the server that the roles use."""
    triggers = [each["metadata"] for one in found if one["kind"] == "ScaledObject" for each in one["spec"]["triggers"]]
    if triggers and needed and monitor is None:
        raise Refused("KEDA must ask your NATS what waits, or no role wakes: add --nats-monitor HOST:8222")
    for trigger in triggers if monitor else ():
        trigger["natsServerMonitoringEndpoint"] = monitor


def _use_images(found: list[Manifest], images: dict[str, str]) -> None:
    from evolvent.cli.kustomize import containers

    for container in containers(found):
        role = container["image"].partition(":")[0].removeprefix("evolvent-")
        container["image"] = images.get(role, container["image"])
    for each in found:
        if each["kind"] == "ConfigMap" and acl.EXPERIMENT in images and "EVOLVENT_EXPERIMENT_IMAGE" in each["data"]:
            each["data"]["EVOLVENT_EXPERIMENT_IMAGE"] = images[acl.EXPERIMENT]


def _moved(value: Any, key: str, namespace: str) -> Any:
    """Follow the namespaces wherever they are named: in metadata, selectors, settings and addresses."""
    if isinstance(value, dict):
        own = value["metadata"] | {"name": _other(value["metadata"]["name"], namespace)} if (
            value.get("kind") == "Namespace"
        ) else None  # fmt: skip
        moved = {name: _moved(each, name, namespace) for name, each in value.items()}
        return moved | {"metadata": own} if own else moved
    if isinstance(value, list):
        return [_moved(each, key, namespace) for each in value]
    if isinstance(value, str):
        if key in {"namespace", "kubernetes.io/metadata.name", "EVOLVENT_EXPERIMENT_NAMESPACE"}:
            return _other(value, namespace)
        return value.replace(f".{SYSTEM}.svc", f".{namespace}.svc")
    return value


def _other(name: str, namespace: str) -> str:
    return {SYSTEM: namespace, EXPERIMENTS: f"{namespace}-experiments"}.get(name, name)
