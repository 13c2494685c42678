"""As much of kustomize as `k8s/` uses, so that rendering needs no other program; kubectl renders the same.

Known: resources, components, namespace, nameSuffix, labels, images, patches (JSON 6902), configMapGenerator. Anything
else is refused, and never left out in silence.
"""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from evolvent.errors import Refused

Manifest = dict[str, Any]
KNOWN = {"apiVersion", "kind", "resources", "components", "namespace", "nameSuffix", "labels", "images", "patches"}
GENERATORS = {"configMapGenerator", "generatorOptions"}
UNNAMESPACED = {
    "Namespace", "PriorityClass", "RuntimeClass", "ClusterQueue", "ResourceFlavor", "WorkloadPriorityClass"
}  # fmt: skip


def build(folder: Path) -> list[Manifest]:
    """Render a folder that holds a kustomization.

    Raises:
        Refused: it cannot be read, or it uses what is not known here.
    """
    try:
        return _build(folder, [])
    except (OSError, yaml.YAMLError, KeyError) as error:
        raise Refused(f"{folder} cannot be rendered: {error!r}") from error


def _build(folder: Path, found: list[Manifest]) -> list[Manifest]:
    """Render a folder; a component changes what was `found` before it."""
    plan = yaml.safe_load((folder / "kustomization.yaml").read_text())
    if unknown := set(plan) - KNOWN - GENERATORS:
        raise Refused(f"{folder}/kustomization.yaml uses {', '.join(sorted(unknown))}, which is not known here")
    for name in plan.get("resources", []):
        place = folder / name
        found = found + (_build(place, []) if place.is_dir() else _documents(place))
    found = found + [_config_map(folder, each) for each in plan.get("configMapGenerator", [])]
    for name in plan.get("components", []):
        found = _build(folder / name, found)
    _transform(found, plan)
    return found


def _documents(path: Path) -> list[Manifest]:
    return [found for found in yaml.safe_load_all(path.read_text()) if found]


def _config_map(folder: Path, plan: Manifest) -> Manifest:
    data = dict(line.split("=", 1) for line in plan.get("literals", []))
    data |= {name: (folder / name).read_text() for name in plan.get("files", [])}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": plan["name"]}, "data": data}


def _transform(found: list[Manifest], plan: Manifest) -> None:
    for patch in plan.get("patches", []):
        for each in filter(lambda each: _meant(each, patch["target"]), found):
            _patch(each, yaml.safe_load(patch["patch"]))
    for each in found:
        if "namespace" in plan and each["kind"] not in UNNAMESPACED:
            each["metadata"]["namespace"] = plan["namespace"]
        for labels in plan.get("labels", []):
            _label(each, labels["pairs"], selectors=labels.get("includeSelectors", False))
    _rename(found, plan.get("nameSuffix", ""))
    for image in plan.get("images", []):
        _pin(found, image)


def _pin(found: list[Manifest], image: Manifest) -> None:
    for container in containers(found):
        if container["image"].partition(":")[0] == image["name"]:
            container["image"] = f"{image.get('newName', image['name'])}:{image['newTag']}"


def containers(found: list[Manifest]) -> Iterator[Manifest]:
    """Go through the containers of every pod template."""
    for each in found:
        template = each.get("spec", {}).get("template") if each["kind"] in {"Deployment", "Job"} else None
        yield from template["spec"]["containers"] if template else ()


def _meant(each: Manifest, target: Manifest) -> bool:
    name, _, value = target.get("labelSelector", "").partition("=")
    labels = each["metadata"].get("labels", {})
    return (
        target.get("kind", each["kind"]) == each["kind"]
        and target.get("name", each["metadata"]["name"]) == each["metadata"]["name"]
        and (not name or labels.get(name) == value)
    )


def _patch(each: Manifest, operations: list[Manifest]) -> None:
    """Apply a JSON patch of `add`, `replace` and `remove` (RFC 6902)."""
    for operation in operations:
        *way, last = (part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:])
        place: Any = each
        for part in way:
            place = place[int(part)] if isinstance(place, list) else place[part]
        match operation["op"]:
            case "add" if isinstance(place, list):
                place.insert(len(place) if last == "-" else int(last), copy.deepcopy(operation["value"]))
            case "add" | "replace":
                place[last] = copy.deepcopy(operation["value"])
            case "remove":
                del place[last]
            case other:
                raise Refused(f"the patch operation {other!r} is not known here")


def _label(each: Manifest, pairs: dict[str, str], *, selectors: bool) -> None:
    each["metadata"].setdefault("labels", {}).update(pairs)
    if not selectors:
        return
    spec = each.get("spec", {})
    if each["kind"] in {"Deployment", "PodDisruptionBudget"}:
        spec["selector"]["matchLabels"].update(pairs)
    if each["kind"] == "Deployment":
        spec["template"]["metadata"]["labels"].update(pairs)
        for rule in spec["template"]["spec"].get("topologySpreadConstraints", []):
            rule["labelSelector"]["matchLabels"].update(pairs)


def _rename(found: list[Manifest], suffix: str) -> None:
    """Add the suffix to every name but one with a namespace of its own, and follow the service account."""
    accounts = {each["metadata"]["name"] for each in found if each["kind"] == "ServiceAccount"}
    for each in found:
        each["metadata"]["name"] += suffix
        if each["kind"] == "Deployment" and each["spec"]["template"]["spec"]["serviceAccountName"] in accounts:
            each["spec"]["template"]["spec"]["serviceAccountName"] += suffix
        if each["kind"] == "RoleBinding":
            each["roleRef"]["name"] += suffix
